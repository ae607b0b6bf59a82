"""What all virtual machines of a host share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from actors.model.paths import HostPaths
from actors.vm.agents import Agents
from actors.vm.console import ROTATE_AT
from actors.vm.firecracker import Firecracker
from actors.vm.guest import GuestImage
from actors.vm.jail import UID_BASE
from actors.vm.lifecycle import Limits
from actors.vm.machine import Acceleration, Hypervisor
from actors.vm.process import boot_id
from actors.vm.qemu import Qemu

#: Translated guests boot and halt an order of magnitude slower.
_LIMITS = {Acceleration.KVM: Limits(start=60.0, margin=5.0), Acceleration.TCG: Limits(start=120.0, margin=15.0)}


class HypervisorChoice:
    """Chooses once, when it is first needed, and keeps the answer. A failure is not kept: it may be mended."""

    def __init__(self, choose: Callable[[], Awaitable[Hypervisor]]) -> None:
        self._choose = choose
        self._lock = trio.Lock()
        self._chosen: Hypervisor | None = None

    @property
    def chosen(self) -> Hypervisor | None:
        """The answer, None while nobody needed it."""
        return self._chosen

    async def get(self) -> Hypervisor:
        """Return the hypervisor for new guests. Raises `Unavailable` with the reason when none can be used."""
        async with self._lock:
            if self._chosen is None:
                self._chosen = await self._choose()
            return self._chosen


def by_name(name: str, acceleration: str) -> Hypervisor:
    """Return a hypervisor to *control* a monitor that runs already; which binary started it no longer matters."""
    if name == "firecracker":
        return Firecracker(Path("firecracker"))
    return Qemu(Path("qemu-system-x86_64"), Acceleration(acceleration))


@dataclass(frozen=True)
class VmSettings:
    """Shared by the virtual machines of one host process.

    ``cgroup`` is the parent of their groups: it keeps two hosts on one machine apart. ``uid_base`` is
    the first user of jailed monitors. ``dns`` are the resolvers that
    guests are told. ``boots`` bounds how many guests boot at once under translation: no more than cores; ``starts``
    how many do where the CPU runs them itself. ``limits`` are the deadlines for each kind of acceleration, ``control``
    gives the hypervisor of a monitor that was found running.
    ``agents`` is where the links to their guests are found, ``pulse`` the seconds between heartbeats,
    ``console_limit`` the bytes of a console beyond which it is rotated. ``boot`` tells the present boot of the kernel.
    """

    paths: HostPaths
    cluster_id: str
    guest: GuestImage
    hypervisors: HypervisorChoice
    cgroup: str = "zeitwork"
    uid_base: int = UID_BASE
    dns: tuple[str, ...] = ()
    boots: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(2))
    starts: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(8))
    limits: Callable[[Acceleration], Limits] = _LIMITS.__getitem__
    control: Callable[[str, str], Hypervisor] = by_name
    agents: Agents = field(default_factory=Agents)
    pulse: float = 10.0
    console_limit: int = ROTATE_AT
    boot: Callable[[], str] = boot_id

    def slots(self, acceleration: Acceleration) -> trio.Semaphore:
        """Return what bounds the boots of guests that run like this."""
        return self.boots if acceleration is Acceleration.TCG else self.starts


def cgroup_parent(tag: str) -> str:
    """Return the parent cgroup of a host: ``zeitwork``, or ``zeitwork-TAG`` for another one on the same machine."""
    return f"zeitwork-{tag}" if tag else "zeitwork"
