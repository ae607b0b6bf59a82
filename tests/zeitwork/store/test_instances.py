"""Instances: desired and observed state, and how the one follows the other."""

from __future__ import annotations

from uuid import uuid4

import pytest

from actors.model.errors import Conflict, InvalidInput, NotFound
from actors.model.records import Observation
from actors.model.resources import Resources
from actors.model.states import InstanceDesired, InstanceState, Outcome, PlacementState, Volumes
from tests.zeitwork.store.world import EXITED, STOPPED, instance, live, place, ready_image, ready_node, running, see
from zeitwork.store import Store
from zeitwork.store.rows import NewInstance


async def test_a_new_one_is_what_was_asked_for(store: Store) -> None:
    node = await ready_node(store)
    image = await ready_image(store, node)
    new = NewInstance(
        image.id, Resources(2, 256, 512), 3000, name="web", node_id=node.id, environment={"A": "1"},
        command=("/bin/x", "-v"), stop_timeout=5.0,
    )  # fmt: skip
    row = await store.instances.create(new)
    assert (row.name, row.image_id, row.image_source, row.pinned_node_id) == ("web", image.id, image.source, node.id)
    assert (row.resources, row.default_port, row.environment) == (Resources(2, 256, 512), 3000, {"A": "1"})
    assert (row.command, row.stop_timeout) == (("/bin/x", "-v"), 5.0)
    assert (row.desired, row.generation, row.state) == (InstanceDesired.RUNNING, 1, InstanceState.PENDING)
    assert (row.node_id, row.placement_id, row.v4, row.v6) == (None, None, None, None)
    assert await store.instances.get(row.id) == row == await store.instances.find("web")
    placement = await place(store, row, node)
    assert (placement.hostname, placement.environment, placement.command) == ("web", {"A": "1"}, ("/bin/x", "-v"))
    assert placement.image_config.argv == ("/bin/app", "serve")


async def test_creating_twice_makes_one(store: Store) -> None:
    image = await ready_image(store, await ready_node(store))
    identifier = uuid4()
    first = await instance(store, image, id=identifier, name="web")
    assert await instance(store, image, id=identifier, name="web") == first
    assert len((await store.instances.list()).items) == 1


async def test_a_name_is_taken_until_its_owner_is_terminated(store: Store) -> None:
    image = await ready_image(store, await ready_node(store))
    first = await instance(store, image, name="web")
    with pytest.raises(Conflict) as caught:
        await instance(store, image, name="web")
    assert caught.value.field == "name"
    await store.instances.delete(first.id)
    second = await instance(store, image, name="web")
    assert (await store.instances.find("web")).id == second.id


async def test_bad_references_name_their_field(store: Store) -> None:
    node = await ready_node(store)
    image = await ready_image(store, node)
    for changes, field in (({"image_id": uuid4()}, "image_id"), ({"node_id": uuid4()}, "node_id")):
        values = {"image_id": image.id, "resources": Resources(1, 64), "default_port": 80, **changes}
        with pytest.raises(InvalidInput) as caught:
            await store.instances.create(NewInstance(**values))  # type: ignore[arg-type]
        assert caught.value.field == field
    await store.images.delete(image.id)
    with pytest.raises(InvalidInput):
        await instance(store, image)


async def test_what_no_host_could_hold_is_refused_with_the_numbers(store: Store) -> None:
    node = await ready_node(store)  # 16 vCPU and 4096 MiB for instances, 24 MiB of overhead each
    image = await ready_image(store, node)
    with pytest.raises(InvalidInput) as caught:
        await instance(store, image, memory=4073)
    assert caught.value.field == "resources.memory"
    assert "4073 MiB asked for, the largest host has 4072 MiB" in caught.value.detail
    with pytest.raises(InvalidInput) as caught:
        await instance(store, image, vcpu=17)
    assert caught.value.field == "resources.vcpu"
    assert "17 vCPU asked for, the largest host has 16" in caught.value.detail
    await instance(store, image, memory=4072, vcpu=16)


async def test_asking_again_changes_nothing(store: Store) -> None:
    _, row, _ = await running(store)
    before = await store.instances.events(row.id)
    assert await store.instances.set_desired(row.id, InstanceDesired.RUNNING) == row
    assert await store.instances.events(row.id) == before


