"""Placements: one try of one instance on one host. Writes the table ``placements``."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from actors.model.records import Observation, Placement
from actors.model.states import PlacementState
from zeitwork.store.rows import PlacementRow
from zeitwork.store.units import Units


class Placements:
    """Placements; also `actors.host.store.PlacementStore`."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def get(self, placement_id: UUID) -> PlacementRow:
        """Return a placement, a removed one too. Raises `NotFound`."""
        raise NotImplementedError

    async def placements(self, node_id: UUID) -> list[Placement]:
        """Return every placement of ``node_id`` that is not removed, wanted or not."""
        raise NotImplementedError

    async def observe(self, placement_id: UUID, expected: Collection[PlacementState], observation: Observation) -> bool:
        """Compare-and-set a placement's observed state; the instance's follows in the same transaction."""
        raise NotImplementedError

    async def tombstones(self, node_id: UUID, placement_ids: Collection[UUID]) -> set[UUID]:
        """Return those of ``placement_ids`` that the database knows as removed: only these may be destroyed."""
        raise NotImplementedError
