"""Which of an instance's placements speaks for it, and which keep its next generation from being placed."""

from __future__ import annotations

from uuid import UUID

from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.database import Transaction


def placements_of(tx: Transaction, instance_id: UUID) -> list[tables.Placement]:
    """Return an instance's placements, removed ones too, by generation."""
    found = [row for row in tx.database.placements if row.instance_id == instance_id]
    return sorted(found, key=lambda row: row.generation)


def live_placements(tx: Transaction, instance_id: UUID) -> list[tables.Placement]:
    """Return an instance's placements that are not removed, by generation."""
    return [row for row in placements_of(tx, instance_id) if row.live]


def current(tx: Transaction, instance: tables.Instance) -> tables.Placement | None:
    """Return the placement that speaks for an instance: the kept one first, else that of the newest generation.

    One that is lost and superseded is left out, unless no other may be beside it.
    """
    counting = [
        row
        for row in live_placements(tx, instance.id)
        if not row.lost or row.exclusive or row.generation >= instance.generation
    ]
    return max(counting, key=lambda row: (row.kept, row.generation), default=None)


def is_blocked(tx: Transaction, instance_id: UUID) -> bool:
    """Say whether a placement of the instance keeps its next generation from being placed."""
    if Bug.SINGLETON_TWICE in tx.bugs:
        return any(not row.kept and not row.lost for row in live_placements(tx, instance_id))
    return any(row.exclusive or not (row.kept or row.lost) for row in live_placements(tx, instance_id))