async def test_stop_waits_for_the_host_and_start_is_a_new_generation(store: Store) -> None:
    node, row, placement = await running(store)
    assert (row.state, row.v4, row.placement_id) == (InstanceState.RUNNING, placement.lease.v4, placement.id)
    asked = await store.instances.set_desired(row.id, InstanceDesired.STOPPED, stop_timeout=3.0)
    assert (asked.desired, asked.state, asked.generation) == (InstanceDesired.STOPPED, InstanceState.RUNNING, 1)
    unwanted = await live(store, node, row.id)
    assert unwanted is not None
    assert (unwanted.wanted, unwanted.stop_timeout, unwanted.force) == (False, 3.0, False)
    await store.instances.set_desired(row.id, InstanceDesired.STOPPED, force=True)
    forced = await live(store, node, row.id)
    assert forced is not None
    assert (forced.force, forced.stop_timeout) == (True, 3.0)
    await see(store, placement, Observation(PlacementState.STOPPING))
    assert (await store.instances.get(row.id)).state is InstanceState.STOPPING
    await see(store, placement, STOPPED)
    stopped = await store.instances.get(row.id)
    assert (stopped.state, stopped.reason, stopped.placement_id) == (InstanceState.STOPPED, "stopped as asked", None)
    assert (await store.scheduling.pending()).instances == ()
    started = await store.instances.set_desired(row.id, InstanceDesired.RUNNING)
    assert (started.state, started.generation, started.reason) == (InstanceState.PENDING, 2, "")
    again = await place(store, started, node)
    assert (again.generation, again.force, again.stop_timeout) == (2, False, 30.0)
    assert again.lease.v4 != placement.lease.v4
    assert again.lease.v6 != placement.lease.v6
    assert [one.generation for one in await store.instances.placements(row.id)] == [1, 2]


async def test_restart_stops_the_present_one_first(store: Store) -> None:
    node, row, placement = await running(store)
    asked = await store.instances.restart(row.id)
    assert (asked.generation, asked.state, asked.observed_generation) == (2, InstanceState.RUNNING, 1)
    old = await live(store, node, row.id)
    assert old is not None
    assert not old.wanted
    assert (await store.scheduling.pending()).instances == ()  # one instance never runs twice
    await see(store, placement, STOPPED)
    assert (await store.instances.get(row.id)).state is InstanceState.PENDING
    (pending,) = (await store.scheduling.pending()).instances
    assert (pending.id, pending.generation) == (row.id, 2)


async def test_the_wait_of_a_restart_is_not_the_next_ones_own(store: Store) -> None:
    node, row, placement = await running(store, stop_timeout=20.0)
    await store.instances.restart(row.id, stop_timeout=2.0)
    old = await live(store, node, row.id)
    assert old is not None
    assert (old.wanted, old.stop_timeout) == (False, 2.0)
    await see(store, placement, STOPPED)
    following = await place(store, await store.instances.get(row.id), node)
    assert (following.wanted, following.stop_timeout) == (True, 20.0)


@pytest.mark.parametrize(
    ("observation", "state", "reason"),
    [
        (EXITED, InstanceState.FAILED, "the app exited with status 1"),
        (
            Observation(PlacementState.REMOVED, outcome=Outcome.EXITED, exit_status=0),
            InstanceState.STOPPED,
            "the app exited with status 0",
        ),
        (
            Observation(PlacementState.REMOVED, outcome=Outcome.SIGNALED, exit_status=9),
            InstanceState.FAILED,
            "the app was ended by signal 9 (SIGKILL)",
        ),
        (
            Observation(PlacementState.REMOVED, reason="no such file: /bin/app", outcome=Outcome.START_FAILED),
            InstanceState.FAILED,
            "no such file: /bin/app",
        ),
        (
            Observation(PlacementState.REMOVED, outcome=Outcome.VMM_DIED),
            InstanceState.FAILED,
            "the virtual machine ended unexpectedly",
        ),
    ],
)
async def test_an_end_that_nobody_asked_for(
    store: Store, observation: Observation, state: InstanceState, reason: str
) -> None:
    _node, row, placement = await running(store)
    await see(store, placement, observation)
    ended = await store.instances.get(row.id)
    assert (ended.state, ended.reason) == (state, reason)
    assert (ended.outcome, ended.exit_status) == (observation.outcome, observation.exit_status)
    # It is not started again by itself, but by whoever asks.
    assert (await store.scheduling.pending()).instances == ()
    assert (await store.instances.set_desired(row.id, InstanceDesired.RUNNING)).generation == 2
    assert len((await store.scheduling.pending()).instances) == 1


async def test_terminated_is_confirmed_by_the_host_hidden_and_final(store: Store) -> None:
    _, row, placement = await running(store, name="web")
    asked = await store.instances.delete(row.id, force=True)
    assert (asked.desired, asked.state) == (InstanceDesired.TERMINATED, InstanceState.RUNNING)
    assert [one.id for one in (await store.instances.list()).items] == [row.id]
    await see(store, placement, Observation(PlacementState.REMOVED, outcome=Outcome.KILLED))
    gone = await store.instances.get(row.id)
    assert gone.state is InstanceState.TERMINATED
    assert (await store.instances.list()).items == ()
    assert [one.id for one in (await store.instances.list(state=InstanceState.TERMINATED)).items] == [row.id]
    assert await store.instances.delete(row.id) == gone
    for desired in (InstanceDesired.RUNNING, InstanceDesired.STOPPED):
        with pytest.raises(Conflict):
            await store.instances.set_desired(row.id, desired)
    with pytest.raises(Conflict):
        await store.instances.restart(row.id)
    with pytest.raises(NotFound):
        await store.instances.find("web")


