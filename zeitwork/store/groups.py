"""Groups of instances. Writes the table ``instance_groups``."""

from __future__ import annotations

from actors.scheduler.store import GroupChange, GroupView
from zeitwork.store.cursor import Cursor


def views(cursor: Cursor) -> tuple[GroupView, ...]:
    """Return groups whose members are not what is wanted, in part or whole."""
    raise NotImplementedError


def apply(cursor: Cursor, changes: tuple[GroupChange, ...]) -> int:
    """Create and terminate members; return how many. A change of a group that was changed meanwhile is left out."""
    raise NotImplementedError
