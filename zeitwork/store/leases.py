"""Addresses in use and at rest. Writes the table ``leases``."""

from __future__ import annotations

from uuid import UUID

from actors.ipam_lease.store import PoolUsage
from zeitwork.store.units import Units


class Leases:
    """`actors.ipam_lease.store.LeaseStore` on Postgres."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def usage(self, node_id: UUID) -> tuple[PoolUsage, ...]:
        """Return how full the host's pools are."""
        raise NotImplementedError

    async def expire_rested(self, node_id: UUID) -> int:
        """Delete leases whose rest is over; return how many."""
        raise NotImplementedError
