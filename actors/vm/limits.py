"""What a monitor and its guest may take of their host, and how that is said to the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from actors.vm.machine import Acceleration, MachineSpec

_MIB = 1024 * 1024
#: Microseconds over which a quota is counted.
_PERIOD = 100_000
#: A weight of one whole CPU: what a group gets that nobody weighed.
_SHARES, _WEIGHT = 1024, 100
_MOST_SHARES, _MOST_WEIGHT = 262_144, 10_000
#: CPUs that a monitor gets for its devices, beside those of its guest.
_DEVICES = 0.5
#: MiB beside the guest's memory, and the share of that for page tables and buffers on top. More than what is accounted
#: for a monitor: a limit is there for one that runs wild, and must never end one that does not.
_HEADROOM: Mapping[Acceleration, int] = MappingProxyType({Acceleration.KVM: 128, Acceleration.TCG: 384})
_HEADROOM_SHARE = 1 / 16
#: Threads beside those of the guest's CPUs: QEMU alone has up to 64 for its disks.
_THREADS = 128
#: Files and sockets that a monitor may have open, and the size in MiB of the largest file that it may always write:
#: a console that nobody rotates must end somewhere, and Firecracker's metrics (some MB a day) must have years.
_FILES, _LARGEST_FILE = 2048, 8192


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one monitor's cgroup. ``cpus`` is both its weight and, with room for devices, its most.

    ``memory`` in MiB, ``pids`` counts threads.
    """

    cpus: int
    quota: float
    memory: int
    pids: int

    @classmethod
    def of(cls, spec: MachineSpec, acceleration: Acceleration) -> Limits:
        """Return the limits for a machine. Pure."""
        return cls(
            cpus=spec.vcpu,
            quota=spec.vcpu + _DEVICES,
            memory=spec.memory + _HEADROOM[acceleration] + int(spec.memory * _HEADROOM_SHARE),
            pids=spec.vcpu + _THREADS,
        )

    def settings(self, *, unified: bool) -> tuple[Setting, ...]:
        """Return what to write, in order: for version 2 when ``unified``, else for version 1. Pure."""
        quota, memory = int(self.quota * _PERIOD), self.memory * _MIB
        if unified:
            return (
                Setting("cpu", "cpu.weight", str(min(_MOST_WEIGHT, self.cpus * _WEIGHT))),
                Setting("cpu", "cpu.max", f"{quota} {_PERIOD}"),
                Setting("memory", "memory.max", str(memory)),
                Setting("memory", "memory.oom.group", "1"),
                Setting("pids", "pids.max", str(self.pids)),
            )
        return (
            Setting("cpu", "cpu.shares", str(min(_MOST_SHARES, self.cpus * _SHARES))),
            Setting("cpu", "cpu.cfs_period_us", str(_PERIOD)),
            Setting("cpu", "cpu.cfs_quota_us", str(quota)),
            Setting("memory", "memory.limit_in_bytes", str(memory)),
            Setting("pids", "pids.max", str(self.pids)),
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """One line for one file of a group; ``controller`` is whose."""

    controller: str
    file: str
    value: str


#: Controllers that limits need.
CONTROLLERS = ("cpu", "memory", "pids")


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """``setrlimit`` of a monitor: ``files`` open at once, ``file_size`` bytes of its largest file."""

    files: int
    file_size: int

    @classmethod
    def of(cls, spec: MachineSpec) -> ResourceLimits:
        """Return the limits for a machine: room for its largest drive and for a snapshot of its memory. Blocking."""
        sizes = [_LARGEST_FILE * _MIB, 2 * spec.memory * _MIB]
        for drive in spec.drives:
            if not drive.read_only:
                try:
                    sizes.append(drive.path.stat().st_size)
                except OSError:
                    continue  # the monitor says it better
        return cls(_FILES, max(sizes))
