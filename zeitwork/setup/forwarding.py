"""Packet forwarding: VMs are routed, so the kernel must forward for both families, and must do so after a reboot."""

from __future__ import annotations

from collections.abc import Mapping

from zeitwork.setup.layout import Layout

IPV4 = "net/ipv4/ip_forward"
IPV6 = "net/ipv6/conf/all/forwarding"
#: Directories whose files set kernel settings at boot, besides our own file.
FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")

_RTF_GATEWAY, _RTF_ADDRCONF = 0x2, 0x40000


def accept_ra(interface: str) -> str:
    """Return the setting that says whether an interface takes router advertisements (2: also when forwarding)."""
    return f"net/ipv6/conf/{interface}/accept_ra"


def parse_advertised(routes: str) -> tuple[str, ...]:
    """Return the interfaces in ``/proc/net/ipv6_route`` whose default route came from a router advertisement."""
    found = set()
    for line in routes.splitlines():
        fields = line.split()
        if len(fields) == 10 and fields[0] == "0" * 32 and fields[1] == "00":
            flags = int(fields[8], 16)
            if flags & _RTF_GATEWAY and flags & _RTF_ADDRCONF:
                found.add(fields[9])
    return tuple(sorted(found))


def advertised(layout: Layout) -> tuple[str, ...]:
    """Return the interfaces that have their IPv6 default route from a router advertisement now."""
    try:
        return parse_advertised(layout.ipv6_routes.read_text())
    except OSError:
        return ()


def uplinks(layout: Layout) -> tuple[str, ...]:
    """Return the interfaces that may live on router advertisements: real ones, those that do now, those to come."""
    real = {link.parent.name for link in layout.at("/sys/class/net").glob("*/device")}
    return ("default", *sorted(real | set(advertised(layout))))


def read(layout: Layout) -> dict[str, str]:
    """Return the settings that matter, as far as this kernel has them."""
    keys = (IPV4, IPV6, *(accept_ra(name) for name in uplinks(layout)))
    found = {}
    for key in keys:
        try:
            found[key] = layout.sysctl(key).read_text().strip()
        except OSError:
            continue  # IPv6 is not compiled in, or is off
    return found


def wanted(present: Mapping[str, str], written: str = "") -> tuple[tuple[str, str], ...]:
    """Return the settings that a host needs, in the order in which they must be made.

    ``written`` is our file as it is; what it says of other interfaces stays. A kernel that forwards IPv6 ignores
    router advertisements unless ``accept_ra`` is 2, and would lose its own addresses and default route when these
    expire: so those come before the forwarding itself.
    """
    values = dict(parse(written))
    if IPV6 in present:
        values |= {key: "2" for key, value in present.items() if key.endswith("/accept_ra") and value == "1"}
    values |= {key: "1" for key in (IPV4, IPV6) if key in present}
    return tuple(sorted(values.items(), key=lambda pair: (pair[0] in (IPV4, IPV6), pair[0])))


def render(values: tuple[tuple[str, str], ...]) -> str:
    """Return the file that keeps these settings. Slashes, because an interface's name may hold dots."""
    head = "# Written by zeitwork setup: VMs are routed. zeitwork setup --remove takes this file away.\n"
    return head + "".join(f"{key} = {value}\n" for key, value in values)


def parse(text: str) -> tuple[tuple[str, str], ...]:
    """Return the settings in a file that `render` wrote."""
    pairs = (line.partition(" = ") for line in text.splitlines() if not line.startswith("#"))
    return tuple((key, value) for key, separator, value in pairs if separator)


def set_elsewhere(layout: Layout, key: str, value: str) -> bool:
    """Whether another file sets this value too, so that it has to stay when ours goes."""
    names = {key, key.replace("/", ".")}
    files = [layout.at("/etc/sysctl.conf")]
    files += [file for folder in FOLDERS for file in layout.at(folder).glob("*.conf")]
    for file in files:
        if file == layout.sysctl_file:
            continue
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, text = line.partition("=")
            if name.strip().lstrip("-") in names and text.strip() == value:
                return True
    return False


def forwards_for_others(layout: Layout) -> str | None:
    """Return who else needs forwarding now (a container or VM bridge), None when nobody is seen."""
    for name in ("docker0", "virbr0", "lxcbr0", "lxdbr0", "incusbr0", "podman0", "cni0"):
        if layout.at(f"/sys/class/net/{name}").exists():
            return name
    return None
