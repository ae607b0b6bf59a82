"""LISTEN fan-out against a real server."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest
import trio

from tests.zeitwork.store.world import heeded, mark
from zeitwork.store import Store
from zeitwork.store.notifications import CHANNELS, MAX_IDS, Subscription, Wake
from zeitwork.store.units import Cursor, Units


async def test_a_change_wakes_those_who_follow_its_channel(store: Store) -> None:
    with store.notifications.subscribe("zw_images") as images, store.notifications.subscribe("zw_nodes") as nodes:
        await heeded(store, images, "zw_images")
        await heeded(store, nodes, "zw_nodes")
        image = await store.images.create("app")
        with trio.fail_after(60):
            assert await images.wait() == Wake(frozenset({str(image.id)}))
            # The others hear of what comes after it, and of nothing else.
            after = await mark(store, "zw_nodes")
            assert await nodes.wait() == Wake(frozenset({after}))


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
    with store.notifications.subscribe("zw_instances") as hints:
        await heeded(store, hints, "zw_instances")
        with psycopg.connect(database_url, autocommit=True) as connection:
            killed = connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name = 'zeitwork listen'"
            ).fetchall()
            assert killed == [(True,)]
            with trio.fail_after(60):
                # Whatever was announced meanwhile is lost, so everything may have changed.
                assert (await hints.wait()).everything
            assert store.metrics.listener_reconnects == 1
            identifier = str(uuid4())
            connection.execute("select pg_notify('zw_instances', %s)", (identifier,))
            with trio.fail_after(60):
                assert await hints.wait() == Wake(frozenset({identifier}))


async def test_a_rolled_back_change_wakes_nobody(store: Store, database_url: str) -> None:
    units = Units(database_url)
    with store.notifications.subscribe("zw_instances") as hints:
        await heeded(store, hints, "zw_instances")

        def unit(cursor: Cursor) -> None:
            cursor.execute("select pg_notify('zw_instances', 'x')")
            raise LookupError

        with pytest.raises(LookupError):
            await units.run(unit, name="rolled back")
        after = await mark(store, "zw_instances")
        with trio.fail_after(60):
            assert await hints.wait() == Wake(frozenset({after}))
    units.close()


async def test_an_unknown_channel_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="zw_typo"), store.notifications.subscribe("zw_typo"):
        pass
