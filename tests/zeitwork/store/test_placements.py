"""Placements as their host sees them."""

from __future__ import annotations

from uuid import uuid4

import pytest
import trio

from actors.model.errors import NotFound
from actors.model.health import HealthCheck, HealthState, HealthType
from actors.model.records import Observation
from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import InstanceDesired, InstanceState, Outcome, PlacementState
from tests.zeitwork.store.world import EXITED, STOPPED, instance, live, place, ready_image, ready_node, running, see
from zeitwork.store import Store

ALL = list(PlacementState)


async def test_compare_and_set(store: Store) -> None:
    node = await ready_node(store)
    row = await instance(store, await ready_image(store, node))
    placement = await place(store, row, node)
    assert placement.wanted
    assert placement.state is PlacementState.ASSIGNED
    preparing = Observation(PlacementState.PREPARING, reason="preparing the disk")
    assert not await store.placements.observe(placement.id, [PlacementState.RUNNING], preparing)
    assert (await store.placements.get(placement.id)).state is PlacementState.ASSIGNED
    assert await store.placements.observe(placement.id, [PlacementState.ASSIGNED], preparing)
    # What is already written is answered with True although it is not what was expected.
    assert await store.placements.observe(placement.id, [PlacementState.ASSIGNED], preparing)
    seen = await store.instances.get(row.id)
    assert (seen.state, seen.reason, seen.observed_generation) == (InstanceState.STARTING, "preparing the disk", 1)


