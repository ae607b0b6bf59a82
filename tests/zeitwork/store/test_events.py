"""The journal: in order, without gaps for a follower, bounded."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg
import pytest
import trio

from actors.model.errors import InvalidInput
from tests.zeitwork.store.world import until
from zeitwork.store import Store
from zeitwork.store.journal import record
from zeitwork.store.units import Cursor


async def _append(store: Store, count: int, subject: UUID | None = None) -> None:
    for number in range(count):
        await store.events.append("test", "counted", "cluster", subject or uuid4(), {"number": number})


async def test_events_are_listed_from_where_one_was(store: Store) -> None:
    await _append(store, 5)
    first = await store.events.list(limit=2)
    rest = await store.events.list(after=first[-1].id)
    assert [event.data["number"] for event in (*first, *rest)] == [0, 1, 2, 3, 4]
    assert (first[0].who, first[0].what, first[0].subject_kind) == ("test", "counted", "cluster")
    assert first[0].at.tzinfo is not None
    assert [event.data["number"] for event in await store.events.list(limit=2, newest=True)] == [3, 4]


async def test_events_of_one_subject(store: Store) -> None:
    subject = uuid4()
    await _append(store, 2)
    await _append(store, 1, subject)
    (event,) = await store.events.list(subject=subject)
    assert event.subject_id == subject


async def test_ids_appear_in_the_order_of_commits(store: Store, database_url: str) -> None:
    """Were a lower id to appear after a higher one, a follower would skip it: so writers take turns at the end."""
    tell = "select zw_tell('{slow}', '{late}', '{cluster}', array[gen_random_uuid()], array['{}'::jsonb], '{}', '{}')"
    with psycopg.connect(database_url) as slow:
        slow.execute(tell)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_append, store, 1)

            def waiting() -> bool:
                row = slow.execute("select count(*) from pg_locks where locktype = 'advisory' and not granted")
                return row.fetchone() == (1,)

            await until(waiting)
            assert await store.events.list() == ()
            slow.commit()
    events = await store.events.list()
    assert [event.what for event in events] == ["late", "counted"]
    assert events[0].id < events[1].id


async def test_the_events_of_one_change_keep_their_order(store: Store) -> None:
    def unit(cursor: Cursor) -> None:
        for number in range(50):
            record(cursor, "test", "counted", "cluster", uuid4(), {"number": number})

    await store.units.run(unit, name="many")
    assert [event.data["number"] for event in await store.events.list()] == list(range(50))


async def test_concurrent_writers_and_a_follower(store: Store) -> None:
    seen: list[int] = []
    done = trio.Event()

    async def follow() -> None:
        last = 0
        while True:
            finished = done.is_set()
            for event in await store.events.list(after=last, limit=7):
                seen.append(event.id)
                last = event.id
            if finished and not await store.events.list(after=last):
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        async with trio.open_nursery() as writers:
            for _ in range(6):
                writers.start_soon(_append, store, 20)
        done.set()
    assert len(seen) == 120
    assert seen == sorted(set(seen))


async def test_the_journal_is_bounded(store: Store) -> None:
    await _append(store, 10)
    assert await store.events.prune(keep_seconds=3600, keep_rows=4) == 6
    assert [event.data["number"] for event in await store.events.list()] == [6, 7, 8, 9]
    assert await store.events.prune(keep_seconds=0, keep_rows=100) == 4


async def test_bad_limits_are_refused(store: Store) -> None:
    with pytest.raises(InvalidInput):
        await store.events.list(limit=100_000)
