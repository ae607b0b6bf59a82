"""Pausing, snapshots and what goes on from them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
import trio

from actors.model.errors import Conflict, InvalidInput, NotFound
from actors.model.health import HealthCheck, HealthState, HealthType
from actors.model.records import Observation, Placement, SnapshotMade
from actors.model.resources import Resources
from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import InstanceDesired, InstanceState, Outcome, PlacementState, SnapshotState
from actors.scheduler.plan import evaluate
from tests.zeitwork.store.world import (
    CAPACITY,
    EXITED,
    STOPPED,
    apply_plan,
    assign,
    instance,
    live,
    place,
    ready_image,
    ready_node,
    running,
    see,
)
from zeitwork.store import Store
from zeitwork.store.rows import InstanceRow, NewInstance, NodeRow, SnapshotRow

MADE = SnapshotMade(size=123456, hypervisor="firecracker", vmm_version="1.12.1", guest="6.1.0-40/3", cpu="Some CPU")
PAUSED = Observation(PlacementState.PAUSED)
RUNNING = Observation(PlacementState.RUNNING)


async def taken(store: Store, **changes: object) -> tuple[NodeRow, InstanceRow, Placement, SnapshotRow]:
    """Run an instance and take a snapshot of it."""
    node, row, placement = await running(store, **changes)
    snapshot = await store.snapshots.create(row.id, name="before")
    assert await store.snapshots.taken(snapshot.id, MADE)
    return node, row, placement, await store.snapshots.get(snapshot.id)


def copy_of(snapshot: SnapshotRow, **changes: object) -> NewInstance:
    new = NewInstance(
        snapshot.image_id, snapshot.resources, snapshot.default_port, environment=snapshot.environment,
        command=snapshot.command, snapshot_id=snapshot.id,
    )  # fmt: skip
    return replace(new, **changes)  # type: ignore[arg-type]


# --- pause and resume


async def test_pause_and_resume(store: Store) -> None:
    node, row, placement = await running(store, health=HealthCheck(HealthType.TCP))
    assert await store.placements.record_health(placement.id, HealthState.HEALTHY, "")
    began = (await store.placements.get(placement.id)).running_at
    asked = await store.instances.pause(row.id)
    assert (asked.paused, asked.state, asked.desired, asked.generation) == (
        True, InstanceState.RUNNING, InstanceDesired.RUNNING, 1,
    )  # fmt: skip
    assert await store.instances.pause(row.id) == asked
    told = await live(store, node, row.id)
    assert told is not None
    assert (told.wanted, told.paused) == (True, True)
    await see(store, placement, PAUSED)
    seen = await store.instances.get(row.id)
    assert (seen.state, seen.paused, seen.v4, seen.health) == (
        InstanceState.PAUSED, True, placement.lease.v4, HealthState.HEALTHY,
    )  # fmt: skip
    # It holds what it held, and its health is what it was: nobody probes what stands still.
    (use,) = await store.nodes.resources(node.id)
    assert (use.placements, use.memory_used) == (1, 128 + CAPACITY.memory_overhead)
    assert not await store.placements.record_health(placement.id, HealthState.UNHEALTHY, "no answer")
    assert not (await store.instances.resume(row.id)).paused
    told = await live(store, node, row.id)
    assert told is not None
    assert not told.paused
    await see(store, placement, RUNNING)
    seen = await store.instances.get(row.id)
    assert (seen.state, seen.paused, seen.health) == (InstanceState.RUNNING, False, HealthState.HEALTHY)
    assert (await store.placements.get(placement.id)).running_at == began
    what = [event.what for event in await store.instances.events(row.id) if event.who == "api"]
    assert what == ["instance.created", "instance.paused", "instance.resumed"]


async def test_running_is_asked_of_a_paused_one(store: Store) -> None:
    _, row, placement = await running(store)
    await store.instances.pause(row.id)
    await see(store, placement, PAUSED)
    again = await store.instances.set_desired(row.id, InstanceDesired.RUNNING)
    assert (again.paused, again.generation, again.state) == (False, 1, InstanceState.PAUSED)


@pytest.mark.parametrize("state", [PlacementState.ASSIGNED, PlacementState.PREPARING, PlacementState.STOPPING])
async def test_only_what_runs_is_paused(store: Store, state: PlacementState) -> None:
    _, row, placement = await running(store)
    await see(store, placement, Observation(state))
    for call in (store.instances.pause, store.instances.resume):
        with pytest.raises(Conflict) as caught:
            await call(row.id)
        assert caught.value.code == "not-running"
        assert "starting" in caught.value.detail or "stopping" in caught.value.detail


async def test_what_is_to_end_or_start_anew_is_neither_paused_nor_resumed(store: Store) -> None:
    _, row, placement = await running(store)
    await store.instances.restart(row.id)
    with pytest.raises(Conflict, match="about to be started anew"):
        await store.instances.pause(row.id)
    await store.instances.set_desired(row.id, InstanceDesired.STOPPED)
    for call in (store.instances.pause, store.instances.resume):
        with pytest.raises(Conflict, match="wanted stopped"):
            await call(row.id)
    await see(store, placement, STOPPED)
    with pytest.raises(Conflict, match="is stopped and wanted stopped"):
        await store.instances.pause(row.id)
    await store.instances.delete(row.id)
    with pytest.raises(Conflict, match="final"):
        await store.instances.pause(row.id)


@pytest.mark.parametrize("how", ["stop", "restart", "restore"])
async def test_an_end_ends_the_pause(store: Store, how: str) -> None:
    node, row, placement, snapshot = await taken(store)
    await store.instances.pause(row.id)
    await see(store, placement, PAUSED)
    match how:
        case "stop":
            after = await store.instances.set_desired(row.id, InstanceDesired.STOPPED)
        case "restart":
            after = await store.instances.restart(row.id)
        case _:
            after = await store.instances.restore(row.id, snapshot.id)
    assert not after.paused
    told = await live(store, node, row.id)
    assert told is not None
    assert (told.wanted, told.paused) == (False, False)


async def test_a_pause_that_began_before_its_host_saw_it_run_is_of_one_start(store: Store) -> None:
    node = await ready_node(store)
    row = await instance(store, await ready_image(store, node))
    placement = await place(store, row, node)
    await see(store, placement, Observation(PlacementState.STARTING))
    await see(store, placement, PAUSED)  # a host that was restarted in between saw only this
    began = (await store.placements.get(placement.id)).running_at
    assert began is not None
    await see(store, placement, RUNNING)
    assert (await store.placements.get(placement.id)).running_at == began
    await see(store, placement, Observation(PlacementState.WAITING, "boom", Outcome.VMM_DIED, failures=1))
    await see(store, placement, PAUSED)
    assert (await store.placements.get(placement.id)).running_at != began


async def test_a_new_reason_in_the_same_state_is_told(store: Store) -> None:
    _, row, placement = await running(store)
    stuck = Observation(PlacementState.STOPPING, "its monitor does not end after SIGKILL")
    await see(store, placement, Observation(PlacementState.STOPPING))
    assert await store.placements.observe(placement.id, [PlacementState.STOPPING], stuck)
    assert (await store.placements.get(placement.id)).reason == stuck.reason
    found = await store.instances.get(row.id)
    assert (found.state, found.reason) == (InstanceState.STOPPING, stuck.reason)
    events = [event.data["reason"] for event in await store.instances.events(row.id) if event.what == "instance.state"]
    assert events[-1] == stuck.reason


# --- taking


async def test_a_snapshot_is_asked_for_taken_and_told(store: Store) -> None:
    check, policy = HealthCheck(HealthType.HTTP, "/up", 81, 5.0, 1.0, 3), RestartPolicy(RestartMode.ON_FAILURE, 7)
    node, row, placement = await running(
        store, name="web", environment={"TOKEN": "hunter2"}, command=("/bin/x",), stop_timeout=5.0, health=check,
        restart=policy,
    )  # fmt: skip
    identifier = uuid4()
    asked = await store.snapshots.create(row.id, name="before", id=identifier)
    assert (asked.id, asked.name, asked.state, asked.instance_name) == (
        identifier, "before", SnapshotState.CREATING, "web",
    )  # fmt: skip
    assert (asked.instance_id, asked.placement_id, asked.node_id) == (row.id, placement.id, node.id)
    assert (asked.image_id, asked.image_source, asked.image_digest) == (
        row.image_id, row.image_source, placement.image_digest,
    )  # fmt: skip
    assert (asked.resources, asked.default_port, asked.environment, asked.command) == (
        Resources(1, 128), 8080, {"TOKEN": "hunter2"}, ("/bin/x",),
    )  # fmt: skip
    assert (asked.stop_timeout, asked.restart, asked.health_check) == (5.0, policy, check)
    assert await store.snapshots.create(row.id, name="before", id=identifier) == asked
    told = await live(store, node, row.id)
    assert told is not None
    assert told.snapshots == (identifier,)
    for _ in range(2):
        assert await store.snapshots.taken(identifier, MADE)
    done = await store.snapshots.get(identifier)
    assert (done.state, done.size, done.hypervisor, done.vmm_version, done.guest, done.cpu) == (
        SnapshotState.READY, MADE.size, MADE.hypervisor, MADE.vmm_version, MADE.guest, MADE.cpu,
    )  # fmt: skip
    assert done.ready_at is not None
    told = await live(store, node, row.id)
    assert told is not None
    assert told.snapshots == ()
    # What fails afterwards is not this one.
    await store.snapshots.failed(identifier, "the disk is full")
    assert await store.snapshots.get(identifier) == done
    events = [event for event in await store.instances.events(row.id) if event.subject_kind == "snapshot"]
    assert [(event.who, event.what, event.data.get("to")) for event in events] == [
        ("api", "snapshot.created", None), ("host", "snapshot.state", "ready"),
    ]  # fmt: skip
    assert "hunter2" not in repr(events)


async def test_one_is_taken_of_a_paused_one_and_one_at_a_time(store: Store) -> None:
    _, row, placement = await running(store)
    await store.instances.pause(row.id)
    await see(store, placement, PAUSED)
    first = await store.snapshots.create(row.id)
    with pytest.raises(Conflict) as caught:
        await store.snapshots.create(row.id)
    assert caught.value.code == "snapshot-in-progress"
    assert str(first.id) in caught.value.detail
    await store.snapshots.failed(first.id, "the disk is full")
    found = await store.snapshots.get(first.id)
    assert (found.state, found.reason) == (SnapshotState.FAILED, "the disk is full")
    assert not await store.snapshots.taken(first.id, MADE)
    assert (await store.snapshots.create(row.id)).state is SnapshotState.CREATING


async def test_none_is_taken_of_what_does_not_run(store: Store) -> None:
    node = await ready_node(store)
    row = await instance(store, await ready_image(store, node))
    with pytest.raises(Conflict, match="pending"):
        await store.snapshots.create(row.id)
    placement = await place(store, row, node)
    with pytest.raises(Conflict, match="starting"):
        await store.snapshots.create(row.id)
    await see(store, placement, RUNNING)
    await store.instances.restart(row.id)
    with pytest.raises(Conflict):
        await store.snapshots.create(row.id)
    await store.instances.set_desired(row.id, InstanceDesired.STOPPED)
    with pytest.raises(Conflict, match="wanted stopped") as caught:
        await store.snapshots.create(row.id)
    assert caught.value.code == "not-running"
    with pytest.raises(NotFound):
        await store.snapshots.create(uuid4())


@pytest.mark.parametrize(
    "seen",
    [
        EXITED,
        Observation(PlacementState.STOPPING),
        Observation(PlacementState.WAITING, "boom", Outcome.PANIC, failures=1),
        Observation(PlacementState.PREPARING, "the host was restarted"),
    ],
)
async def test_what_can_not_be_taken_any_more_fails_with_the_reason(store: Store, seen: Observation) -> None:
    _, row, placement = await running(store)
    snapshot = await store.snapshots.create(row.id)
    await see(store, placement, seen)
    found = await store.snapshots.get(snapshot.id)
    assert found.state is SnapshotState.FAILED
    assert "before it was taken" in found.reason
    assert seen.reason in found.reason
    assert not await store.snapshots.taken(snapshot.id, MADE)


async def test_a_pause_in_between_fails_nothing(store: Store) -> None:
    _, row, placement = await running(store)
    snapshot = await store.snapshots.create(row.id)
    await see(store, placement, PAUSED)
    await see(store, placement, RUNNING)
    assert (await store.snapshots.get(snapshot.id)).state is SnapshotState.CREATING


async def test_asking_for_one_and_stopping_at_once_leaves_none_half_done(store: Store) -> None:
    for _ in range(10):
        _, row, placement = await running(store)
        made: list[UUID] = []

        async def take() -> None:
            try:
                made.append((await store.snapshots.create(row.id)).id)  # noqa: B023
            except Conflict as error:
                assert error.code == "not-running"

        async def end() -> None:
            await store.instances.set_desired(row.id, InstanceDesired.STOPPED)  # noqa: B023
            await see(store, placement, STOPPED)  # noqa: B023

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            nursery.start_soon(end)
        for snapshot in made:
            assert (await store.snapshots.get(snapshot)).state is SnapshotState.FAILED
        assert (await store.snapshots.list(state=SnapshotState.CREATING)).items == ()


async def test_of_two_that_ask_at_once_one_gets_it(store: Store) -> None:
    _, row, _ = await running(store)
    outcomes: list[str] = []

    async def take() -> None:
        try:
            await store.snapshots.create(row.id)
            outcomes.append("made")
        except Conflict as error:
            outcomes.append(error.code)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(take)
    assert sorted(outcomes) == ["made", *["snapshot-in-progress"] * 3]


# --- deleting


async def test_a_snapshot_is_deleted_once_its_host_says_so(store: Store) -> None:
    node, _, _, snapshot = await taken(store)
    other = await ready_node(store)
    assert await store.snapshots.deleting(node.id, [snapshot.id]) == set()
    asked = await store.snapshots.delete(snapshot.id)
    assert asked.state is SnapshotState.DELETING
    assert await store.snapshots.delete(snapshot.id) == asked
    # Also when no file of it is there, or its deletion would never end.
    assert await store.snapshots.deleting(node.id, []) == {snapshot.id}
    assert await store.snapshots.deleting(other.id, [snapshot.id]) == set()
    for _ in range(2):
        await store.snapshots.removed(snapshot.id)
    gone = await store.snapshots.get(snapshot.id)
    assert gone.state is SnapshotState.DELETED
    assert gone.deleted_at is not None
    assert (await store.snapshots.list()).items == ()
    assert [one.id for one in (await store.snapshots.list(state=SnapshotState.DELETED)).items] == [snapshot.id]
    assert await store.snapshots.deleting(node.id, [snapshot.id]) == {snapshot.id}
    assert await store.snapshots.deleting(node.id, []) == set()
    assert await store.snapshots.delete(snapshot.id) == gone


async def test_only_what_is_given_up_may_be_destroyed(store: Store) -> None:
    node, row, _, ready = await taken(store)
    failed = await store.snapshots.create(row.id)
    await store.snapshots.failed(failed.id, "no")
    creating = await store.snapshots.create(row.id)
    stranger = uuid4()
    asked = [ready.id, failed.id, creating.id, stranger]
    assert await store.snapshots.deleting(node.id, asked) == {failed.id}
    await store.snapshots.removed(failed.id)
    await store.snapshots.removed(ready.id)
    await store.snapshots.removed(stranger)
    assert {one.state for one in (await store.snapshots.list()).items} == {
        SnapshotState.READY, SnapshotState.FAILED, SnapshotState.CREATING,
    }  # fmt: skip
    assert not await store.snapshots.taken(stranger, MADE)
    await store.snapshots.failed(stranger, "no")


async def test_one_that_is_being_taken_is_given_up(store: Store) -> None:
    node, row, _ = await running(store)
    snapshot = await store.snapshots.create(row.id)
    assert (await store.snapshots.delete(snapshot.id)).state is SnapshotState.DELETING
    assert not await store.snapshots.taken(snapshot.id, MADE)
    told = await live(store, node, row.id)
    assert told is not None
    assert told.snapshots == ()
    assert await store.snapshots.deleting(node.id, []) == {snapshot.id}


async def test_lists_and_counts(store: Store) -> None:
    _, row, _, first = await taken(store)
    _, other, _, second = await taken(store)
    pending = await store.snapshots.create(row.id)
    assert [one.id for one in (await store.snapshots.list()).items] == [first.id, second.id, pending.id]
    assert [one.id for one in (await store.snapshots.list(instance_id=other.id)).items] == [second.id]
    ready = await store.snapshots.list(instance_id=row.id, state=SnapshotState.READY)
    assert [one.id for one in ready.items] == [first.id]
    page = await store.snapshots.list(limit=2)
    assert [one.id for one in (await store.snapshots.list(limit=2, cursor=page.next_cursor)).items] == [pending.id]
    assert await store.snapshots.counts() == {
        SnapshotState.CREATING: 1, SnapshotState.READY: 2, SnapshotState.FAILED: 0, SnapshotState.DELETING: 0,
    }  # fmt: skip


async def test_a_stranger_is_not_found(store: Store) -> None:
    calls: tuple[Callable[[UUID], Awaitable[object]], ...] = (store.snapshots.get, store.snapshots.delete)
    for call in calls:
        with pytest.raises(NotFound):
            await call(uuid4())


# --- going on from one


async def test_a_new_instance_goes_on_from_a_snapshot_where_it_is(store: Store) -> None:
    node, row, _, snapshot = await taken(store, environment={"A": "1"})
    # Another host has less left over, and the image too: so the scheduler would choose it for anything else.
    smaller = await ready_node(store, capacity=replace(CAPACITY, memory_total=1024))
    await store.images.record_cached(smaller.id, frozenset({snapshot.image_digest}))
    plain = await instance(store, await store.images.get(row.image_id))
    made = await store.instances.create(copy_of(snapshot, name="copy"))
    assert (made.snapshot_id, made.pinned_node_id, made.environment) == (snapshot.id, None, {"A": "1"})
    assert await apply_plan(store, evaluate(await store.scheduling.pending(), await store.scheduling.nodes())) == ()
    assert await live(store, smaller, plain.id) is not None
    placement = await live(store, node, made.id)
    assert placement is not None
    assert (placement.restore, placement.image_digest) == (snapshot.id, snapshot.image_digest)
    assert (await store.placements.get(placement.id)).snapshot_id == snapshot.id
    # Until it runs: a failed start is tried again from the snapshot.
    await see(store, placement, Observation(PlacementState.STARTING))
    await see(store, placement, Observation(PlacementState.WAITING, "boom", Outcome.START_FAILED, failures=1))
    placement = await live(store, node, made.id)
    assert placement is not None
    assert placement.restore == snapshot.id
    await see(store, placement, RUNNING)
    await see(store, placement, Observation(PlacementState.WAITING, "boom", Outcome.EXITED, 1, failures=1))
    placement = await live(store, node, made.id)
    assert placement is not None
    assert placement.restore is None
    # The next generation boots, and may do so anywhere.
    await store.instances.restart(made.id)
    await see(store, placement, STOPPED)
    again = await store.instances.get(made.id)
    assert again.snapshot_id is None
    assert (await place(store, again, smaller)).restore is None


async def test_an_instance_goes_back_to_a_snapshot(store: Store) -> None:
    node, row, placement, snapshot = await taken(store)
    asked = await store.instances.restore(row.id, snapshot.id, stop_timeout=2.0)
    assert (asked.generation, asked.snapshot_id, asked.state) == (2, snapshot.id, InstanceState.RUNNING)
    old = await live(store, node, row.id)
    assert old is not None
    assert (old.wanted, old.stop_timeout, old.restore) == (False, 2.0, None)
    await see(store, placement, STOPPED)
    (pending,) = (await store.scheduling.pending()).instances
    assert pending.node_id == node.id
    elsewhere = await ready_node(store)
    refused = await apply_plan(store, assign(await store.instances.get(row.id), elsewhere))
    assert [one.reason for one in refused] == ["its snapshot is on another host"]
    following = await place(store, await store.instances.get(row.id), node)
    assert (following.restore, following.generation) == (snapshot.id, 2)
    assert following.lease.v4 != placement.lease.v4
    (event,) = [one for one in await store.instances.events(row.id) if one.what == "instance.restored"]
    assert event.data["snapshot_id"] == str(snapshot.id)


async def test_a_stopped_one_goes_on_from_a_snapshot_too(store: Store) -> None:
    node, row, placement, snapshot = await taken(store)
    await store.instances.set_desired(row.id, InstanceDesired.STOPPED)
    await see(store, placement, STOPPED)
    asked = await store.instances.restore(row.id, snapshot.id)
    assert (asked.desired, asked.state, asked.generation) == (InstanceDesired.RUNNING, InstanceState.PENDING, 2)
    assert (await place(store, asked, node)).restore == snapshot.id
    await store.instances.delete(row.id)
    with pytest.raises(Conflict, match="final"):
        await store.instances.restore(row.id, snapshot.id)
    with pytest.raises(NotFound):
        await store.instances.restore(uuid4(), snapshot.id)


async def test_whoever_goes_on_is_made_of_the_same(store: Store) -> None:
    node, row, _, snapshot = await taken(store, environment={"A": "1"})
    other = await ready_node(store)
    image = await ready_image(store, node, "registry.example/other:1")
    for changes, field in (
        ({"snapshot_id": uuid4()}, "snapshot_id"),
        ({"image_id": image.id}, "snapshot_id"),
        ({"resources": Resources(2, 128)}, "resources.vcpu"),
        ({"resources": Resources(1, 256)}, "resources.memory"),
        ({"resources": Resources(1, 128, 2048)}, "resources.disk"),
        ({"environment": {"A": "2"}}, "environment_variables"),
        ({"command": ("/bin/other",)}, "command"),
        ({"node_id": other.id}, "node_id"),
    ):
        with pytest.raises(InvalidInput) as caught:
            await store.instances.create(copy_of(snapshot, **changes))
        assert caught.value.field == field, changes
    stranger = await instance(store, await store.images.get(row.image_id), memory=256)
    with pytest.raises(InvalidInput) as caught:
        await store.instances.restore(stranger.id, snapshot.id)
    assert caught.value.field == "resources.memory"
    assert (await store.instances.get(stranger.id)).generation == 1


@pytest.mark.parametrize("state", [SnapshotState.CREATING, SnapshotState.FAILED, SnapshotState.DELETING])
async def test_only_a_ready_one_is_restored(store: Store, state: SnapshotState) -> None:
    _, row, _ = await running(store)
    snapshot = await store.snapshots.create(row.id)
    if state is SnapshotState.FAILED:
        await store.snapshots.failed(snapshot.id, "the disk is full")
    elif state is SnapshotState.DELETING:
        await store.snapshots.delete(snapshot.id)
    for call in (store.instances.create(copy_of(snapshot)), store.instances.restore(row.id, snapshot.id)):
        with pytest.raises(Conflict) as caught:
            await call
        assert (caught.value.field, caught.value.code) == ("snapshot_id", "snapshot-not-ready")
        assert state in caught.value.detail


async def test_one_that_is_needed_is_not_deleted(store: Store) -> None:
    node, row, placement, snapshot = await taken(store)
    made = await store.instances.create(copy_of(snapshot, name="copy"))
    with pytest.raises(Conflict, match="copy has yet to start") as caught:
        await store.snapshots.delete(snapshot.id)
    assert caught.value.code == "snapshot-needed"
    placed = await place(store, made, node)
    with pytest.raises(Conflict, match="copy"):
        await store.snapshots.delete(snapshot.id)
    await see(store, placed, RUNNING)
    await store.instances.restore(row.id, snapshot.id)
    await see(store, placement, STOPPED)
    with pytest.raises(Conflict, match=str(row.id)):
        await store.snapshots.delete(snapshot.id)
    # What is not wanted any more needs nothing.
    await store.instances.set_desired(row.id, InstanceDesired.STOPPED)
    assert (await store.snapshots.delete(snapshot.id)).state is SnapshotState.DELETING
    await store.instances.set_desired(row.id, InstanceDesired.RUNNING)
    assert (await place(store, await store.instances.get(row.id), node)).restore is None


async def test_deleting_one_and_going_on_from_it_at_once_never_both_succeed(store: Store) -> None:
    node, row, placement, _ = await taken(store)
    for round_ in range(10):
        wanted = await store.snapshots.create(row.id)
        assert await store.snapshots.taken(wanted.id, MADE)
        outcomes: list[str] = []

        async def use() -> None:
            try:
                if round_ % 2:  # noqa: B023
                    await store.instances.create(copy_of(wanted))  # noqa: B023
                else:
                    await store.instances.restore(row.id, wanted.id)  # noqa: B023
            except Conflict as error:
                outcomes.append(error.code)  # noqa: B023

        async def delete() -> None:
            try:
                await store.snapshots.delete(wanted.id)  # noqa: B023
            except Conflict as error:
                outcomes.append(error.code)  # noqa: B023

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            nursery.start_soon(delete)
        assert outcomes in (["snapshot-not-ready"], ["snapshot-needed"])
        if not round_ % 2 and outcomes == ["snapshot-needed"]:
            await see(store, placement, STOPPED)
            placement = await place(store, await store.instances.get(row.id), node)
            assert placement.restore == wanted.id
            await see(store, placement, RUNNING)


async def test_an_image_with_a_snapshot_is_in_use(store: Store) -> None:
    _, row, placement, snapshot = await taken(store)
    await store.instances.delete(row.id)
    await see(store, placement, STOPPED)
    assert (await store.images.get(row.image_id)).used_by == 1
    with pytest.raises(Conflict, match=str(snapshot.id)):
        await store.images.delete(row.image_id)
    # A copy of what is gone.
    made = await store.instances.create(copy_of(snapshot))
    assert made.image_id == row.image_id
    await store.instances.delete(made.id)
    await store.snapshots.delete(snapshot.id)
    assert (await store.images.delete(row.image_id)).deleted_at is not None


async def test_snapshots_go_with_their_host(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeitwork.store.nodes.ALIVE_WITHIN", 0.0)
    node, row, placement, snapshot = await taken(store)
    await store.instances.delete(row.id)
    await see(store, placement, STOPPED)
    made = await store.instances.create(copy_of(snapshot, name="copy"))
    with pytest.raises(Conflict, match="copy has yet to start"):
        await store.nodes.delete(node.id)
    await store.instances.delete(made.id)
    await store.nodes.delete(node.id)
    gone = await store.snapshots.get(snapshot.id)
    assert (gone.state, gone.reason) == (SnapshotState.DELETED, "its host was deleted")