async def test_only_one_of_two_that_expect_the_same_wins(store: Store) -> None:
    _node, _, placement = await running(store)
    answers: list[bool] = []

    async def one(state: PlacementState) -> None:
        answers.append(await store.placements.observe(placement.id, [PlacementState.RUNNING], Observation(state)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, PlacementState.STOPPING)
        nursery.start_soon(one, PlacementState.PREPARING)
    assert sorted(answers) == [False, True]


async def test_facts_are_kept_until_newer_ones_come(store: Store) -> None:
    _, _, placement = await running(store)
    await see(store, placement, Observation(PlacementState.STOPPING))
    row = await store.placements.get(placement.id)
    assert (row.pid, row.hypervisor, row.boot_id) == (4711, "qemu", "boot-1")
    assert row.running_at is not None
    await see(store, placement, EXITED)
    row = await store.placements.get(placement.id)
    assert (row.state, row.outcome, row.exit_status) == (PlacementState.REMOVED, Outcome.EXITED, 1)
    assert row.reason == "the app exited with status 1"
    assert row.removed_at is not None
    assert row.v4 == placement.lease.v4


async def test_removed_is_final(store: Store) -> None:
    node, _row, placement = await running(store)
    await see(store, placement, STOPPED)
    assert not await store.placements.observe(placement.id, ALL, Observation(PlacementState.RUNNING))
    assert await store.placements.observe(placement.id, ALL, EXITED)
    assert (await store.placements.get(placement.id)).outcome is Outcome.STOPPED
    assert await store.placements.placements(node.id) == []


async def test_a_wanted_one_may_start_again_in_place_after_a_reboot(store: Store) -> None:
    node, row, placement = await running(store)
    await see(store, placement, Observation(PlacementState.PREPARING, reason="the host was restarted"))
    await see(store, placement, Observation(PlacementState.RUNNING, pid=99, boot_id="boot-2"))
    (again,) = await store.placements.placements(node.id)
    assert (again.id, again.wanted, again.boot_id, again.lease) == (placement.id, True, "boot-2", placement.lease)
    assert (await store.instances.get(row.id)).state is InstanceState.RUNNING


async def test_tombstones_are_only_what_was_removed_here(store: Store) -> None:
    node, _row, placement = await running(store)
    other = await ready_node(store)
    stranger = uuid4()
    assert await store.placements.tombstones(node.id, [placement.id, stranger]) == set()
    await see(store, placement, STOPPED)
    assert await store.placements.tombstones(node.id, [placement.id, stranger]) == {placement.id}
    assert await store.placements.tombstones(other.id, [placement.id]) == set()
    assert await store.placements.tombstones(node.id, []) == set()


async def test_each_host_sees_its_own(store: Store) -> None:
    node, _, placement = await running(store)
    other = await ready_node(store)
    assert [one.id for one in await store.placements.placements(node.id)] == [placement.id]
    assert await store.placements.placements(other.id) == []


async def test_a_placement_without_a_name_has_a_hostname(store: Store) -> None:
    _, _, placement = await running(store)
    assert placement.hostname.startswith("i-")


async def test_a_stranger_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.placements.observe(uuid4(), ALL, EXITED)
    with pytest.raises(NotFound):
        await store.placements.get(uuid4())


async def test_a_wait_is_kept_for_the_host_until_someone_asks_for_a_try_at_once(store: Store) -> None:
    policy = RestartPolicy(RestartMode.ON_FAILURE, 7)
    node, row, placement = await running(store, restart=policy)
    assert (placement.restart, placement.failures, placement.next_try_at) == (policy, 0, None)
    waiting = Observation(PlacementState.WAITING, "boom", Outcome.EXITED, 1, failures=4, next_try_at=2e9)
    await see(store, placement, waiting)
    found = await live(store, node, row.id)
    assert found is not None
    assert (found.state, found.failures, found.next_try_at) == (PlacementState.WAITING, 4, 2e9)
    assert found.lease == placement.lease
    assert (await store.instances.get(row.id)).state is InstanceState.CRASH_LOOP

    asked = await store.instances.set_desired(row.id, InstanceDesired.RUNNING)
    assert (asked.state, asked.generation) == (InstanceState.STARTING, row.generation)
    found = await live(store, node, row.id)
    assert found is not None
    assert (found.wanted, found.failures, found.next_try_at) == (True, 0, None)
    # A wait that begins after that is a wait again.
    await see(store, placement, Observation(PlacementState.PREPARING, failures=0))
    await see(
        store, placement, Observation(PlacementState.WAITING, "boom", Outcome.EXITED, 1, failures=1, next_try_at=2e9)
    )
    found = await live(store, node, row.id)
    assert found is not None
    assert (found.failures, found.next_try_at) == (1, 2e9)
    assert (await store.placements.get(placement.id)).restarts == 1


async def test_a_stop_ends_a_wait(store: Store) -> None:
    node, row, placement = await running(store)
    await see(
        store, placement, Observation(PlacementState.WAITING, "boom", Outcome.EXITED, 1, failures=4, next_try_at=2e9)
    )
    await store.instances.set_desired(row.id, InstanceDesired.STOPPED)
    found = await live(store, node, row.id)
    assert found is not None
    assert not found.wanted
    await see(store, placement, Observation(PlacementState.REMOVED, "boom", Outcome.EXITED, 1))
    after = await store.instances.get(row.id)
    assert (after.state, after.reason, after.next_try_at) == (InstanceState.STOPPED, "boom", None)


async def test_health_is_of_one_start_and_its_changes_are_events(store: Store) -> None:
    check = HealthCheck(HealthType.HTTP, "/up", 81, 5.0, 1.0, 3)
    node, row, placement = await running(store, health=check)
    assert (placement.health, row.health_check, row.health) == (check, check, HealthState.UNKNOWN)
    for _ in range(2):
        assert await store.placements.record_health(placement.id, HealthState.UNHEALTHY, "status 500")
    seen = await store.instances.get(row.id)
    assert (seen.state, seen.health, seen.health_reason) == (InstanceState.RUNNING, HealthState.UNHEALTHY, "status 500")
    assert seen.health_changed_at is not None
    events = [event for event in await store.instances.events(row.id) if event.what == "instance.health"]
    assert [event.data["to"] for event in events] == ["unhealthy"]
    await see(store, placement, Observation(PlacementState.WAITING, "boom", Outcome.UNHEALTHY, failures=1))
    assert (await store.instances.get(row.id)).health is HealthState.UNKNOWN
    assert not await store.placements.record_health(placement.id, HealthState.HEALTHY, "")
    found = await live(store, node, row.id)
    assert found is not None
    before = found.running_at
    await see(store, placement, Observation(PlacementState.RUNNING))
    found = await live(store, node, row.id)
    assert found is not None
    assert (found.health_state, found.running_at != before) == (HealthState.UNKNOWN, True)
