"""What the host reconciler and its VMs need of storage."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol
from uuid import UUID

from actors.model.records import Observation, Placement, SnapshotMade
from actors.model.states import PlacementState


class PlacementStore(Protocol):
    """Placements of one host. Every method may raise `actors.model.errors.Unavailable` while Postgres is away."""

    async def placements(self, node_id: UUID) -> list[Placement]:
        """Return every placement of ``node_id`` that is not removed, wanted or not."""

    async def observe(self, placement_id: UUID, expected: Collection[PlacementState], observation: Observation) -> bool:
        """Compare-and-set a placement's observed state; the instance's follows in the same transaction.

        False when the placement's state is not in ``expected`` (someone else decided otherwise: re-read). Writing
        `PlacementState.REMOVED` frees its capacity and lets its addresses rest. Idempotent: observing what is
        already written answers True.
        """

    async def tombstones(self, node_id: UUID, placement_ids: Collection[UUID]) -> set[UUID]:
        """Return those of ``placement_ids`` that the database knows as removed: only these may be destroyed."""


class SnapshotStore(Protocol):
    """Snapshots of one host. Every method is idempotent and may raise `Unavailable` while Postgres is away."""

    async def taken(self, snapshot_id: UUID, made: SnapshotMade) -> bool:
        """Write that a snapshot is ready; False when nobody wants it any more: its files are to be removed."""

    async def failed(self, snapshot_id: UUID, reason: str) -> None:
        """Write that a snapshot could not be taken, with a sentence for people."""

    async def deleting(self, node_id: UUID, snapshot_ids: Collection[UUID]) -> set[UUID]:
        """Return what may be destroyed: of ``snapshot_ids`` (whose files are here) those that failed or are deleted,
        and every one of this host that is to be deleted, though no file of it be here: `removed` ends that.
        """

    async def removed(self, snapshot_id: UUID) -> None:
        """Write that nothing of a snapshot that was to be deleted is left on its host."""
