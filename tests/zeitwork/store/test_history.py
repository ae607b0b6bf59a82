"""Samples of resources: one a minute, for a day, averaged when asked for."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest

from actors.model.errors import NotFound
from actors.resource_monitor.store import Usage
from tests.zeitwork.store.world import ready_node, running
from zeitwork.store import Store

USAGE = Usage(cpus=1.5, memory=1000, memory_total=4096)
INSERT = (
    "insert into resource_samples (node_id, at, vcpu_capacity, memory_capacity, vcpu_allocated, memory_allocated, "
    "cpus_used, memory_used, memory_total, placements) select %s, date_trunc('minute', now()) - make_interval(mins => "
    "%s), 16, 4096, %s, %s, 1, 500, 4096, 1"
)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def count(connection: psycopg.Connection, node_id: UUID) -> int:
    row = connection.execute("select count(*) from resource_samples where node_id = %s", (node_id,)).fetchone()
    assert row is not None
    return int(row[0])


async def test_a_sample_tells_what_is_allocated_and_used(store: Store) -> None:
    node, _, placement = await running(store)
    await store.nodes.record_overhead(node.id, {placement.id: 7 * 1024}, {})
    await store.history.record_sample(node.id, USAGE)
    (row,) = await store.history.samples(3600, 60)
    assert row.node_id == node.id
    assert (row.overhead_allocated, row.overhead_measured) == (24.0, 7.0)
    assert (row.vcpu, row.memory) == (16.0, 4096.0)
    assert (row.vcpu_allocated, row.memory_allocated) == (1.0, placement.resources.memory + 24)
    assert (row.cpus_used, row.memory_used, row.memory_total, row.placements) == (1.5, 1000.0, 4096.0, 1.0)
    with pytest.raises(NotFound):
        await store.history.record_sample(uuid4(), USAGE)


async def test_a_day_is_kept_and_no_minute_twice(store: Store, connection: psycopg.Connection) -> None:
    node, gone = await ready_node(store), await ready_node(store)
    # The first of them is within a day still when the present minute has ended meanwhile.
    for minutes in (1438, 1440, 1441, 5000):
        for one in (node, gone):
            connection.execute(INSERT, (one.id, minutes, 1, 128))
    for _ in range(5):
        await store.history.record_sample(node.id, USAGE)
    # 1438 minutes ago, and the present minute (two when it ended meanwhile).
    assert count(connection, node.id) in (2, 3)
    assert count(connection, gone.id) == 4
    assert await store.history.prune() == 3
    assert count(connection, gone.id) == 1


async def test_steps_are_averages(store: Store, connection: psycopg.Connection) -> None:
    node = await ready_node(store)
    with connection.transaction():  # so that it is one minute that all of them are before
        for minutes in range(1, 121):
            connection.execute(INSERT, (node.id, minutes, 2 if minutes % 2 else 4, 128))
    rows = await store.history.samples(24 * 3600, 3600)
    assert 2 <= len(rows) <= 3
    assert [row.at for row in rows] == sorted(row.at for row in rows)
    full = [row for row in rows if row.vcpu_allocated == 3.0]
    assert full
    # One less when that minute has ended.
    assert len(await store.history.samples(600, 60)) in (8, 9)
