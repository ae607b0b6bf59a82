"""What the resource monitor needs of storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from actors.model.resources import Capacity


@dataclass(frozen=True, slots=True)
class Usage:
    """What the machine uses: ``cpus`` with fractions, ``memory`` of ``memory_total`` in MiB."""

    cpus: float
    memory: int
    memory_total: int


class HistoryStore(Protocol):
    """Samples of resources."""

    async def record_sample(self, node_id: UUID, usage: Usage) -> None:
        """Write this minute's sample of a host, replacing an earlier one, and forget those that are a day old."""


class CapacityStore(Protocol):
    """What hosts say of their resources."""

    async def record_capacity(self, node_id: UUID, capacity: Capacity) -> None:
        """Write what the host can give. May be below what is placed: then free is zero, never negative."""

    async def closed(self, node_id: UUID) -> str:
        """Return why the host takes no new work, empty when it does."""

    async def record_closed(self, node_id: UUID, reason: str) -> None:
        """Write why the host takes no new work, or with an empty ``reason`` that it does again."""


class OverheadStore(Protocol):
    """What monitors of hosts' virtual machines take beside their guests' memory."""

    async def record_overhead(self, node_id: UUID, readings: Mapping[UUID, int], peaks: Mapping[str, int]) -> None:
        """Write the KiB that each placement's monitor takes, and the most that each hypervisor's were seen to need.

        What they take together beyond what their placements hold for it is not free any more. Placements that are
        gone count nothing.
        """


class ConditionStore(Protocol):
    """What the scheduler knows of hosts beside their capacity."""

    async def record_condition(self, node_id: UUID, hypervisor: str | None, pressure: float) -> None:
        """Write what runs guests on a host, None while that is not known, and how long its tasks wait for a CPU.

        ``pressure`` is the share of the last minute, 0 to 1.
        """
