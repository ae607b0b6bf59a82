"""What a host may promise to guests: pure arithmetic over what was measured and what was configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from actors.model.resources import Capacity

#: MiB that the system keeps at least, and the share of all memory if that is more.
RESERVE_LEAST, RESERVE_SHARE = 512, 0.05
#: MiB that a virtual machine monitor needs beside its guest's memory.
OVERHEAD: Mapping[str, int] = MappingProxyType({"firecracker": 32, "qemu": 96})


@dataclass(frozen=True, slots=True)
class CapacityPolicy:
    """How much of a host is for guests. Memory in MiB; ``memory_reserved`` None means the default for its size."""

    vcpu_reserved: int = 0
    memory_reserved: int | None = None
    vcpu_overcommit: float = 4.0
    memory_overcommit: float = 1.0
    overhead: Mapping[str, int] = field(default_factory=lambda: OVERHEAD)


def default_reserve(memory_total: int) -> int:
    """Return the MiB that the system keeps: 512 or 5 %, whichever is more, but never above half."""
    return min(memory_total // 2, max(RESERVE_LEAST, int(memory_total * RESERVE_SHARE)))


def compute_capacity(cpus: float, memory_total: int, policy: CapacityPolicy, hypervisor: str | None) -> Capacity:
    """Return the capacity of a host with so many usable CPUs and so many MiB.

    ``hypervisor`` is what runs guests here; while that is not known, room is kept for the hungriest.
    """
    reserved = default_reserve(memory_total) if policy.memory_reserved is None else policy.memory_reserved
    most = max(policy.overhead.values(), default=0)
    vcpu_total = max(1, int(cpus))
    return Capacity(
        vcpu_total=vcpu_total,
        memory_total=memory_total,
        vcpu_reserved=min(policy.vcpu_reserved, vcpu_total),
        memory_reserved=min(reserved, memory_total),
        vcpu_overcommit=policy.vcpu_overcommit,
        memory_overcommit=policy.memory_overcommit,
        memory_overhead=most if hypervisor is None else policy.overhead.get(hypervisor, most),
    )
