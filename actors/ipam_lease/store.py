"""What the ipam-lease actor needs of storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Addresses of one family on one host. ``size`` counts what may be leased, ``resting`` was released lately."""

    family: int  # 4 or 6
    pool: str
    size: int
    leased: int
    resting: int


class LeaseStore(Protocol):
    """Leases of one host. They are acquired inside the placement's own transaction, not here."""

    async def usage(self, node_id: UUID) -> tuple[PoolUsage, ...]:
        """Return how full the host's pools are."""

    async def expire_rested(self, node_id: UUID) -> int:
        """Delete leases whose rest is over; return how many."""
