"""Hosts and regions."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_interface
from uuid import uuid4

import pytest
import trio

from actors.model.errors import Conflict, InvalidInput, NotFound
from actors.model.network import OwnAddress, OwnAddresses
from actors.model.records import SnapshotMade
from actors.model.scheduling import Taint
from actors.model.states import NodeDesired, NodeState
from tests.zeitwork.store.world import (
    CAPACITY,
    STOPPED,
    apply_plan,
    assign,
    heeded,
    host,
    instance,
    place,
    ready_image,
    ready_node,
    running,
    see,
)
from zeitwork.store import Store
from zeitwork.store.cluster import random_ula
from zeitwork.store.notifications import Wake
from zeitwork.store.pools import first_free
from zeitwork.store.rows import DrainRow, NodeRow, OverheadRow


async def test_the_cluster_has_one_identity(store: Store) -> None:
    assert await store.cluster.identity() == await store.cluster.identity()


def test_a_random_ula_is_a_48_of_fd00() -> None:
    networks = {random_ula() for _ in range(50)}
    assert len(networks) == 50
    for network in networks:
        assert network.prefixlen == 48
        assert network.subnet_of(IPv6Network("fd00::/8"))


async def test_a_region_keeps_its_networks(store: Store) -> None:
    v6 = IPv6Network("fd12:3456:789a::/48")
    made = await store.cluster.region("berlin", v6=v6, v4=IPv4Network("10.20.0.0/16"))
    again = await store.cluster.region("berlin", v4=IPv4Network("10.99.0.0/16"))
    assert made == again
    assert (made.v6, made.v4) == (v6, IPv4Network("10.20.0.0/16"))
    assert await store.cluster.regions() == (made,)


@pytest.mark.parametrize("name", ["Berlin", "", "a b", "x" * 64])
async def test_a_strange_region_name_is_refused(store: Store, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await store.cluster.region(name)
    assert caught.value.field == "region"


async def test_registering_again_counts_the_starts(store: Store) -> None:
    me = host()
    first = await store.nodes.register(me)
    second = await store.nodes.register(replace(me, boot_id="boot-2", hostname="renamed"))
    assert (first.id, first.generation, second.generation) == (second.id, 1, 2)
    assert (second.boot_id, second.hostname, second.state) == ("boot-2", "renamed", NodeState.BOOTING)
    assert first.network == second.network
    assert not await store.presence.heartbeat(first.id, 1)
    assert await store.presence.heartbeat(first.id, 2)


async def test_hosts_get_networks_of_their_own(store: Store) -> None:
    nodes = []

    async def register() -> None:
        nodes.append(await store.nodes.register(host()))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(register)
    v4 = [node.network.v4 for node in nodes if node.network]
    v6 = [node.network.v6 for node in nodes if node.network]
    assert len(set(v4)) == len(set(v6)) == 8
    for node, four, six in zip(nodes, v4, v6, strict=True):
        assert four.prefixlen == 22
        assert four.subnet_of(node.region.v4)
        assert six is not None
        assert six.prefixlen == 64
        assert six.subnet_of(node.region.v6)


async def test_a_full_region_says_so(store: Store) -> None:
    await store.nodes.register(host(region_v4=IPv4Network("10.7.0.0/22")))
    with pytest.raises(Conflict) as caught:
        await store.nodes.register(host())
    assert "10.7.0.0/22" in caught.value.detail
    # Nothing of the refused host is left, not even half of it.
    assert len((await store.nodes.list()).items) == 1


async def test_a_host_without_ipv6(store: Store) -> None:
    node = await store.nodes.register(host(ipv6=False))
    assert node.network is not None
    assert node.network.v6 is None


async def test_a_small_region_gives_its_whole_network(store: Store) -> None:
    node = await store.nodes.register(host(region_v4=IPv4Network("192.168.77.0/24")))
    assert node.network is not None
    assert node.network.v4 == IPv4Network("192.168.77.0/24")


def test_the_first_free_network_skips_what_overlaps() -> None:
    region = IPv4Network("10.0.0.0/20")
    taken = [IPv4Network("10.0.0.0/22"), IPv4Network("10.0.5.0/24"), IPv4Network("10.99.0.0/22")]
    assert first_free(region, 22, taken) == IPv4Network("10.0.8.0/22")
    assert first_free(region, 22, [*taken, IPv4Network("10.0.8.0/21")]) is None


async def test_an_expected_host_is_taken_over_by_the_one_that_comes(store: Store) -> None:
    expected = await store.nodes.create("web-1", ip_address=IPv4Address("192.0.2.1"))
    assert (expected.state, expected.generation, expected.network) == (NodeState.BOOTING, 0, None)
    with pytest.raises(Conflict):
        await store.nodes.create("web-1")
    assert (await store.nodes.create("web-1", id=expected.id)).id == expected.id
    came = await store.nodes.register(host(hostname="web-1"))
    assert (came.id, came.ip_address, came.generation) == (expected.id, IPv4Address("192.0.2.1"), 1)
    # Its place is taken: the next one of that name is another node.
    assert (await store.nodes.register(host(hostname="web-1"))).id != expected.id


async def test_an_unknown_region_is_refused(store: Store) -> None:
    with pytest.raises(InvalidInput) as caught:
        await store.nodes.create("web-1", region_id=uuid4())
    assert caught.value.field == "region_id"


async def test_a_draining_node_is_not_ready(store: Store) -> None:
    node = await ready_node(store)
    assert (await store.nodes.set_desired(node.id, NodeDesired.DRAINING)).state is NodeState.DRAINING
    assert (await store.nodes.set_state(node.id, NodeState.READY)).state is NodeState.DRAINING
    back = await store.nodes.set_desired(node.id, NodeDesired.READY)
    assert (back.state, back.desired_generation) == (NodeState.READY, node.desired_generation + 2)


async def test_capacity_is_kept_as_it_was_said(store: Store) -> None:
    node = await ready_node(store)
    assert (await store.nodes.get(node.id)).capacity == CAPACITY


@pytest.mark.parametrize("overcommit", [1.0, 1.1, 1.5, 0.7, 2.3, 1.15])
async def test_the_database_rounds_as_the_model_does(store: Store, overcommit: float) -> None:
    capacity = replace(
        CAPACITY, memory_total=7919, vcpu_total=37, vcpu_overcommit=overcommit, memory_overcommit=overcommit
    )
    node = await ready_node(store, capacity=capacity)
    (row,) = await store.nodes.resources(node.id)
    assert (row.vcpu, row.memory) == (capacity.vcpu, capacity.memory)


async def test_free_is_never_negative(store: Store) -> None:
    node, _, placement = await running(store, memory=1000)
    (row,) = await store.nodes.resources(node.id)
    assert (row.memory, row.memory_used, row.memory_free, row.placements) == (4096, 1024, 3072, 1)
    await store.nodes.record_capacity(node.id, replace(CAPACITY, memory_total=512))
    (row,) = await store.nodes.resources()
    assert (row.memory, row.memory_used, row.memory_free) == (512, 1024, 0)
    await see(store, placement, STOPPED)
    (row,) = await store.nodes.resources(node.id)
    assert (row.memory_used, row.memory_free, row.placements) == (0, 512, 0)


async def test_a_node_in_use_or_alive_is_not_deleted(store: Store, database_url: str) -> None:
    import psycopg

    node, instance, placement = await running(store)
    with pytest.raises(Conflict, match="1 placements"):
        await store.nodes.delete(node.id)
    await store.instances.delete(instance.id)
    await see(store, placement, STOPPED)
    with pytest.raises(Conflict, match="is alive"):
        await store.nodes.delete(node.id)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update nodes set last_seen_at = now() - interval '1 hour'")
    await store.nodes.delete(node.id)
    await store.nodes.delete(node.id)
    gone = await store.nodes.get(node.id)
    assert (gone.state, gone.network) == (NodeState.TERMINATED, None)
    assert (await store.nodes.list()).items == ()
    assert [one.id for one in (await store.nodes.list(state=NodeState.TERMINATED)).items] == [node.id]
    with pytest.raises(Conflict):
        await store.nodes.set_state(node.id, NodeState.READY)
    assert not await store.presence.heartbeat(node.id, node.generation)


async def test_a_network_is_given_away_once_the_addresses_in_it_have_rested(store: Store, database_url: str) -> None:
    """Whoever had it sooner would give addresses that others still take for those of the removed host's machines."""
    import psycopg

    node, instance, placement = await running(store)
    assert node.network is not None
    await store.instances.delete(instance.id)
    await see(store, placement, STOPPED)
    await store.nodes.leave(node.id)
    second = await ready_node(store)
    assert second.network is not None
    assert second.network.v4 != node.network.v4
    assert second.network.v6 != node.network.v6
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update leases set rest_until = now() - interval '1 second'")
    third = await ready_node(store)
    assert third.network is not None
    assert (third.network.v4, third.network.v6) == (node.network.v4, node.network.v6)
    assert node.id not in await store.leases.usages()


