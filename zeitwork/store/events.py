"""The journal of changes. Writes the table ``events``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from zeitwork.store.journal import record
from zeitwork.store.paging import check_limit
from zeitwork.store.rows import EventRow
from zeitwork.store.units import Cursor, Units


def event_row(row: Mapping[str, Any]) -> EventRow:
    """Return a row of the table as what is handed out."""
    return EventRow(
        id=row["id"],
        at=row["at"],
        who=row["who"],
        what=row["what"],
        subject_kind=row["subject_kind"],
        subject_id=row["subject_id"],
        data=row["data"],
    )


class Events:
    """Who did what to what. Every change of state appends here in its own transaction."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def append(
        self, who: str, what: str, subject_kind: str, subject_id: UUID, data: Mapping[str, Any] | None = None
    ) -> None:
        """Append an event that belongs to no other change."""

        def unit(cursor: Cursor) -> None:
            record(cursor, who, what, subject_kind, subject_id, data)

        await self._units.run(unit, name="events.append")

    async def list(
        self, *, after: int = 0, limit: int = 100, subject: UUID | None = None, newest: bool = False
    ) -> tuple[EventRow, ...]:
        """Return events with an id above ``after``, oldest first; with ``newest`` the last ``limit`` of them.

        Ids appear in order: once an event was returned, none with a lower id will come later.
        """
        check_limit(limit)
        order = "desc" if newest else "asc"
        query = (
            "select * from events where id > %(after)s and (%(subject)s::uuid is null or subject_id = %(subject)s) "
            f"order by id {order} limit %(limit)s"
        )

        def unit(cursor: Cursor) -> tuple[EventRow, ...]:
            cursor.execute(query.encode(), {"after": after, "subject": subject, "limit": limit})
            return tuple(sorted((event_row(row) for row in cursor), key=lambda event: event.id))

        return await self._units.read(unit, name="events.list")

    async def prune(self, *, keep_seconds: float, keep_rows: int) -> int:
        """Delete events that are older than ``keep_seconds`` or beyond the newest ``keep_rows``; return how many."""

        def unit(cursor: Cursor) -> int:
            cursor.execute(
                "delete from events where at < now() - make_interval(secs => %s) or id <= coalesce("
                "(select id from events order by id desc offset %s limit 1), 0)",
                (keep_seconds, keep_rows),
            )
            return cursor.rowcount

        return await self._units.run(unit, name="events.prune")
