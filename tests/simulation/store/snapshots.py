"""`actors.host.store.SnapshotStore` of a cluster that has no snapshots."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from actors.model.records import SnapshotMade
from tests.simulation.store.units import Units


class Snapshots:
    """Nobody wants any."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def taken(self, snapshot_id: UUID, made: SnapshotMade) -> bool:
        """Nobody wanted it."""
        return await self._units.run(lambda tx: False, name="snapshots.taken")

    async def failed(self, snapshot_id: UUID, reason: str) -> None:
        """Nobody asks why."""
        await self._units.run(lambda tx: None, name="snapshots.failed")

    async def deleting(self, node_id: UUID, snapshot_ids: Collection[UUID]) -> set[UUID]:
        """Nothing is to be destroyed. Not asked of the database, which the same reading has asked for placements."""
        return set()

    async def removed(self, snapshot_id: UUID) -> None:
        """Nobody is told."""
        await self._units.run(lambda tx: None, name="snapshots.removed")
