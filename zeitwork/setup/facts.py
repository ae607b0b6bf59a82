"""What is on the machine now. Reads only; everything that a plan depends on is here, so that planning is pure."""

from __future__ import annotations

import os
import platform
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zeitwork.setup import firecracker, forwarding, guest
from zeitwork.setup.apt import Apt, Simulation, lists_age
from zeitwork.setup.layout import Layout
from zeitwork.setup.needs import NEEDS
from zeitwork.setup.options import SetupOptions
from zeitwork.setup.tools import Tools


@dataclass(frozen=True, slots=True)
class Distribution:
    """Which Linux this is. ``family`` holds its id and those it descends from."""

    name: str
    family: frozenset[str]

    @property
    def debian(self) -> bool:
        """Whether it uses Debian's packages."""
        return "debian" in self.family


@dataclass(frozen=True, slots=True)
class Facts:
    """The state of the machine that a plan is computed from."""

    uid: int
    machine: str
    distribution: Distribution
    commands: Mapping[str, Path]
    static_busybox: Path | None
    dynamic_busybox: bool
    lists_age: float | None
    users: frozenset[str]
    groups: frozenset[str]
    directories: Mapping[Path, int]
    kernel: str | None
    hello: bool
    kvm: bool
    firecracker: str | None
    tun: bool
    sysctls: Mapping[str, str] = field(default_factory=dict)
    sysctl_file: str | None = None
    systemd: bool = False
    unit: str | None = None
    unit_enabled: bool = False
    jailer: str | None = None
    simulation: Simulation | None = None


def distribution(layout: Layout) -> Distribution:
    """Return which Linux this is; unknown when it does not say."""
    try:
        lines = layout.os_release.read_text().splitlines()
    except OSError:
        return Distribution("an unknown Linux", frozenset())
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    values = {key: value.strip("\"'") for key, value in values.items()}
    family = {values.get("ID", ""), *values.get("ID_LIKE", "").split()} - {""}
    return Distribution(values.get("PRETTY_NAME", values.get("ID", "an unknown Linux")), frozenset(family))


def names(file: Path) -> frozenset[str]:
    """Return the first fields of a passwd or group file."""
    try:
        return frozenset(line.split(":", 1)[0] for line in file.read_text().splitlines() if ":" in line)
    except OSError:
        return frozenset()


def is_static(path: Path | None) -> bool:
    """Whether a file is an ELF program that needs no interpreter, so that it runs alone in a VM."""
    if path is None:
        return False
    try:
        with path.open("rb") as file:
            header = file.read(64)
            if len(header) < 64 or header[:5] != b"\x7fELF\x02":
                return False
            offset, size, count = struct.unpack_from("<Q", header, 32)[0], *struct.unpack_from("<HH", header, 54)
            file.seek(offset)
            table = file.read(size * count)
    except OSError:
        return False
    kinds = {struct.unpack_from("<I", table, size * index)[0] for index in range(len(table) // size)} if size else set()
    return bool(kinds) and 3 not in kinds  # PT_INTERP


def modes(paths: tuple[Path, ...]) -> dict[Path, int]:
    """Return the permission bits of the directories that exist."""
    found = {}
    for path in paths:
        if path.is_dir():
            found[path] = path.stat().st_mode & 0o7777
    return found


def busybox(options: SetupOptions, tools: Tools) -> Path | None:
    """Return a static busybox, or None."""
    candidates = (options.busybox, options.layout.at("/bin/busybox"), tools.which("busybox"))
    return next((path for path in candidates if path is not None and is_static(path)), None)


def usable_firecracker(options: SetupOptions, tools: Tools) -> str | None:
    """Return which Firecracker a host here would use, None when there is none that it can."""
    if firecracker.is_ours(options.firecracker):
        return str(options.firecracker)
    found = tools.which("firecracker")
    return str(found) if found is not None and firecracker.accepted(firecracker.version_of(found, tools)) else None


def usable_jailer(options: SetupOptions, tools: Tools) -> str | None:
    """Return which jailer a host here would use: setup's, or the machine's own beside the Firecracker in use."""
    if firecracker.is_ours(options.jailer):
        return str(options.jailer)
    # The two belong together: beside ours, only the one of the same version.
    found = None if firecracker.is_ours(options.firecracker) else tools.which("jailer")
    return None if found is None else str(found)


def look(options: SetupOptions, tools: Tools) -> Facts:
    """Return the state of this machine. Changes nothing; takes well below a second."""
    layout = options.layout
    commands = {need.command: path for need in NEEDS if (path := tools.which(need.command)) is not None}
    linux = distribution(layout)
    static = busybox(options, tools)
    dynamic = static is None and tools.which("busybox") is not None
    missing = [need.package for need in NEEDS if need.command not in commands]
    if static is None and not dynamic:
        missing.append("busybox-static")
    age = lists_age(layout.package_lists, time.time())
    simulation = None
    if missing and linux.debian and age is not None and tools.which("apt-get"):
        simulation = Apt(tools, layout.package_lists).try_install(missing)
    # Root that may not open the device is in a container without it; another user is just not root.
    kvm = layout.kvm.exists() and (os.geteuid() != 0 or os.access(layout.kvm, os.R_OK | os.W_OK))
    return Facts(
        uid=os.geteuid(),
        machine=platform.machine(),
        distribution=linux,
        commands=commands,
        static_busybox=static,
        dynamic_busybox=dynamic,
        lists_age=age,
        users=names(layout.passwd),
        groups=names(layout.group),
        directories=modes(tuple(path for path, _ in directories(options))),
        kernel=guest.kernel_release(options),
        hello=options.hello.is_file(),
        kvm=kvm,
        firecracker=usable_firecracker(options, tools),
        tun=layout.tun.exists(),
        sysctls=forwarding.read(layout),
        sysctl_file=_text(layout.sysctl_file),
        systemd=layout.systemd.is_dir(),
        unit=_text(layout.unit),
        unit_enabled=layout.unit_link.is_symlink(),
        jailer=usable_jailer(options, tools),
        simulation=simulation,
    )


def directories(options: SetupOptions) -> tuple[tuple[Path, int], ...]:
    """Return the directories of a host and their modes: what holds apps' secrets is for root alone."""
    paths = options.paths
    shared = ((options.home, 0o755), (paths.bin, 0o755), (paths.guest, 0o755))
    if paths.assets is not None:  # the data is another's matter: the demo's goes with it
        return shared
    return (*shared, (paths.images, 0o755), (paths.spool, 0o700), (paths.placements, 0o700))


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
