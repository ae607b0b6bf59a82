"""What the health actor needs of storage."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from actors.model.health import HealthState
from actors.model.records import Placement


class HealthStore(Protocol):
    """Placements of one host and how their apps are. Both methods may raise `Unavailable`."""

    async def placements(self, node_id: UUID) -> list[Placement]:
        """Return every placement of ``node_id`` that is not removed."""

    async def record_health(self, placement_id: UUID, state: HealthState, reason: str) -> bool:
        """Write a change, not a sample. False when the placement does not run any more: then nothing is written."""