async def test_pages_follow_each_other(store: Store) -> None:
    for number in range(5):
        await store.nodes.create(f"web-{number}")
    first = await store.nodes.list(limit=2)
    second = await store.nodes.list(limit=2, cursor=first.next_cursor)
    third = await store.nodes.list(limit=2, cursor=second.next_cursor)
    names = [row.hostname for part in (first, second, third) for row in part.items]
    assert names == [f"web-{number}" for number in range(5)]
    assert third.next_cursor is None


async def test_bad_pages_are_refused(store: Store) -> None:
    with pytest.raises(InvalidInput) as caught:
        await store.nodes.list(cursor="no cursor")
    assert caught.value.field == "cursor"
    with pytest.raises(InvalidInput):
        await store.nodes.list(limit=0)


async def test_a_stranger_is_not_found(store: Store) -> None:
    for call in (store.nodes.get, store.nodes.delete):
        with pytest.raises(NotFound):
            await call(uuid4())
    with pytest.raises(NotFound):
        await store.nodes.record_capacity(uuid4(), CAPACITY)


async def test_a_host_moves_to_another_region_only_when_it_is_empty(store: Store) -> None:
    me = host()
    node = await store.nodes.register(me)
    moved = await store.nodes.register(replace(me, region="other", region_v4=IPv4Network("10.9.0.0/16")))
    assert moved.id == node.id
    assert moved.region.name == "other"
    assert moved.network is not None
    assert moved.network.v4.subnet_of(IPv4Network("10.9.0.0/16"))


