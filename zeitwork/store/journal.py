"""What a unit of work tells others: events for the journal and notifications for listeners.

Both are kept until the end of the unit and written in one statement. The journal's lock is so the last one that any
transaction takes (no deadlock can come of it), and it is held until the commit: ids appear in the order of commits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from zeitwork.store.arrays import texts, uuids
from zeitwork.store.cursor import Cursor, NewEvent

_TELL = """
select zw_tell(array(select jsonb_array_elements_text(%s)), array(select jsonb_array_elements_text(%s)),
    array(select jsonb_array_elements_text(%s)), %s::uuid[], array(select jsonb_array_elements(%s)),
    array(select jsonb_array_elements_text(%s)), array(select jsonb_array_elements_text(%s)))
"""


def record(
    cursor: Cursor,
    who: str,
    what: str,
    subject_kind: str,
    subject_id: UUID,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Append an event as a part of the transaction that makes the change, and announce it.

    One of a leader's transaction has its ``epoch``: who follows an instance across hosts sees which leader decided.
    """
    told = {} if cursor.epoch is None else {"epoch": cursor.epoch}
    cursor.new_events.append(NewEvent(who, what, subject_kind, subject_id, told | dict(data or {})))


def announce(cursor: Cursor, channel: str, identifier: UUID) -> None:
    """Tell the channel's listeners, once the transaction commits, that this row changed."""
    cursor.notices[channel, str(identifier)] = None


def flush(cursor: Cursor) -> None:
    """Write what the unit has recorded and announced. Nothing may be locked after this."""
    if not cursor.new_events and not cursor.notices:
        return
    events, notices = cursor.new_events, list(cursor.notices)
    cursor.execute(
        _TELL,
        (
            texts(event.who for event in events),
            texts(event.what for event in events),
            texts(event.subject_kind for event in events),
            uuids(event.subject_id for event in events),
            Jsonb([event.data for event in events]),
            texts(channel for channel, _ in notices),
            texts(payload for _, payload in notices),
        ),
    )
