"""Where things are on a Debian machine. ``root`` is another directory in tests, so that these change no machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of the machine that setup reads and writes outside of the data directory."""

    root: Path = Path("/")

    def at(self, path: str | Path) -> Path:
        """Return an absolute path of the machine below ``root``."""
        return self.root / str(path).lstrip("/")

    @property
    def os_release(self) -> Path:
        """Names the distribution."""
        return self.at("/etc/os-release")

    @property
    def passwd(self) -> Path:
        """Users."""
        return self.at("/etc/passwd")

    @property
    def group(self) -> Path:
        """Groups."""
        return self.at("/etc/group")

    @property
    def package_lists(self) -> Path:
        """What apt knows about packages."""
        return self.at("/var/lib/apt/lists")

    @property
    def kvm(self) -> Path:
        """Hardware virtualisation."""
        return self.at("/dev/kvm")

    @property
    def tun(self) -> Path:
        """TAP devices are made through this."""
        return self.at("/dev/net/tun")

    @property
    def sysctl_file(self) -> Path:
        """Kernel settings that hold after a reboot."""
        return self.at("/etc/sysctl.d/60-zeitwork.conf")

    @property
    def modules_file(self) -> Path:
        """Kernel modules loaded at boot."""
        return self.at("/etc/modules-load.d/zeitwork.conf")

    @property
    def unit(self) -> Path:
        """The service."""
        return self.at("/etc/systemd/system/zeitwork.service")

    @property
    def unit_link(self) -> Path:
        """Exists when the service is enabled."""
        return self.at("/etc/systemd/system/multi-user.target.wants/zeitwork.service")

    @property
    def systemd(self) -> Path:
        """Exists when systemd runs the machine."""
        return self.at("/run/systemd/system")

    @property
    def ipv6_routes(self) -> Path:
        """Says which default routes came from router advertisements."""
        return self.at("/proc/net/ipv6_route")

    @property
    def processes(self) -> Path:
        """One directory for each process."""
        return self.at("/proc")

    def sysctl(self, key: str) -> Path:
        """Return the file behind a kernel setting given as ``net/ipv4/ip_forward``."""
        return self.at("/proc/sys") / key
