"""LISTEN fan-out against a real server."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest
import trio

from tests.zeitwork.store.world import until
from zeitwork.store import Store
from zeitwork.store.notifications import CHANNELS, MAX_IDS, Subscription, Wake
from zeitwork.store.units import Cursor, Units


async def _listening(store: Store) -> None:
    await until(lambda: store.metrics.listening == 1)


async def _drained(hints: Subscription) -> None:
    """Take what is waiting, such as the first wake-up and the one of the first connection."""
    with trio.move_on_after(0.05):
        while True:
            await hints.wait()


async def test_a_change_wakes_those_who_follow_its_channel(store: Store) -> None:
    await _listening(store)
    with store.notifications.subscribe("zw_images") as images, store.notifications.subscribe("zw_nodes") as nodes:
        assert (await images.wait()).everything
        await _drained(images)
        await _drained(nodes)
        image = await store.images.create("app")
        with trio.fail_after(20):
            assert await images.wait() == Wake(frozenset({str(image.id)}))
        with trio.move_on_after(0.05) as scope:
            await nodes.wait()
        assert scope.cancelled_caught


async def test_hints_that_nobody_took_are_folded_and_bounded() -> None:
    inbox = Subscription(frozenset(CHANNELS))
    assert (await inbox.wait()).everything
    for number in range(10):
        inbox.offer(str(number % 3))
    assert await inbox.wait() == Wake(frozenset({"0", "1", "2"}))
    for number in range(MAX_IDS + 1):
        inbox.offer(str(number))
    assert await inbox.wait() == Wake(everything=True)
    inbox.offer("later")
    assert await inbox.wait() == Wake(frozenset({"later"}))


async def test_listening_resumes_after_the_connection_is_terminated_and_wakes_everyone(
    store: Store, database_url: str
) -> None:
    await _listening(store)
    with store.notifications.subscribe("zw_instances") as hints:
        await _drained(hints)
        with psycopg.connect(database_url, autocommit=True) as connection:
            killed = connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name = 'zeitwork listen'"
            ).fetchall()
            assert killed == [(True,)]
            with trio.fail_after(20):
                # Whatever was announced meanwhile is lost, so everything may have changed.
                assert (await hints.wait()).everything
            assert store.metrics.listener_reconnects == 1
            identifier = str(uuid4())
            connection.execute("select pg_notify('zw_instances', %s)", (identifier,))
            with trio.fail_after(20):
                assert await hints.wait() == Wake(frozenset({identifier}))


async def test_a_rolled_back_change_wakes_nobody(store: Store, database_url: str) -> None:
    await _listening(store)
    units = Units(database_url)
    with store.notifications.subscribe("zw_instances") as hints:
        await _drained(hints)

        def unit(cursor: Cursor) -> None:
            cursor.execute("select pg_notify('zw_instances', 'x')")
            raise LookupError

        with pytest.raises(LookupError):
            await units.run(unit, name="rolled back")
        with trio.move_on_after(0.1) as scope:
            await hints.wait()
        assert scope.cancelled_caught
    units.close()


async def test_an_unknown_channel_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="zw_typo"), store.notifications.subscribe("zw_typo"):
        pass
