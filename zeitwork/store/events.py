"""The journal of changes. Writes the table ``events``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from zeitwork.store.rows import EventRow
from zeitwork.store.units import Units


class Events:
    """Who did what to what. Every change of state appends here in its own transaction."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def append(
        self, who: str, what: str, subject_kind: str, subject_id: UUID, data: Mapping[str, Any] | None = None
    ) -> None:
        """Append an event that belongs to no other change."""
        raise NotImplementedError

    async def list(
        self, *, after: int = 0, limit: int = 100, subject: UUID | None = None, newest: bool = False
    ) -> tuple[EventRow, ...]:
        """Return events with an id above ``after``, oldest first; with ``newest`` the last ``limit`` of them.

        Ids appear in order: once an event was returned, none with a lower id will come later.
        """
        raise NotImplementedError

    async def prune(self, *, keep_seconds: float, keep_rows: int) -> int:
        """Delete events that are older than ``keep_seconds`` or beyond the newest ``keep_rows``; return how many."""
        raise NotImplementedError
