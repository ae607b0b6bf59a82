"""Cursors of lists: opaque to callers, the last id of a page to us."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from actors.model.errors import InvalidInput
from zeitwork.store.rows import Page

T = TypeVar("T")

#: Rows that a page may have at most.
MAX_LIMIT = 1000
_FIRST = UUID(int=0)


def parse_cursor(cursor: str | None) -> UUID:
    """Return the id after which a page begins. Raises `InvalidInput`."""
    if cursor is None:
        return _FIRST
    try:
        return UUID(hex=cursor)
    except ValueError as error:
        raise InvalidInput("this cursor is not one that a list has returned", field="cursor") from error


def check_limit(limit: int) -> int:
    """Return ``limit``. Raises `InvalidInput` unless it is 1 to `MAX_LIMIT`."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"a page has 1 to {MAX_LIMIT} entries", field="limit")
    return limit


def page(rows: list[dict[str, Any]], limit: int, make: Callable[[dict[str, Any]], T]) -> Page[T]:
    """Return a page from up to ``limit`` + 1 rows that have an ``id``."""
    shown = rows[:limit]
    following = shown[-1]["id"].hex if len(rows) > limit else None
    return Page(tuple(make(row) for row in shown), following)