async def test_what_was_never_placed_stops_at_once(store: Store) -> None:
    image = await ready_image(store, await ready_node(store))
    one, other = await instance(store, image), await instance(store, image)
    assert (await store.instances.set_desired(one.id, InstanceDesired.STOPPED)).state is InstanceState.STOPPED
    assert (await store.instances.delete(other.id)).state is InstanceState.TERMINATED
    assert (await store.scheduling.pending()).instances == ()
    # Whoever waits for it waits for its generation: nothing will ever tell of it again.
    assert (await store.instances.get(one.id)).observed_generation == 1
    assert (await store.instances.get(other.id)).observed_generation == 1


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (InstanceDesired.STOPPED, InstanceState.STOPPED),
        (InstanceDesired.TERMINATED, InstanceState.TERMINATED),
    ],
)
async def test_an_end_tells_of_the_generation_that_was_to_follow_too(
    store: Store, end: InstanceDesired, state: InstanceState
) -> None:
    _, row, placement = await running(store)
    await store.instances.restart(row.id)
    await store.instances.set_desired(row.id, end)
    await see(store, placement, STOPPED)
    ended = await store.instances.get(row.id)
    assert (ended.state, ended.generation, ended.observed_generation) == (state, 2, 2)


async def test_a_failed_one_keeps_its_story_when_it_is_stopped(store: Store) -> None:
    _, row, placement = await running(store)
    await see(store, placement, EXITED)
    stopped = await store.instances.set_desired(row.id, InstanceDesired.STOPPED)
    assert (stopped.state, stopped.reason) == (InstanceState.STOPPED, "the app exited with status 1")
    assert (stopped.outcome, stopped.exit_status) == (Outcome.EXITED, 1)


async def test_lists_by_state_and_node(store: Store) -> None:
    node, row, _ = await running(store)
    waiting = await instance(store, await ready_image(store, node))
    assert [one.id for one in (await store.instances.list(state=InstanceState.PENDING)).items] == [waiting.id]
    assert [one.id for one in (await store.instances.list(node_id=node.id)).items] == [row.id]
    page = await store.instances.list(limit=1)
    rest = await store.instances.list(limit=1, cursor=page.next_cursor)
    assert [one.id for one in (*page.items, *rest.items)] == [row.id, waiting.id]
    counts = await store.instances.counts()
    assert counts[InstanceState.RUNNING] == counts[InstanceState.PENDING] == 1
    assert set(counts) == set(InstanceState)


async def test_what_happened_is_told_in_order(store: Store) -> None:
    _, row, placement = await running(store)
    await see(store, placement, EXITED)
    told = [(event.who, event.what) for event in await store.instances.events(row.id)]
    assert told == [
        ("api", "instance.created"),
        ("scheduler", "placement.assigned"),
        ("scheduler", "instance.state"),
        ("host", "placement.state"),
        ("host", "instance.state"),
        ("host", "placement.state"),
        ("host", "instance.state"),
    ]
    first = (await store.instances.events(row.id, limit=1))[0]
    assert len(await store.instances.events(row.id, after=first.id)) == len(told) - 1


async def test_secrets_stay_out_of_the_journal(store: Store) -> None:
    image = await ready_image(store, await ready_node(store))
    await instance(store, image, environment={"TOKEN": "hunter2"})
    assert "hunter2" not in repr(await store.events.list())


async def test_a_stranger_is_not_found(store: Store) -> None:
    reads = store.instances
    for call in (reads.get, reads.delete, reads.restart, reads.placements, reads.events):
        with pytest.raises(NotFound):
            await call(uuid4())


async def test_how_it_came_to_an_end_stays_known_whatever_is_asked_of_it_later(store: Store) -> None:
    _, row, placement = await running(store)
    await store.instances.delete(row.id)
    await see(store, placement, STOPPED)
    ended = await store.instances.get(row.id)
    assert (ended.state, ended.reason) == (InstanceState.TERMINATED, "stopped as asked")
    for options in ({"force": True}, {"stop_timeout": 0.0}, {"volumes": Volumes.DELETE}):
        again = await store.instances.delete(row.id, **options)  # type: ignore[arg-type]
        assert (again.state, again.reason, again.outcome) == (ended.state, ended.reason, ended.outcome)
