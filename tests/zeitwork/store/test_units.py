"""The unit-of-work runner against a real server: what is kept, what is undone, what cannot be known."""

from __future__ import annotations

import threading

import psycopg
import pytest
import trio
import trio.testing
from psycopg import sql

from actors.model.errors import Unavailable
from tests.zeitwork.store.world import until
from zeitwork.store import units as units_module
from zeitwork.store import work
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.problems import OutcomeUnknown
from zeitwork.store.units import Cursor, Units


@pytest.fixture
async def units(database_url: str):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("create table notes (id integer primary key, value integer not null default 0)")
    runner = Units(database_url, size=4)
    yield runner
    runner.close()


async def _insert(units: Units, number: int) -> None:
    await units.run(lambda cursor: cursor.execute("insert into notes (id) values (%s)", (number,)), name="insert")


async def _notes(units: Units) -> list[int]:
    def unit(cursor: Cursor) -> list[int]:
        return [row["id"] for row in cursor.execute("select id from notes order by id")]

    return await units.read(unit, name="notes")


async def _sessions(units: Units, like: str) -> int:
    """Return how many sessions of this database are at a statement like this."""

    def unit(cursor: Cursor) -> int:
        cursor.execute(
            "select count(*) as count from pg_stat_activity where datname = current_database() "
            "and pid <> pg_backend_pid() and state = 'active' and query like %s",
            (like,),
        )
        row = cursor.fetchone()
        assert row is not None
        return int(row["count"])

    return await units.read(unit, name="sessions")


async def _until_active(units: Units, like: str) -> None:
    with trio.fail_after(60):
        while not await _sessions(units, like):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_unit_is_one_transaction(units: Units) -> None:
    def unit(cursor: Cursor) -> None:
        cursor.execute("insert into notes (id) values (1)")
        raise LookupError("no")

    with pytest.raises(LookupError):
        await units.run(unit, name="fails")
    await _insert(units, 2)
    assert await _notes(units) == [2]
    assert units.metrics.units["fails"] == units.metrics.failures["fails"] == 1
    assert units.metrics.seconds["notes"].count == 1


async def test_a_cancelled_transaction_is_rolled_back(units: Units, monkeypatch: pytest.MonkeyPatch) -> None:
    # However long the server takes for it: of a connection that is severed it would know nothing yet.
    monkeypatch.setattr(units_module, "_SEVER_AFTER", 600.0)
    monkeypatch.setattr(work, "CANCEL_TIMEOUT", 600.0)
    ended = threading.Event()

    def unit(cursor: Cursor) -> None:
        try:
            cursor.execute("insert into notes (id) values (1)")
            cursor.execute("select pg_sleep(60)")
        finally:
            ended.set()

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def caller() -> None:
            with scope:
                await units.run(unit, name="slow")

        nursery.start_soon(caller)
        await _until_active(units, "select pg_sleep(60)")
        scope.cancel()
        await until(ended.is_set)
    # The caller was let go only after its thread had ended: nothing of it is left.
    assert scope.cancelled_caught
    assert ended.is_set()
    assert units.metrics.in_flight == 0
    assert units.metrics.cancelled == 1
    assert await _sessions(units, "select pg_sleep(60)") == 0
    assert await _notes(units) == []


async def test_a_cancel_between_two_statements_still_prevents_the_commit(units: Units) -> None:
    inserted, cancelled = threading.Event(), threading.Event()

    def unit(cursor: Cursor) -> None:
        cursor.execute("insert into notes (id) values (1)")
        inserted.set()
        # Python code holds the thread here, so the cancel request of Postgres finds no statement to cancel.
        assert cancelled.wait(60)

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def caller() -> None:
            with scope:
                await units.run(unit, name="slow")

        nursery.start_soon(caller)
        await trio.to_thread.run_sync(inserted.wait, 60)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.05)
        cancelled.set()
    assert scope.cancelled_caught
    assert await _notes(units) == []


async def test_a_cancel_after_the_commit_leaves_the_caller_without_an_answer(units: Units) -> None:
    give = units._pool.give
    scope = trio.CancelScope()

    def cancelled_here(connection: psycopg.Connection) -> None:
        # The commit is done, the answer is not yet delivered.
        trio.from_thread.run_sync(scope.cancel)
        give(connection)

    units._pool.give = cancelled_here  # type: ignore[method-assign]
    with scope:
        await _insert(units, 1)
        pytest.fail("a cancelled caller must not be told that it went well")
    units._pool.give = give  # type: ignore[method-assign]
    assert scope.cancelled_caught
    # It happened nevertheless: unknown means that the caller must look.
    assert await _notes(units) == [1]


async def test_a_commit_whose_answer_is_lost_is_unknown(units: Units, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "create function slow() returns trigger language plpgsql as "
            "$$ begin perform pg_sleep(60); return null; end $$"
        )
        connection.execute(
            "create constraint trigger slow after insert on notes deferrable initially deferred "
            "for each row execute function slow()"
        )
        async with trio.open_nursery() as nursery:

            async def caller() -> None:
                with pytest.raises(OutcomeUnknown):
                    await _insert(units, 1)

            nursery.start_soon(caller)
            await _until_active(units, "commit")
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and query = 'commit' and state = 'active'"
            )
    assert units.metrics.unknown_outcomes == 1
    assert await _notes(units) == []