async def test_a_closed_host_stays_closed_across_its_starts_and_takes_nothing(store: Store) -> None:
    me = host()
    node = await ready_node(store, host_id=me.host_id, hostname=me.hostname)
    row = await instance(store, await ready_image(store, node))
    await store.nodes.record_closed(node.id, "memory pressure: a lot")
    await store.nodes.record_closed(node.id, "memory pressure: even more")
    await store.nodes.register(me)
    node = await store.nodes.set_state(node.id, NodeState.READY)
    assert (node.closed_reason, await store.nodes.closed(node.id)) == ("memory pressure: a lot",) * 2
    assert node.closed_since is not None
    (view,) = await store.scheduling.nodes()
    assert view.closed == node.closed_reason
    (refused,) = await apply_plan(store, assign(row, node))
    assert refused.reason == "the host is closed: memory pressure: a lot"
    await store.nodes.record_closed(node.id, "")
    assert (await store.nodes.get(node.id)).closed_since is None
    assert await apply_plan(store, assign(row, node)) == ()
    told = [event.what for event in await store.events.list(subject=node.id) if event.who == "resource-monitor"]
    assert told == ["node.capacity", "node.closed", "node.opened"]


async def test_closing_an_unknown_host_is_refused(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.nodes.record_closed(uuid4(), "x")
    with pytest.raises(NotFound):
        await store.nodes.closed(uuid4())


async def test_own_addresses_are_kept_up_to_date(store: Store) -> None:
    node = await ready_node(store)
    assert (node.ip_address, node.addresses) == (None, ())
    first = OwnAddress("eth0", ip_interface("192.0.2.7/24"), primary=True)
    second = OwnAddress("eth1", ip_interface("fd00::7/64"))
    for _ in range(2):
        await store.nodes.record_addresses(node.id, OwnAddresses((first, second), first))
    seen = await store.nodes.get(node.id)
    assert (seen.ip_address, seen.addresses) == (IPv4Address("192.0.2.7"), (first, second))
    await store.nodes.record_addresses(node.id, OwnAddresses())
    seen = await store.nodes.get(node.id)
    assert (seen.ip_address, seen.addresses) == (IPv4Address("192.0.2.7"), ())
    told = [event for event in await store.events.list(subject=node.id) if event.what == "node.addresses"]
    assert [len(event.data["addresses"]) for event in told] == [2, 0]
    with pytest.raises(NotFound):
        await store.nodes.record_addresses(uuid4(), OwnAddresses())


async def overhead(store: Store, node: NodeRow) -> tuple[OverheadRow, int]:
    (row,) = await store.nodes.resources(node.id)
    return row.overhead, row.memory_free


async def test_what_monitors_take_beyond_what_is_held_is_not_free(store: Store) -> None:
    node, _, first = await running(store)
    second = await place(store, await instance(store, await ready_image(store, node)), node)
    assert await overhead(store, node) == (OverheadRow(allocated=48, measured=0, monitors=0, excess=0), 4096 - 2 * 152)

    # One takes more than its 24 MiB and one less: together they take no more than they hold.
    await store.nodes.record_overhead(node.id, {first.id: 40 * 1024, second.id: 8 * 1024}, {"qemu": 40 * 1024})
    assert await overhead(store, node) == (OverheadRow(allocated=48, measured=48, monitors=2, excess=0), 4096 - 2 * 152)
    # The second was not looked at: what it holds is its own.
    await store.nodes.record_overhead(node.id, {first.id: 40 * 1024 + 1}, {"qemu": 40 * 1024})
    found, free = await overhead(store, node)
    assert found == OverheadRow(allocated=48, measured=41, monitors=1, excess=17)
    assert free == 4096 - 2 * 152 - 17
    events = await store.events.list(subject=node.id)
    assert [event.data for event in events if event.what == "node.overhead"] == [
        {"measured": 41, "allocated": 24, "excess": 17}
    ]
    # It is kept for the host's next process.
    assert (await store.nodes.get(node.id)).overhead_peaks == {"qemu": 40 * 1024}

    # What is gone, unknown or another's counts nothing.
    await see(store, first, STOPPED)
    await store.nodes.record_overhead(node.id, {first.id: 900 * 1024, uuid4(): 900 * 1024}, {})
    assert (await overhead(store, node))[0] == OverheadRow(allocated=24, measured=0, monitors=0, excess=0)
    with pytest.raises(NotFound):
        await store.nodes.record_overhead(uuid4(), {}, {})


async def test_the_database_itself_places_nothing_into_what_monitors_take(store: Store) -> None:
    node, _, placement = await running(store)
    image = await ready_image(store, node)
    await store.nodes.record_overhead(node.id, {placement.id: 9000 * 1024}, {})
    found, free = await overhead(store, node)
    assert found.excess == 9000 - 24
    assert free == 0
    refused = await apply_plan(store, assign(await instance(store, image), node))
    assert "0 of 4096 MiB free" in refused[0].reason
    await store.nodes.record_overhead(node.id, {placement.id: 24 * 1024 + 3700 * 1024}, {})
    # 4096 - 152 - 3700 = 244 MiB are left.
    refused = await apply_plan(store, assign(await instance(store, image, memory=221), node))
    assert "244 of 4096 MiB free" in refused[0].reason
    assert await apply_plan(store, assign(await instance(store, image, memory=220), node)) == ()


async def test_labels_are_those_of_the_last_start(store: Store) -> None:
    said = host(labels={"zone": "a", "disk": "ssd"}, architecture="x86_64")
    node = await store.nodes.register(said)
    assert (node.labels, node.taints, node.hypervisor, node.architecture, node.pressure) == (
        {"zone": "a", "disk": "ssd"}, (), None, "x86_64", 0.0,
    )  # fmt: skip
    await store.nodes.set_taints(node.id, [Taint("gpu")])
    await store.nodes.record_condition(node.id, "qemu", 0.25)
    again = await store.nodes.register(replace(said, labels={"zone": "b"}))
    assert (again.labels, again.taints, again.hypervisor, again.pressure) == (
        {"zone": "b"}, (Taint("gpu"),), "qemu", 0.25,
    )  # fmt: skip


async def test_what_runs_guests_is_told_once_and_never_forgotten(store: Store) -> None:
    node = await ready_node(store)
    for hypervisor, pressure in ((None, 0.5), ("qemu", 0.5), ("qemu", 0.1), (None, 0.1), ("firecracker", 0.1)):
        await store.nodes.record_condition(node.id, hypervisor, pressure)
    found = await store.nodes.get(node.id)
    assert (found.hypervisor, found.pressure) == ("firecracker", 0.1)
    told = [event.data for event in await store.events.list(subject=node.id) if event.what == "node.hypervisor"]
    assert told == [{"from": None, "to": "qemu"}, {"from": "qemu", "to": "firecracker"}]
    for call in (store.nodes.record_condition(uuid4(), "qemu", 0.0), store.nodes.set_taints(uuid4(), [])):
        with pytest.raises(NotFound):
            await call


async def test_taints_and_cordons_wake_the_scheduler(store: Store) -> None:
    node = await ready_node(store)
    with store.notifications.subscribe("zw_nodes") as hints:
        await heeded(store, hints, "zw_nodes")
        await store.nodes.set_taints(node.id, [Taint("b"), Taint("a", "x"), Taint("b")])
        with trio.fail_after(60):
            assert await hints.wait() == Wake(frozenset({str(node.id)}))
        assert (await store.nodes.get(node.id)).taints == (Taint("a", "x"), Taint("b"))
        await store.nodes.set_desired(node.id, NodeDesired.CORDONED)
        with trio.fail_after(60):
            assert await hints.wait() == Wake(frozenset({str(node.id)}))
    assert (await store.nodes.get(node.id)).state is NodeState.READY


async def test_what_is_left_on_a_host_that_is_emptied(store: Store) -> None:
    node, _, placement = await running(store)
    image = await store.images.get(placement.image_id)
    snapshot = await store.snapshots.create(placement.instance_id)
    await store.snapshots.taken(snapshot.id, SnapshotMade(1, "qemu", "7", "6", "cpu"))
    restored = await instance(store, image, snapshot_id=snapshot.id, memory=snapshot.resources.memory)
    pinned = await instance(store, image, node_id=node.id, singleton=True)
    alone = await instance(store, image, singleton=True)
    for row in (restored, pinned, alone):
        await place(store, row, node)
    other = await ready_node(store)
    assert await store.nodes.drains() == {}
    await store.nodes.set_desired(node.id, NodeDesired.DRAINING)
    await store.nodes.set_desired(other.id, NodeDesired.DRAINING)
    assert await store.nodes.drains() == {
        node.id: DrainRow(4, pinned=1, restored=1, singletons=1), other.id: DrainRow(0, 0, 0, 0),
    }  # fmt: skip
    assert (await store.nodes.drains(node.id))[node.id].bound == 2
    # An older generation is on its way out, whatever it was.
    await store.instances.restart(restored.id)
    await store.instances.restart(alone.id)
    assert (await store.nodes.drains(node.id))[node.id] == DrainRow(4, pinned=1, restored=0, singletons=0)
