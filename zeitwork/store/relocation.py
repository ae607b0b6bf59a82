"""What is on hosts that are dead or are to be emptied, and what becomes of it."""

from __future__ import annotations

from actors.scheduler.store import Displaced, Moved
from zeitwork.store.cursor import Cursor


def displaced(cursor: Cursor) -> tuple[Displaced, ...]:
    """Return placements that have to be decided about because of their nodes."""
    raise NotImplementedError


def apply(cursor: Cursor, moves: tuple[Moved, ...]) -> int:
    """Carry out moves whose instance, placement and node are still as they were seen; return how many."""
    raise NotImplementedError