async def test_a_cancelled_unit_that_waits_for_a_thread_never_runs(units: Units) -> None:
    gate, started = threading.Event(), threading.Semaphore(0)

    def hold(cursor: Cursor) -> None:
        started.release()
        assert gate.wait(60)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(lambda: units.run(hold, name="hold"))
        for _ in range(4):
            assert await trio.to_thread.run_sync(started.acquire, True, 60)
        assert (units.metrics.in_flight, units.metrics.waiting) == (4, 0)
        with trio.move_on_after(0.05) as scope:
            await _insert(units, 1)
        assert scope.cancelled_caught
        gate.set()
    assert await _notes(units) == []


async def test_deadlocks_are_repeated_until_both_have_happened(units: Units) -> None:
    await _insert(units, 1)
    await _insert(units, 2)
    both = threading.Barrier(2)
    tries: list[int] = []

    def swap(first: int, second: int, cursor: Cursor) -> None:
        cursor.execute("update notes set value = value + 1 where id = %s", (first,))
        tries.append(first)
        if len(tries) <= 2:
            both.wait(60)
        cursor.execute("update notes set value = value + 1 where id = %s", (second,))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: units.run(lambda cursor: swap(1, 2, cursor), name="swap"))
        nursery.start_soon(lambda: units.run(lambda cursor: swap(2, 1, cursor), name="swap"))

    def values(cursor: Cursor) -> list[int]:
        return [row["value"] for row in cursor.execute("select value from notes order by id")]

    assert await units.read(values, name="values") == [2, 2]
    assert units.metrics.retries >= 1


async def test_repetition_has_an_end(units: Units) -> None:
    def unit(cursor: Cursor) -> None:
        cursor.execute("do $$ begin raise exception 'again' using errcode = '40001'; end $$")

    with pytest.raises(Unavailable):
        await units.run(unit, name="hopeless")
    assert units.metrics.retries == 7


async def test_a_statement_that_takes_too_long_is_refused(database_url: str) -> None:
    units = Units(database_url, statement_timeout=0.1)
    with pytest.raises(Unavailable) as caught:
        await units.run(lambda cursor: cursor.execute("select pg_sleep(60)"), name="slow")
    assert caught.value.code == "database-slow"
    units.close()


async def test_a_connection_that_died_while_idle_is_replaced(units: Units, database_url: str) -> None:
    await _insert(units, 1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
    await _insert(units, 2)
    assert await _notes(units) == [1, 2]
    assert units.metrics.failures["insert"] == 0


async def test_a_connection_lost_in_the_middle_is_unavailable_and_changes_nothing(units: Units) -> None:
    def unit(cursor: Cursor) -> None:
        cursor.execute("insert into notes (id) values (1)")
        cursor.execute("select pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(Unavailable) as caught:
        await units.run(unit, name="lost")
    assert not isinstance(caught.value, OutcomeUnknown)
    assert await _notes(units) == []


async def test_an_absent_server_is_unavailable_at_once() -> None:
    units = Units("host=/nonexistent/zeitwork user=zeitwork dbname=postgres")
    with trio.fail_after(60), pytest.raises(Unavailable):
        await units.read(lambda cursor: cursor.execute("select 1"), name="ping")
    assert units.metrics.connect_failures == 1
    units.close()


async def test_sessions_say_who_they_are_and_have_their_limits(units: Units, database_url: str) -> None:
    def unit(cursor: Cursor) -> tuple[str, str, str, str]:
        names = ("application_name", "statement_timeout", "transaction_isolation", "timezone")
        values = [cursor.execute(sql.SQL("show {}").format(sql.Identifier(name))).fetchone() for name in names]
        return tuple(next(iter(value.values())) for value in values if value is not None)  # type: ignore[return-value]

    assert await units.run(unit, name="show") == ("zeitwork", "10s", "read committed", "UTC")
    assert await units.read(unit, name="show") == ("zeitwork", "10s", "repeatable read", "UTC")


async def test_a_read_cannot_write(units: Units) -> None:
    with pytest.raises(Unavailable):
        await units.read(lambda cursor: cursor.execute("insert into notes (id) values (1)"), name="sneaky")
    assert await _notes(units) == []


async def test_many_units_share_few_connections(units: Units) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(_insert, units, number)
    assert await _notes(units) == list(range(100))
    assert units.metrics.connections <= 4


async def test_nothing_is_left_when_closed(units: Units) -> None:
    await _insert(units, 1)
    units.close()
    assert units.metrics.connections == 0


async def test_severed_when_the_server_does_not_answer_a_cancel(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units_module, "_SEVER_AFTER", 0.1)
    monkeypatch.setattr(units_module.Work, "interrupt", lambda self: None)
    units = Units(database_url, statement_timeout=600.0)
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:

        async def caller() -> None:
            with scope:
                await units.run(lambda cursor: cursor.execute("select pg_sleep(200)"), name="slow")

        nursery.start_soon(caller)
        await _until_active(units, "select pg_sleep(200)")
        scope.cancel()
    assert scope.cancelled_caught
    # The thread was let go before the statement has ended, of which the server knows nothing yet.
    assert await _sessions(units, "select pg_sleep(200)") == 1
    units.close()


def test_server_is_the_embedded_one(postgres_server: EmbeddedServer) -> None:
    with psycopg.connect(postgres_server.dsn) as connection:
        row = connection.execute("select current_setting('listen_addresses'), current_setting('jit')").fetchone()
    assert row == ("", "off")
