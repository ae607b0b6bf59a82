"""What people do about instances and hosts that are not where they should be: replace, and delete dead hosts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from actors.model.errors import Conflict, NotFound
from actors.model.states import InstanceDesired, InstanceState, NodeState, Outcome, PlacementState
from actors.scheduler.store import Move
from tests.zeitwork.store.moving import (
    RUNNING,
    apply,
    die,
    displaced,
    forget_beats,
    pending,
    single,
    succeed,
    wanted,
)
from tests.zeitwork.store.test_snapshots import MADE
from tests.zeitwork.store.world import EXITED, STOPPED, instance, live, place, ready_image, ready_node, running, see
from zeitwork.store import Store


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as opened:
        yield opened


async def test_what_is_replaced_serves_until_its_successor_runs(store: Store) -> None:
    node, row, old = await running(store)
    other = await ready_node(store)
    moving = await store.instances.replace(row.id)
    assert (moving.state, moving.generation, moving.placement_id) == (InstanceState.RUNNING, 2, old.id)
    assert moving.reason == f"moves off {node.hostname} as asked"
    (waiting,) = (await store.scheduling.pending()).instances
    assert waiting.leaves == node.id
    # Asked again, it is under way.
    assert await store.instances.replace(row.id) == moving
    new = await succeed(store, row.id, other)
    assert (await store.instances.replace(row.id)).generation == 2
    await see(store, new, RUNNING)
    assert (await store.instances.get(row.id)).placement_id == new.id
    assert not wanted(await live(store, node, row.id))


async def test_a_replacement_that_failed_is_made_again_when_asked(store: Store) -> None:
    _, row, old = await running(store)
    other = await ready_node(store)
    await store.instances.replace(row.id)
    await see(store, await succeed(store, row.id, other), EXITED)
    again = await store.instances.replace(row.id)
    assert (again.generation, again.placement_id) == (3, old.id)
    assert await pending(store) == [row.id]


async def test_what_is_on_a_dead_host_is_replaced_at_once(store: Store) -> None:
    node, row, old = await running(store)
    await store.nodes.set_state(node.id, NodeState.DOWN, "its process was stopped")
    assert await store.scheduling.displaced() == ()
    after = await store.instances.replace(row.id)
    assert (after.state, after.generation, after.placement_id) == (InstanceState.PENDING, 2, None)
    assert (await store.placements.get(old.id)).lost_at is not None
    assert await pending(store) == [row.id]
    assert await store.instances.replace(row.id) == after


async def test_a_singleton_is_stopped_first_and_only_by_force(store: Store) -> None:
    node, row, old = await single(store)
    with pytest.raises(Conflict, match="never run at once") as refusal:
        await store.instances.replace(row.id)
    assert refusal.value.field == "force"
    assert await store.instances.get(row.id) == row
    after = await store.instances.replace(row.id, force=True)
    assert (after.state, after.generation) == (InstanceState.RUNNING, 2)
    assert not wanted(await live(store, node, row.id))
    assert await store.instances.replace(row.id, force=True) == after
    assert await pending(store) == []
    await see(store, old, STOPPED)
    assert await pending(store) == [row.id]


@pytest.mark.parametrize("decided", [False, True])
async def test_a_singleton_on_a_dead_host_runs_twice_only_by_force(store: Store, decided: bool) -> None:
    node, row, old = await single(store)
    other = await ready_node(store)
    await die(store, node)
    if decided:
        assert await apply(store, Move.UNKNOWN, await displaced(store)) == 1
    with pytest.raises(Conflict, match=f"on {node.hostname}, which is down, it may still run") as refusal:
        await store.instances.replace(row.id)
    assert "two may run" in str(refusal.value.fix)
    after = await store.instances.replace(row.id, force=True)
    assert (after.state, after.generation, after.placement_id) == (InstanceState.PENDING, 2, None)
    new = await succeed(store, row.id, other)
    await see(store, new, RUNNING)
    # Its first host is back: what is there is neither wanted nor found.
    assert await store.presence.heartbeat(node.id, node.generation)
    assert not wanted(await live(store, node, row.id))
    assert (await store.placements.get(old.id)).lost_at is not None
    assert (await store.instances.get(row.id)).placement_id == new.id
    # The new one is alone again: its own successor waits for it.
    await store.instances.restart(row.id)
    assert await pending(store) == []


async def test_a_new_start_of_an_unknown_singleton_forces_nothing(store: Store) -> None:
    node, row, _ = await single(store)
    await die(store, node)
    assert await apply(store, Move.UNKNOWN, await displaced(store)) == 1
    await store.instances.restart(row.id)
    assert await pending(store) == []
    after = await store.instances.replace(row.id, force=True)
    assert (after.state, after.generation) == (InstanceState.PENDING, 2)
    assert await pending(store) == [row.id]


async def test_what_is_bound_to_its_host_is_refused_with_the_field(store: Store) -> None:
    node = await ready_node(store)
    image = await ready_image(store, node)
    row = await instance(store, image, node_id=node.id)
    placement = await place(store, row, node)
    await see(store, placement, RUNNING)
    with pytest.raises(Conflict, match="pinned") as pinned:
        await store.instances.replace(row.id, force=True)
    assert pinned.value.field == "node_id"
    snapshot = await store.snapshots.create(row.id)
    assert await store.snapshots.taken(snapshot.id, MADE)
    clone = await instance(store, image, snapshot_id=snapshot.id)
    await see(store, await place(store, clone, node), RUNNING)
    await die(store, node)
    bound = {one.instance.id: one.bound for one in await store.scheduling.displaced()}
    assert bound == {row.id: "pinned to it", clone.id: "its snapshot is there"}
    with pytest.raises(Conflict, match="snapshot") as restored:
        await store.instances.replace(clone.id)
    assert restored.value.field == "snapshot_id"
    # Started anew it boots, and can do so anywhere.
    assert await store.presence.heartbeat(node.id, node.generation)
    await store.instances.restart(clone.id)
    await store.instances.replace(clone.id)


async def test_what_is_not_wanted_running_is_refused(store: Store) -> None:
    _, row, _ = await running(store)
    await store.instances.set_desired(row.id, InstanceDesired.STOPPED)
    with pytest.raises(Conflict, match="wanted stopped"):
        await store.instances.replace(row.id)
    await store.instances.delete(row.id)
    with pytest.raises(Conflict, match="terminated"):
        await store.instances.replace(row.id)
    with pytest.raises(NotFound):
        await store.instances.replace(uuid4())


async def test_a_dead_host_is_deleted_with_what_nobody_waits_for(
    store: Store, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    node, row, old = await running(store)
    image = await store.images.get(row.image_id)
    stopped, removed = [await instance(store, image) for _ in range(2)]
    for one in (stopped, removed):
        await see(store, await place(store, one, node), RUNNING)
    await store.instances.set_desired(stopped.id, InstanceDesired.STOPPED)
    await store.instances.delete(removed.id)
    forget_beats(connection, node)
    # Not before it is down: its host would remove them.
    with pytest.raises(Conflict, match="3 placements are still on"):
        await store.nodes.delete(node.id)
    await die(store, node)
    with pytest.raises(Conflict, match="1 placements are still on"):
        await store.nodes.delete(node.id)
    assert await apply(store, Move.REPLACE, await displaced(store)) == 1
    await store.nodes.delete(node.id)
    assert (await store.instances.get(row.id)).state is InstanceState.PENDING
    assert (await store.instances.get(stopped.id)).state is InstanceState.STOPPED
    assert (await store.instances.get(removed.id)).state is InstanceState.TERMINATED
    gone = await store.placements.get(old.id)
    assert (gone.state, gone.reason, gone.outcome) == (
        PlacementState.REMOVED,
        "its host was deleted",
        Outcome.UNKNOWN,
    )
    assert connection.execute("select from leases where state = 'leased'").fetchall() == []
    assert (await store.nodes.get(node.id)).state is NodeState.TERMINATED


async def test_a_dead_host_stays_while_a_singleton_may_run_there(
    store: Store, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    node, row, _ = await single(store)
    forget_beats(connection, node)
    await die(store, node)
    assert await apply(store, Move.UNKNOWN, await displaced(store)) == 1
    with pytest.raises(Conflict, match="1 placements") as refusal:
        await store.nodes.delete(node.id)
    assert "--force" in str(refusal.value.fix)
    await store.instances.replace(row.id, force=True)
    await store.nodes.delete(node.id)
    assert await pending(store) == [row.id]


async def test_a_host_that_lives_is_not_deleted_although_it_is_down(store: Store) -> None:
    node, _, _ = await running(store)
    await die(store, node)
    assert await apply(store, Move.REPLACE, await displaced(store)) == 1
    with pytest.raises(Conflict, match="is alive"):
        await store.nodes.delete(node.id)


async def test_a_host_does_not_leave_with_what_was_replaced_while_it_slept(store: Store) -> None:
    """It runs there until the host has come to know: whoever removes a dead host need not wait, one that lives must."""
    node, _, placement = await running(store)
    await die(store, node)
    await apply(store, Move.REPLACE, await displaced(store))
    with pytest.raises(Conflict, match="1 placements are still on") as refused:
        await store.nodes.leave(node.id)
    assert refused.value.fix is not None
    assert "removed here within seconds" in refused.value.fix
    await see(store, placement, STOPPED)
    await store.nodes.leave(node.id)
    assert (await store.nodes.get(node.id)).state is NodeState.TERMINATED
