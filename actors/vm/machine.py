"""A virtual machine as every hypervisor sees it, and what a hypervisor must be able to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from uuid import UUID

import trio


class Acceleration(StrEnum):
    """How guest instructions run."""

    KVM = "kvm"
    TCG = "tcg"  # translated in software: any machine, an order of magnitude slower


@dataclass(frozen=True, slots=True)
class Drive:
    """A raw block device. The guest sees drives as vda, vdb, ... in the order they are given."""

    name: str
    path: Path
    read_only: bool


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card: an existing TAP device of the host and the guest's MAC address."""

    tap: str
    mac: str


@dataclass(frozen=True, slots=True)
class JailSpec:
    """Where a monitor that can be jailed is: directory ``base``, its own, and ``uid``, its user and group."""

    base: Path
    uid: int


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One virtual machine, whatever runs it.

    ``memory`` in MiB. ``cmdline`` is what every hypervisor passes on; each may add its own words. ``console`` is the
    file that collects the guest's serial output (append only), ``log`` the one with the monitor's own words. ``run``
    is a private directory for sockets and the PID file. ``cgroup`` is relative to the root of each hierarchy.
    ``identity`` is what a guest may ask the metadata service about itself, where there is one; never a secret.
    ``jail`` is for a monitor that can be jailed; another one ignores it. With ``restore`` the machine does not boot but
    goes on from the snapshot in that directory (see `Hypervisor.save`): everything else must be as it was when that was
    taken, but for paths, TAP and identity. ``agent``: there is a channel to an agent in the guest.
    """

    id: UUID
    vcpu: int
    memory: int
    kernel: Path
    initrd: Path | None
    cmdline: str
    drives: tuple[Drive, ...]
    nic: Nic | None
    console: Path
    log: Path
    run: Path
    cgroup: str
    identity: Mapping[str, str] = field(default_factory=dict)
    jail: JailSpec | None = None
    restore: Path | None = None
    agent: bool = True


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a monitor: its argument vector, the file that gets its standard output, and where it works.

    ``cwd`` is None for a monitor that does not care.
    """

    argv: tuple[str, ...]
    stdout: Path
    cwd: Path | None = None


class Hypervisor(Protocol):
    """A virtual machine monitor behind one interface.

    The process itself is not a hypervisor's business: it is spawned, adopted, awaited and killed in one way for all
    (`actors.vm.process`). Every method that talks to a monitor has a deadline and raises
    `actors.model.errors.Failed` or `Unavailable` with the monitor's own words.
    """

    @property
    def name(self) -> str:
        """``firecracker`` or ``qemu``."""

    @property
    def binary(self) -> Path:
        """The program that is started."""

    @property
    def programs(self) -> tuple[Path, ...]:
        """Every program that a start needs, `binary` among them."""

    @property
    def acceleration(self) -> Acceleration:
        """How its guests run."""

    async def version(self) -> str:
        """Return the program's version, for example ``1.12.1``. Raises `Unavailable` when it can't be run."""

    def prepare(self, spec: MachineSpec) -> None:
        """Make what its monitor needs before it is started. Blocking. Raises `Failed`; the caller cleans up."""

    def settle(self, spec: MachineSpec) -> None:
        """Let go of what it needed for its start only. Blocking; called whether or not the start succeeded."""

    def command(self, spec: MachineSpec) -> Command:
        """Return how to start a monitor for ``spec``."""

    async def boot(self, spec: MachineSpec) -> None:
        """Configure the monitor just spawned for ``spec`` and start its guest.

        Cancelling is safe: the caller ends the process. Raises `Failed` with the monitor's own words.
        """

    async def request_shutdown(self, run: Path, attempt: int) -> None:
        """Ask the guest of the monitor with run directory ``run`` to stop. Later attempts may try another way."""

    async def pause(self, run: Path) -> None:
        """Stop the guest's CPUs; nothing happens when they are stopped."""

    async def resume(self, run: Path) -> None:
        """Let the guest's CPUs go on; nothing happens when they run."""

    async def paused(self, run: Path) -> bool:
        """Return whether the guest's CPUs are stopped. An answer also proves that the monitor is alive."""

    async def save(self, run: Path, target: Path) -> None:
        """Write the state of a *paused* guest, its memory and devices, into files of the directory ``target``.

        ``target`` exists and is empty. The drives are not part of it. Raises `Failed`; the caller removes ``target``.
        """

    @property
    def lasting_channel(self) -> bool:
        """Whether the agent's channel is one stream that outlives connections, so that they begin with a preamble."""

    async def agent(self, run: Path, deadline: float) -> trio.SocketStream:
        """Connect to the agent in the guest (`actors.vm.agent.wire`) within ``deadline`` seconds. Raises `Failed`."""
