"""The journal: as pages, and as a server-sent stream that goes on where the client left off."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
import structlog
import trio
from starlette.types import ASGIApp

from actors.model.errors import InvalidInput, Problem
from zeitwork.api.call import Answer, Call
from zeitwork.api.decode import Input
from zeitwork.api.paging import Limit
from zeitwork.api.stream import Slots, Stream, Write

if TYPE_CHECKING:
    from zeitwork.store import Store
    from zeitwork.store.rows import EventRow

SSE = "text/event-stream"
#: Seconds of silence after which a comment is sent, so that proxies and clients see that the stream lives; the same
#: timer re-reads the journal, because a notification is only a hint.
HEARTBEAT_S = 15.0
#: Seconds to wait before the journal is read again after the database was away.
_AWAY_PAUSE_S = 2.0
_BATCH = 200

log = structlog.get_logger()

EventId = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
EventCursor = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}$(?!\n)", description="next_cursor of the page before")]


class InstanceEventQuery(Input):
    """Events with an id above ``after``; ``cursor`` is the same for those who turn pages."""

    after: EventId | None = None
    cursor: EventCursor | None = None
    limit: Limit = 100

    @property
    def start(self) -> int:
        """The id above which events are wanted."""
        if self.cursor is not None and self.after is not None:
            raise InvalidInput("after and cursor exclude each other", field="cursor", fix="leave one of them out")
        return int(self.cursor) if self.cursor is not None else self.after or 0


class EventQuery(InstanceEventQuery):
    """``subject`` keeps those about one object; ``newest`` returns the last ``limit`` of them."""

    subject: UUID | None = None
    newest: bool = False


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that changed: who did it, what it was, what it is about."""

    id: int
    at: datetime
    who: str
    what: str
    subject_kind: str
    subject_id: UUID
    data: dict[str, Any]


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Events, oldest first."""

    items: list[Event]
    next_cursor: str | None


def present(row: EventRow) -> Event:
    """Return an event as the API shows it."""
    return Event(
        id=row.id,
        at=row.at,
        who=row.who,
        what=row.what,
        subject_kind=row.subject_kind,
        subject_id=row.subject_id,
        data=row.data,
    )


def page_of(rows: Sequence[EventRow], limit: int) -> EventPage:
    """Return a page; a full one may have successors."""
    items = [present(row) for row in rows]
    return EventPage(items=items, next_cursor=str(items[-1].id) if len(items) == limit else None)


async def listing(call: Call) -> Answer | ASGIApp:
    """GET /api/v1/events."""
    query: EventQuery = call.query
    if SSE in call.request.headers.get("accept", ""):
        return await _stream(call, query)
    rows = await call.deps.store.events.list(
        after=query.start, limit=query.limit, subject=query.subject, newest=query.newest
    )
    return Answer(page_of(rows, query.limit))


async def _stream(call: Call, query: EventQuery) -> ASGIApp:
    store = call.deps.store
    after = await _where_to_begin(call, query)
    slots: Slots = call.request.app.state.slots

    async def produce(write: Write) -> None:
        await write(b": events follow\n\n")
        await _follow(store, after, query.subject, write)

    return Stream(produce, media_type=SSE, closing=call.closing, slots=slots)


async def _where_to_begin(call: Call, query: EventQuery) -> int:
    """Return the id after which to begin: what the client saw last, else what is newest now."""
    seen = call.request.headers.get("last-event-id")
    if seen is not None:
        if not (seen.isascii() and seen.isdigit() and len(seen) <= 18):
            raise InvalidInput("it is not the id of an event", field="Last-Event-ID", fix="send the last id received")
        return int(seen)
    if query.after is not None or query.cursor is not None:
        return query.start
    newest = await call.deps.store.events.list(limit=1, newest=True)
    return newest[-1].id if newest else 0


async def _follow(store: Store, after: int, subject: UUID | None, write: Write) -> None:
    with store.notifications.subscribe("zw_events") as hints:
        while True:
            try:
                rows = await store.events.list(after=after, limit=_BATCH, subject=subject)
            except Problem as problem:
                if problem.status != 503:
                    raise
                # The database is away: the stream stays, and goes on without a gap once it is back.
                log.warning("events can't be read for now", error=str(problem))
                await write(b": the database is away\n\n")
                await trio.sleep(_AWAY_PAUSE_S)
                continue
            for row in rows:
                await write(_frame(row))
            if rows:
                after = rows[-1].id
            if len(rows) == _BATCH:
                continue
            with trio.move_on_after(HEARTBEAT_S) as scope:
                await hints.wait()
            if scope.cancelled_caught:
                await write(b": still here\n\n")


def _frame(row: EventRow) -> bytes:
    # JSON holds no raw line ends, so one data line is enough.
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (row.id, row.what.encode(), msgspec.json.encode(present(row)))
