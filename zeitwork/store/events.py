"""The journal of changes. Writes the table ``events``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import trio
from psycopg.types.json import Jsonb

from zeitwork.store.paging import check_limit
from zeitwork.store.rows import EventRow
from zeitwork.store.units import Cursor, Units

#: Times and seconds that a list waits for older transactions when it would have to leave events out.
_PATIENCE, _PAUSE = 10, 0.02

# An event may be listed once no transaction that could still commit a lower id is running.
_SETTLED = "xid < pg_snapshot_xmin(pg_current_snapshot())"


def record(
    cursor: Cursor,
    who: str,
    what: str,
    subject_kind: str,
    subject_id: UUID,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Append an event as a part of the transaction that makes the change, and announce it."""
    cursor.execute(
        "with event as (insert into events (who, what, subject_kind, subject_id, data) values (%s, %s, %s, %s, %s) "
        "returning id) select pg_notify('zw_events', id::text) from event",
        (who, what, subject_kind, subject_id, Jsonb(dict(data or {}))),
    )


def announce(cursor: Cursor, channel: str, identifier: UUID) -> None:
    """Tell the channel's listeners, once the transaction commits, that this row changed."""
    cursor.execute("select pg_notify(%s, %s)", (channel, str(identifier)))


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
            f"select *, {_SETTLED} as settled from events where id > %(after)s "
            f"and (%(subject)s::uuid is null or subject_id = %(subject)s) order by id {order} limit %(limit)s"
        )

        def unit(cursor: Cursor) -> tuple[list[dict[str, Any]], bool]:
            cursor.execute(query.encode(), {"after": after, "subject": subject, "limit": limit})
            rows = cursor.fetchall()
            settled = [row for row in rows if row["settled"]]
            if not newest and len(settled) < len(rows):
                # Nothing after the first unsettled one: a reader goes on from the last id it got.
                first = min(row["id"] for row in rows if not row["settled"])
                settled = [row for row in settled if row["id"] < first]
            return settled, len(settled) == len(rows)

        rows: list[dict[str, Any]] = []
        for _ in range(_PATIENCE):
            rows, complete = await self._units.read(unit, name="events.list")
            if complete:
                break
            # Transactions are short; the alternative is that a follower sees its event at the next hint only.
            await trio.sleep(_PAUSE)
        return tuple(event_row(row) for row in sorted(rows, key=lambda row: int(row["id"])))

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
