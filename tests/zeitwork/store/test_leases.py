"""Addresses: used, resting, used again as late as possible."""

from __future__ import annotations

from ipaddress import IPv4Address

import psycopg
import pytest

from tests.zeitwork.store.world import STOPPED, instance, place, ready_image, ready_node, running, see
from zeitwork.store import Store, open_store


async def test_usage_counts_what_is_used_and_what_rests(store: Store) -> None:
    node = await ready_node(store)
    image = await ready_image(store, node)
    one, other = [await place(store, await instance(store, image), node) for _ in range(2)]
    await see(store, one, STOPPED)
    v4, v6 = await store.leases.usage(node.id)
    assert node.network is not None
    assert (v4.family, v4.pool, v4.size, v4.leased, v4.resting) == (4, str(node.network.v4), 1022, 1, 1)
    assert (v6.family, v6.pool, v6.leased, v6.resting) == (6, str(node.network.v6), 1, 1)
    assert v6.size > 1 << 61
    assert other.lease.v4 in node.network.v4
    assert await store.leases.expire_rested(node.id) == 0


async def test_addresses_that_have_rested_are_forgotten(database_url: str) -> None:
    async with open_store(database_url, rest=0.0) as store:
        node = await ready_node(store)
        image = await ready_image(store, node)
        await see(store, await place(store, await instance(store, image), node), STOPPED)
        v4, _ = await store.leases.usage(node.id)
        assert (v4.leased, v4.resting) == (0, 0)
        assert await store.leases.expire_rested(node.id) == 2
        assert await store.leases.expire_rested(node.id) == 0


async def test_an_address_comes_again_only_after_all_others(database_url: str) -> None:
    async with open_store(database_url, rest=0.0) as store:
        node = await ready_node(store, v4="192.168.9.0/29")  # .1 to .6
        image = await ready_image(store, node)
        used = []
        for _ in range(8):
            placement = await place(store, await instance(store, image), node)
            used.append(int(placement.lease.v4) - int(IPv4Address("192.168.9.0")))
            await see(store, placement, STOPPED)
        # The row of a rested address is taken over, whether or not someone deleted it before.
        assert used == [1, 2, 3, 4, 5, 6, 1, 2]


async def test_an_address_in_use_is_passed_over(database_url: str) -> None:
    async with open_store(database_url, rest=0.0) as store:
        node = await ready_node(store, v4="192.168.9.0/29")
        image = await ready_image(store, node)
        kept = await place(store, await instance(store, image), node)
        seen = set()
        for _ in range(7):
            placement = await place(store, await instance(store, image), node)
            seen.add(placement.lease.v4)
            await see(store, placement, STOPPED)
        assert kept.lease.v4 not in seen
        assert len(seen) == 5


@pytest.mark.parametrize("how", ["rm", "leave"])
async def test_addresses_of_a_host_that_is_removed_come_again_last(store: Store, database_url: str, how: str) -> None:
    """What still runs there, or is remembered elsewhere, is not met by what its network's next host starts."""
    node, row, placement = await running(store)
    if how == "leave":
        await store.nodes.leave(node.id, force=True)
    else:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("update nodes set last_seen_at = now() - interval '1 hour'")
        await store.nodes.delete(node.id, dead=True)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update leases set rest_until = now() - interval '1 second' where state = 'resting'")
    other = await ready_node(store)
    assert other.network == node.network
    fresh = await place(store, await store.instances.get(row.id), other)
    assert fresh.lease.v4 == placement.lease.v4 + 1
    assert (fresh.lease.v6, placement.lease.v6) == (placement.lease.v6 + 1, placement.lease.v6)  # type: ignore[operator]
