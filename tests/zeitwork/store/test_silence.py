"""A real server whose packets are lost: one finds out, all others are told at once, and its return is noticed."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
import trio
import trio.testing

from actors.model.errors import Unavailable
from tests.zeitwork.store.relay import Relay, relayed
from tests.zeitwork.store.world import until
from zeitwork.store import connections, work
from zeitwork.store.breaker import Breaker
from zeitwork.store.opening import open_store
from zeitwork.store.problems import OutcomeUnknown
from zeitwork.store.units import Cursor, Units


@pytest.fixture
async def world(database_url: str, nursery: trio.Nursery) -> AsyncIterator[tuple[Relay, Units]]:
    with relayed(database_url) as (relay, dsn):
        units = Units(dsn, size=2, rng=random.Random(1))
        nursery.start_soon(units.watch)
        yield relay, units
        units.close()


async def _ask(units: Units, *, insist: bool = False) -> None:
    await units.run(lambda cursor: cursor.execute("select 1"), name="ask", read_only=True, insist=insist)


async def _refused(units: Units) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        await _ask(units)
    assert caught.value.code == "database-away"
    return caught.value


def _never_tried_again(units: Units) -> None:
    units._breaker = Breaker(random.Random(1), first=1e6, largest=1e6)


async def test_one_waits_and_all_others_are_refused_until_it_answers(world: tuple[Relay, Units]) -> None:
    relay, units = world
    async with trio.open_nursery() as nursery:
        # Two connections, which both lead nowhere soon.
        for _ in range(2):
            nursery.start_soon(_ask, units)
    relay.cut = True
    units._patience = 1.0
    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(_refused, units)
    assert units.metrics.silent == 1
    # Those that ran at once waited; the ten that waited for them asked nobody any more.
    assert units.metrics.refused == 10
    assert units.metrics.connections == 0
    for _ in range(20):
        problem = await _refused(units)
        assert "no answer for" in problem.detail
        assert "timeout" in problem.detail
        assert problem.fix
    assert units.metrics.refused == 30
    relay.cut = False
    # Nobody asks, and yet it is noticed.
    await until(lambda: units.metrics.silent == 0)
    await _ask(units)


async def test_one_that_insists_asks_all_the_same_and_its_answer_is_good_for_all(world: tuple[Relay, Units]) -> None:
    relay, units = world
    _never_tried_again(units)
    relay.cut = True
    await _refused(units)
    assert units.metrics.silent == 1
    relay.cut = False
    await _refused(units)
    await _ask(units, insist=True)
    assert units.metrics.silent == 0
    await _ask(units)


async def test_a_server_that_answers_others_meanwhile_is_not_silent(world: tuple[Relay, Units]) -> None:
    relay, units = world
    begun, go_on = threading.Event(), threading.Event()

    def unit(cursor: Cursor) -> None:
        cursor.execute("select 1")
        begun.set()
        assert go_on.wait(60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: units.read(unit, name="held"))
        await until(begun.is_set)
        relay.closed = True
        async with trio.open_nursery() as inner:
            inner.start_soon(_refused, units)
            await until(lambda: relay.unanswered > 0)
            go_on.set()
    assert units.metrics.silent == 0
    await _ask(units)


async def test_a_cancel_request_without_an_answer_tells_of_it_too(
    world: tuple[Relay, Units], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "CANCEL_TIMEOUT", 0.1)
    relay, units = world
    begun = threading.Event()

    def unit(cursor: Cursor) -> None:
        cursor.execute("select 1")
        relay.cut = True
        begun.set()
        cursor.execute("select 2")

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def caller() -> None:
            with scope:
                await units.read(unit, name="slow")

        nursery.start_soon(caller)
        await until(begun.is_set)
        # A statement that waits: only one of those can be cancelled.
        await until(lambda: _waits(units))
        scope.cancel()
    assert scope.cancelled_caught
    assert units.metrics.silent == 1
    assert "cancel" in (await _refused(units)).detail
    relay.cut = False
    await until(lambda: units.metrics.silent == 0)


def _waits(units: Units) -> bool:
    return any(_is_at_it(one) for one in units._works)


def _is_at_it(one: work.Work) -> bool:
    connection = one._connection
    return connection is not None and connection.info.transaction_status is psycopg.pq.TransactionStatus.ACTIVE


async def test_a_commit_that_a_silent_server_does_not_answer_is_unknown(world: tuple[Relay, Units]) -> None:
    relay, units = world
    _never_tried_again(units)
    committing = threading.Event()

    def unit(cursor: Cursor) -> None:
        cursor.execute("create table notes (id integer)")
        relay.cut = True
        committing.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def caller() -> None:
                with pytest.raises(OutcomeUnknown):
                    await units.run(unit, name="commit")

            nursery.start_soon(caller)
            await until(committing.is_set)
            await _refused(units)
            assert units.metrics.in_flight == 1, "it waits for its answer as long as the server may take for one"
            units._patience = 0.0
    assert units.metrics.unknown_outcomes == 1
    assert units.metrics.in_flight == 0


async def test_who_waits_for_a_transaction_is_told_what_others_found(database_url: str, nursery: trio.Nursery) -> None:
    with relayed(database_url) as (relay, dsn):
        # What the server may take for a statement is far away.
        units = Units(dsn, size=2, statement_timeout=600.0)
        nursery.start_soon(units.watch)
        await _ask(units)
        relay.cut = True
        with trio.fail_after(60):
            async with trio.open_nursery() as inner:
                inner.start_soon(_refused, units)  # takes the connection that there is
                await until(lambda: _waits(units))
                await _refused(units)  # makes another, in vain
        assert units.metrics.silent == 1
        units.close()


async def test_a_server_that_refuses_is_asked_each_time(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    # However slow this machine is.
    monkeypatch.setattr(connections, "SLOW", 600.0)
    units = Units("host=/nonexistent/zeitwork user=zeitwork dbname=postgres")
    nursery.start_soon(units.watch)
    for _ in range(3):
        await _refused(units)
    assert units.metrics.silent == 0
    assert units.metrics.connect_failures == 3
    units.close()


async def test_whoever_is_told_to_read_all_again_is_not_refused(database_url: str, nursery: trio.Nursery) -> None:
    with relayed(database_url) as (relay, dsn):
        async with open_store(dsn) as store:
            _never_tried_again(store.units)
            nursery.start_soon(store.units.watch)
            relay.cut = True
            store.units._pool.drop()
            await _refused(store.units)
            assert store.metrics.silent == 1
            with store.notifications.subscribe("zw_nodes") as hints:
                await hints.wait()  # nobody has read yet
                relay.cut = False
                nursery.start_soon(store.notifications.run)
                with trio.fail_after(60):
                    assert (await hints.wait()).everything
                await store.ping()
            nursery.cancel_scope.cancel()


async def test_a_cancelled_one_does_not_try_another_connection(
    world: tuple[Relay, Units], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "CANCEL_TIMEOUT", 0.1)
    relay, units = world
    await _ask(units)
    relay.cut = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_ask, units)
        await until(lambda: _waits(units))
        nursery.cancel_scope.cancel()
    assert units.metrics.connect_failures == 0
    # Nor is that it was severed itself taken for an answer.
    assert units.metrics.silent == 1


async def test_one_that_gives_up_at_once_is_no_answer(database_url: str) -> None:
    with relayed(database_url) as (relay, dsn):
        units = Units(dsn, size=2)
        await _ask(units)
        relay.cut = True
        units._watched = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_refused, units)
            await until(lambda: _waits(units))
            # As if another had found out in this very moment.
            now = time.monotonic()
            units._breaker.unanswered(now, now, "gone")
            units._hurry(now)
        assert "gone" in (await _refused(units)).detail
        units.close()


async def test_a_unix_socket_without_room_is_a_server_that_does_not_answer(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        path = str(tmp_path / ".s.PGSQL.5432")
        listener.bind(path)
        listener.listen(0)
        other.connect(path)  # nobody takes it in, and there is room for no more
        units = Units(f"host={tmp_path} user=zeitwork dbname=postgres")
        nursery.start_soon(units.watch)
        await trio.testing.wait_all_tasks_blocked()
        await _refused(units)
        assert units.metrics.silent == 1
        units.close()
