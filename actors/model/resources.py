"""What an instance asks for and what a host has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resources:
    """A reservation: ``vcpu`` whole virtual CPUs, ``memory`` MiB for the guest, ``disk`` MiB for its writable layer."""

    vcpu: int
    memory: int
    disk: int = 1024


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a host can give to guests, before any placement.

    ``vcpu`` and ``memory`` (MiB) are after the system reserve and before overcommit. ``vcpu_total`` is what this
    process may use (affinity and cgroup quota, fractions rounded down but at least 1), ``memory_total`` what the
    kernel or the tightest cgroup limit allows. ``memory_overhead`` (MiB) is added to each placement for its VMM.
    """

    vcpu_total: int
    memory_total: int
    vcpu_reserved: int
    memory_reserved: int
    vcpu_overcommit: float
    memory_overcommit: float
    memory_overhead: int

    @property
    def vcpu(self) -> int:
        """Virtual CPUs that placements may hold together: (total - reserved) x overcommit, rounded down."""
        return int(max(0, self.vcpu_total - self.vcpu_reserved) * self.vcpu_overcommit)

    @property
    def memory(self) -> int:
        """MiB that placements (overhead included) may hold together."""
        return int(max(0, self.memory_total - self.memory_reserved) * self.memory_overcommit)
