"""The scheduler's look and its plan, under contention too: capacity is never exceeded, no address is given twice."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest
import trio

from actors.model.records import Observation
from actors.model.states import ImageStatus, InstanceDesired, InstanceState, NodeDesired, NodeState, PlacementState
from actors.scheduler.plan import evaluate
from actors.scheduler.store import Assignment, Plan, Postponed
from tests.zeitwork.store.world import (
    CAPACITY,
    EXITED,
    STOPPED,
    apply_plan,
    assign,
    heeded,
    host,
    instance,
    live,
    place,
    ready_image,
    ready_node,
    running,
    see,
)
from zeitwork.store import Store, open_store


async def test_the_snapshot_is_what_there_is_to_decide(store: Store) -> None:
    node, _, _ = await running(store, memory=1000, vcpu=2)
    waiting = await store.images.create("later")
    row = await instance(store, waiting, memory=64, node_id=node.id)
    (pending,) = (await store.scheduling.pending()).instances
    assert (pending.id, pending.generation, pending.node_id) == (row.id, 1, node.id)
    assert (pending.image_status, pending.resources, pending.desired) == (
        ImageStatus.PENDING, row.resources, InstanceDesired.RUNNING,
    )  # fmt: skip
    (view,) = await store.scheduling.nodes()
    assert (view.id, view.hostname, view.state) == (node.id, node.hostname, NodeState.READY)
    assert (view.vcpu, view.memory, view.vcpu_free, view.memory_free, view.memory_overhead) == (16, 4096, 14, 3072, 24)


async def test_a_failed_image_fails_its_instances_until_someone_starts_them_again(store: Store) -> None:
    node = await ready_node(store)
    image = await store.images.create("nowhere")
    row = await instance(store, image)
    await store.images.claim_pending(node.id)
    await store.images.failed(image.id, "no such host", None, None)
    plan = evaluate(await store.scheduling.pending(), await store.scheduling.nodes())
    assert plan.postponed[0].final
    assert await apply_plan(store, plan) == ()
    failed = await store.instances.get(row.id)
    assert (failed.state, failed.reason) == (InstanceState.FAILED, "its image failed: no such host")
    assert (await store.scheduling.pending()).instances == ()
    await store.instances.set_desired(row.id, InstanceDesired.RUNNING)
    (pending,) = (await store.scheduling.pending()).instances
    assert pending.generation == 2


async def test_a_reason_is_written_once(store: Store) -> None:
    row = await instance(store, await store.images.create("later"))
    plan = evaluate(await store.scheduling.pending(), await store.scheduling.nodes())
    await apply_plan(store, plan)
    waiting = await store.instances.get(row.id)
    assert (waiting.state, waiting.reason) == (InstanceState.PENDING, "waiting for its image")
    before = await store.events.list()
    await apply_plan(store, plan)
    assert await store.events.list() == before


async def test_applying_twice_makes_one_placement(store: Store) -> None:
    node = await ready_node(store)
    row = await instance(store, await ready_image(store, node))
    first = await place(store, row, node)
    assert await apply_plan(store, assign(row, node)) == ()
    assert await live(store, node, row.id) == first
    starting = await store.instances.get(row.id)
    assert (starting.state, starting.observed_generation, starting.v4) == (InstanceState.STARTING, 1, first.lease.v4)


async def test_a_plan_that_was_overtaken_is_refused(store: Store) -> None:
    node = await ready_node(store)
    image = await ready_image(store, node)
    stopped, restarted, removing = [await instance(store, image) for _ in range(3)]
    await store.instances.set_desired(stopped.id, InstanceDesired.STOPPED)
    await store.instances.restart(restarted.id)
    await place(store, removing, node)
    newer = await store.instances.restart(removing.id)
    stranger = Assignment(uuid4(), 1, node.id)
    plan = Plan((*assign(stopped, node).assignments, *assign(restarted, node).assignments, stranger))
    refused = await apply_plan(store, plan)
    assert [one.reason for one in refused] == ["it is not wanted any more as it was planned"] * 3
    (refusal,) = await apply_plan(store, assign(newer, node))
    assert refusal.reason == "its earlier placement is still being removed"
    assert (await store.instances.get(stopped.id)).state is InstanceState.STOPPED


async def test_a_host_that_takes_nothing_is_refused(store: Store) -> None:
    node = await ready_node(store)
    row = await instance(store, await ready_image(store, node))
    await store.nodes.set_desired(node.id, NodeDesired.DRAINING)
    (refusal,) = await apply_plan(store, assign(row, node))
    assert refusal == Postponed(row.id, 1, "the host is draining")
    assert (await store.instances.get(row.id)).reason == "the host is draining"


async def test_a_refusal_of_one_leaves_the_others(store: Store) -> None:
    node = await ready_node(store)
    image = await ready_image(store, node)
    rows = [await instance(store, image, memory=memory) for memory in (3000, 2000, 1000)]
    plan = Plan(tuple(Assignment(row.id, 1, node.id) for row in rows))
    (refusal,) = await apply_plan(store, plan)
    assert refusal.instance_id == rows[1].id
    assert "2024 MiB asked for (24 MiB of them for the VMM), 1072 of 4096 MiB free" in refusal.reason
    placed = {one.instance_id for one in await store.placements.placements(node.id)}
    assert placed == {rows[0].id, rows[2].id}


async def test_a_shrunken_host_takes_nothing_and_recovers(store: Store) -> None:
    node, _, placement = await running(store, memory=1000)
    row = await instance(store, await ready_image(store, node), memory=10)
    await store.nodes.record_capacity(node.id, replace(CAPACITY, memory_total=900))
    (refusal,) = await apply_plan(store, assign(row, node))
    assert "0 of 900 MiB free" in refusal.reason
    await see(store, placement, STOPPED)
    assert await apply_plan(store, assign(row, node)) == ()


async def test_an_unknown_capacity_takes_nothing(store: Store) -> None:
    image = await ready_image(store, await ready_node(store))
    node = await store.nodes.register(host())
    await store.nodes.set_state(node.id, NodeState.READY)
    row = await instance(store, image)
    (refusal,) = await apply_plan(store, assign(row, node))
    assert "not known yet" in refusal.reason


async def test_a_host_without_ipv6_gives_ipv4_only(store: Store) -> None:
    node = await ready_node(store, ipv6=False)
    row = await instance(store, await ready_image(store, node))
    placement = await place(store, row, node)
    assert placement.lease.v6 is None
    await see(store, placement, EXITED)
    (usage,) = await store.leases.usage(node.id)
    assert (usage.family, usage.leased, usage.resting) == (4, 0, 1)


async def test_an_exhausted_pool_refuses_with_the_numbers(store: Store) -> None:
    node = await ready_node(store, v4="192.168.9.0/30")  # two usable addresses
    image = await ready_image(store, node)
    rows = [await instance(store, image) for _ in range(3)]
    first = await place(store, rows[0], node)
    await place(store, rows[1], node)
    await see(store, first, STOPPED)
    (refusal,) = await apply_plan(store, assign(rows[2], node))
    assert refusal.reason == "no free IPv4 address in 192.168.9.0/30: 1 leased, 1 resting"
    assert await live(store, node, rows[2].id) is None


async def test_contention_never_exceeds_capacity_and_never_doubles_an_address(database_url: str) -> None:
    """Many writers, each with connections of its own, place far more than fits, while others end what was placed."""
    async with open_store(database_url, size=12, rest=0.0) as store, open_store(database_url, size=12) as other:
        node = await ready_node(store, capacity=replace(CAPACITY, vcpu_overcommit=8.0))
        image = await ready_image(store, node)
        rows = [await instance(store, image, memory=300) for _ in range(48)]  # 12 fit: 12 x 324 <= 4096
        worst = {"memory": 0, "doubled": 0}
        done = trio.Event()

        def audit() -> None:
            with psycopg.connect(database_url, autocommit=True) as connection:
                while not done.is_set():
                    row = connection.execute(
                        "select coalesce(sum(memory + memory_overhead), 0), count(*) - count(distinct v4) "
                        "from placements where state <> 'removed'"
                    ).fetchone()
                    assert row is not None
                    worst["memory"] = max(worst["memory"], int(row[0]))
                    worst["doubled"] = max(worst["doubled"], row[1])

        async def worker(index: int) -> None:
            mine = store if index % 2 else other
            for _ in range(12):
                for row in rows[index::6]:
                    if await apply_plan(mine, assign(row, node)):
                        continue
                    placement = await live(mine, node, row.id)
                    if placement is not None and index < 2:
                        await mine.placements.observe(placement.id, list(PlacementState), EXITED)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, audit)
            async with trio.open_nursery() as workers:
                for index in range(12):
                    workers.start_soon(worker, index % 6)
            done.set()
        assert worst["memory"] <= 4096
        assert worst["doubled"] == 0
        placed = await store.placements.placements(node.id)
        assert len(placed) <= 12
        (resources,) = await store.nodes.resources(node.id)
        assert resources.memory_used == 324 * len(placed)
        (v4, v6) = await store.leases.usage(node.id)
        assert v4.leased == v6.leased == len(placed)


@pytest.mark.parametrize("workers", [16])
async def test_many_threads_take_every_address_of_a_pool_once(database_url: str, workers: int) -> None:
    roomy = replace(CAPACITY, vcpu_total=1000, memory_total=1_000_000)
    async with open_store(database_url, size=workers) as store:
        node = await ready_node(store, capacity=roomy, v4="192.168.9.0/26")  # 62 usable addresses
        image = await ready_image(store, node)
        rows = [await instance(store, image, memory=8) for _ in range(70)]
        refused: list[Postponed] = []

        async def one(index: int) -> None:
            for row in rows[index::workers]:
                refused.extend(await apply_plan(store, assign(row, node)))

        async with trio.open_nursery() as nursery:
            for index in range(workers):
                nursery.start_soon(one, index)
        placed = await store.placements.placements(node.id)
        assert len(placed) == 62
        assert len(refused) == 8
        assert len({one.lease.v4 for one in placed}) == len({one.lease.v6 for one in placed}) == 62


async def test_the_same_assignment_from_many_sides_is_one_placement(database_url: str) -> None:
    async with open_store(database_url, size=8) as store:
        node = await ready_node(store)
        row = await instance(store, await ready_image(store, node))
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(apply_plan, store, assign(row, node))
        assert len(await store.instances.placements(row.id)) == 1
        (v4, _) = await store.leases.usage(node.id)
        assert v4.leased == 1


async def test_stop_and_placement_at_once_leave_a_true_state(database_url: str) -> None:
    async with open_store(database_url, size=8) as store:
        node = await ready_node(store)
        image = await ready_image(store, node)
        for _ in range(15):
            row = await instance(store, image)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(apply_plan, store, assign(row, node))
                nursery.start_soon(store.instances.delete, row.id)
            placement = await live(store, node, row.id)
            after = await store.instances.get(row.id)
            if placement is None:
                assert after.state is InstanceState.TERMINATED
            else:
                assert not placement.wanted
                assert after.state is InstanceState.STARTING
                await see(store, placement, STOPPED)
                assert (await store.instances.get(row.id)).state is InstanceState.TERMINATED


async def test_removal_wakes_the_scheduler(store: Store) -> None:
    _, row, placement = await running(store)
    await store.instances.restart(row.id)
    with store.notifications.subscribe("zw_instances") as hints:
        await heeded(store, hints, "zw_instances")
        await see(store, placement, Observation(PlacementState.REMOVED))
        with trio.fail_after(60):
            assert str(row.id) in (await hints.wait()).ids
