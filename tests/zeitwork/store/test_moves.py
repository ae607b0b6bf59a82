"""What becomes of placements whose host is dead or is to be emptied, on real Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import trio
from psycopg import errors
from psycopg.rows import dict_row

from actors.model.errors import Conflict
from actors.model.health import HealthCheck, HealthState, HealthType
from actors.model.records import Observation, Placement
from actors.model.states import InstanceDesired, InstanceState, NodeDesired, NodeState, Outcome, PlacementState
from actors.registrar.store import Beat
from actors.scheduler.plan import evaluate
from actors.scheduler.store import Move, Moved
from runtime.lease import Fenced, Term
from tests.zeitwork.store.moving import RUNNING, WHY, apply, beat_of, die, displaced, drain, pending, single, succeed
from tests.zeitwork.store.world import (
    CONFIG,
    EXITED,
    STOPPED,
    heeded,
    host,
    instance,
    leading,
    live,
    place,
    ready_node,
    running,
    see,
)
from zeitwork.store import Store
from zeitwork.store.rows import ImageRow, InstanceRow, NodeRow

HTTP = HealthCheck(HealthType.HTTP, "/", None, 5.0, 2.0, 3)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as opened:
        yield opened


async def whats(store: Store, row: InstanceRow) -> list[str]:
    return [event.what for event in await store.events.list(limit=1000) if event.subject_id == row.id]


async def test_what_was_on_a_dead_host_is_placed_elsewhere_while_it_may_still_run(store: Store) -> None:
    node, row, old = await running(store)
    assert await store.scheduling.displaced() == ()
    await die(store, node)
    found = await displaced(store)
    assert (found.placement_id, found.node_state, found.bound, found.lost) == (old.id, NodeState.DOWN, "", False)
    assert await apply(store, Move.REPLACE, found) == 1
    after = await store.instances.get(row.id)
    assert (after.state, after.reason, after.generation, after.node_id) == (InstanceState.PENDING, WHY, 2, None)
    assert await store.scheduling.displaced() == ()
    assert await pending(store) == [row.id]
    # It holds what it holds, and is not wanted any more.
    left = await live(store, node, row.id)
    assert left is not None
    assert not left.wanted
    assert (await store.placements.get(old.id)).lost_at is not None
    other = await ready_node(store)
    new = await succeed(store, row.id, other)
    await see(store, new, RUNNING)
    after = await store.instances.get(row.id)
    assert (after.state, after.placement_id, after.observed_generation) == (InstanceState.RUNNING, new.id, 2)
    # What its first host says of it changes nothing but its row, dead or back.
    for seen in (Observation(PlacementState.STOPPING), STOPPED):
        await see(store, old, seen)
        assert await store.instances.get(row.id) == after
    assert "instance.moved" in await whats(store, row)


async def test_a_move_is_carried_out_once_and_only_as_it_was_seen(store: Store) -> None:
    node, row, _ = await running(store)
    await die(store, node)
    found = await displaced(store)
    for move in (Move.HAND_OVER, Move.STOP_FIRST, Move.UNKNOWN):
        assert await apply(store, move, found) == 0
    assert await apply(store, Move.REPLACE, found) == 1
    assert await apply(store, Move.REPLACE, found) == 0
    assert (await store.instances.get(row.id)).generation == 2


@pytest.mark.parametrize("change", ["back", "stopped", "restarted", "removed", "fenced"])
async def test_nothing_is_moved_that_changed_since(store: Store, change: str) -> None:
    node, row, placement = await running(store)
    await die(store, node)
    found = await displaced(store)
    match change:
        case "back":
            assert await store.presence.heartbeat(node.id, node.generation)
        case "stopped":
            await store.instances.set_desired(row.id, InstanceDesired.STOPPED)
        case "restarted":
            await store.instances.restart(row.id)
        case "removed":
            await see(store, placement, EXITED)
    before = await store.instances.get(row.id)
    moved = Moved(row.id, found.instance.generation, found.placement_id, Move.REPLACE, WHY)
    if change == "fenced":
        term = await leading(store)
        with pytest.raises(Fenced):
            await store.scheduling.apply_moves((moved,), Term(term.epoch + 1, term.boot, term.ttl))
    else:
        assert await apply(store, Move.REPLACE, found) == 0
    assert await store.instances.get(row.id) == before
    assert (await store.placements.get(placement.id)).lost_at is None


async def test_a_hand_over_serves_until_the_successor_runs(store: Store) -> None:
    node, row, old = await running(store)
    other = await ready_node(store)
    await drain(store, node)
    found = await displaced(store)
    assert (found.node_state, found.bound) == (NodeState.DRAINING, "")
    assert await apply(store, Move.REPLACE, found) == 0
    assert await apply(store, Move.HAND_OVER, found) == 1
    moving = await store.instances.get(row.id)
    assert (moving.state, moving.reason, moving.generation, moving.placement_id) == (
        InstanceState.RUNNING,
        WHY,
        2,
        old.id,
    )
    assert await store.scheduling.displaced() == ()
    kept = await live(store, node, row.id)
    assert kept is not None
    assert kept.wanted
    new = await succeed(store, row.id, other)
    moving = await store.instances.get(row.id)
    assert (moving.state, moving.placement_id) == (InstanceState.RUNNING, old.id)
    assert moving.reason == f"moving to {other.hostname}"
    for state in (PlacementState.PREPARING, PlacementState.STARTING):
        await see(store, new, Observation(state))
        seen = await store.instances.get(row.id)
        assert (seen.state, seen.placement_id) == (InstanceState.RUNNING, old.id)
    with store.notifications.subscribe("zw_placements") as hints:
        await heeded(store, hints, "zw_placements")
        await see(store, new, RUNNING)
        with trio.fail_after(60):
            assert (await hints.wait()).ids == {str(old.id)}
    seen = await store.instances.get(row.id)
    assert (seen.state, seen.placement_id, seen.observed_generation, seen.reason) == (
        InstanceState.RUNNING,
        new.id,
        2,
        "",
    )
    left = await live(store, node, row.id)
    assert left is not None
    assert not left.wanted
    await see(store, old, STOPPED)
    assert (await store.instances.get(row.id)).state is InstanceState.RUNNING
    assert await whats(store, row) == [
        *["instance.created", "instance.state", "instance.state", "instance.moved", "instance.state"],
        *["instance.state", "instance.taken_over", "instance.state"],
    ]


async def test_a_successor_with_a_health_check_takes_over_when_it_is_healthy(store: Store) -> None:
    node, row, old = await running(store, health=HTTP)
    other = await ready_node(store)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    new = await succeed(store, row.id, other)
    await see(store, new, RUNNING)
    assert (await store.instances.get(row.id)).placement_id == old.id
    assert await store.placements.record_health(new.id, HealthState.UNHEALTHY, "503")
    assert (await store.instances.get(row.id)).placement_id == old.id
    assert await store.placements.record_health(new.id, HealthState.HEALTHY, "")
    after = await store.instances.get(row.id)
    assert (after.placement_id, after.state, after.health) == (new.id, InstanceState.RUNNING, HealthState.HEALTHY)
    left = await live(store, node, row.id)
    assert left is not None
    assert not left.wanted


async def test_a_successor_that_fails_leaves_what_serves_and_is_tried_again(
    store: Store, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    node, row, old = await running(store)
    other = await ready_node(store)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    new = await succeed(store, row.id, other)
    await see(store, new, Observation(PlacementState.REMOVED, "no kernel", Outcome.START_FAILED))
    seen = await store.instances.get(row.id)
    assert (seen.state, seen.placement_id) == (InstanceState.RUNNING, old.id)
    assert "no kernel" in seen.reason
    assert await pending(store) == []
    assert await store.scheduling.displaced() == ()
    connection.execute("update placements set removed_at = removed_at - interval '2 minutes' where id = %s", (new.id,))
    found = await displaced(store)
    assert found.placement_id == old.id
    assert await apply(store, Move.HAND_OVER, found) == 1
    assert await pending(store) == [row.id]
    kept = await live(store, node, row.id)
    assert kept is not None
    assert kept.wanted
    await see(store, await succeed(store, row.id, other), RUNNING)
    assert (await store.instances.get(row.id)).node_id == other.id


async def test_when_what_was_kept_ends_its_successor_is_what_counts(store: Store) -> None:
    node, row, old = await running(store)
    other = await ready_node(store)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    await see(store, old, EXITED)
    seen = await store.instances.get(row.id)
    assert (seen.state, seen.placement_id) == (InstanceState.PENDING, None)
    new = await succeed(store, row.id, other)
    assert (await store.instances.get(row.id)).state is InstanceState.STARTING
    await see(store, new, RUNNING)
    assert (await store.instances.get(row.id)).state is InstanceState.RUNNING


async def test_when_both_end_the_instance_has_ended(store: Store) -> None:
    node, row, old = await running(store)
    other = await ready_node(store)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    await see(store, await succeed(store, row.id, other), EXITED)
    await see(store, old, EXITED)
    seen = await store.instances.get(row.id)
    assert (seen.state, seen.observed_generation) == (InstanceState.FAILED, 2)
    assert (await store.instances.set_desired(row.id, InstanceDesired.RUNNING)).generation == 3
    assert await pending(store) == [row.id]


@pytest.mark.parametrize("placed", [False, True])
async def test_when_the_host_of_what_was_kept_dies_its_successor_is_what_counts(store: Store, placed: bool) -> None:
    node, row, old = await running(store)
    other = await ready_node(store)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    new = await succeed(store, row.id, other) if placed else None
    await die(store, node)
    found = await displaced(store)
    assert found.placement_id == old.id
    assert await apply(store, Move.REPLACE, found) == 1
    seen = await store.instances.get(row.id)
    assert (seen.generation, seen.placement_id) == (2, new.id if new else None)
    assert seen.state is (InstanceState.STARTING if placed else InstanceState.PENDING)
    assert (await store.placements.get(old.id)).lost_at is not None
    assert not (await store.placements.get(old.id)).kept


async def test_when_the_host_of_the_successor_dies_what_serves_goes_on(store: Store) -> None:
    node, row, old = await running(store)
    other = await ready_node(store)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    new = await succeed(store, row.id, other)
    await die(store, other)
    found = await displaced(store)
    assert found.placement_id == new.id
    assert await apply(store, Move.REPLACE, found) == 1
    seen = await store.instances.get(row.id)
    assert (seen.state, seen.placement_id, seen.generation) == (InstanceState.RUNNING, old.id, 3)
    assert await pending(store) == [row.id]


async def test_a_successor_on_a_host_that_is_emptied_too_is_not_kept(store: Store) -> None:
    node, row, old = await running(store)
    other = await ready_node(store)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    new = await succeed(store, row.id, other)
    await drain(store, other)
    found = await displaced(store)
    assert found.placement_id == new.id
    assert await apply(store, Move.HAND_OVER, found) == 1
    assert (await store.placements.get(old.id)).kept
    assert not (await store.placements.get(new.id)).kept
    assert (await store.instances.get(row.id)).placement_id == old.id
    assert await pending(store) == []  # the one that is stopped there must be gone first
    await see(store, new, STOPPED)
    assert await pending(store) == [row.id]


async def test_what_a_person_asks_for_ends_a_hand_over(store: Store) -> None:
    node, row, old = await running(store)
    other = await ready_node(store)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    # A pause is of what is wanted, and that is not there yet.
    with pytest.raises(Conflict, match="started anew"):
        await store.instances.pause(row.id)
    with pytest.raises(Conflict):
        await store.snapshots.create(row.id)
    # Wanted already.
    assert (await store.instances.set_desired(row.id, InstanceDesired.RUNNING)).generation == 2
    await store.instances.restart(row.id)
    left = await live(store, node, row.id)
    assert left is not None
    assert not left.wanted
    assert await pending(store) == []
    await see(store, old, STOPPED)
    assert await pending(store) == [row.id]
    await see(store, await succeed(store, row.id, other), RUNNING)
    assert (await store.instances.get(row.id)).generation == 3


@pytest.mark.parametrize("desired", [InstanceDesired.STOPPED, InstanceDesired.TERMINATED])
async def test_an_end_that_a_person_asks_for_is_one_of_both(store: Store, desired: InstanceDesired) -> None:
    node, row, old = await running(store)
    other = await ready_node(store)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    new = await succeed(store, row.id, other)
    await store.instances.set_desired(row.id, desired)
    for one, where in ((old, node), (new, other)):
        left = await live(store, where, row.id)
        assert left is not None
        assert not left.wanted
        await see(store, one, STOPPED)
    seen = await store.instances.get(row.id)
    assert (seen.state, seen.observed_generation) == (InstanceState(desired.value), 2)


async def test_what_is_paused_stays_so_when_it_moves(store: Store) -> None:
    node, row, old = await running(store, health=HTTP)
    other = await ready_node(store)
    await store.instances.pause(row.id)
    await see(store, old, Observation(PlacementState.PAUSED))
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    assert (await store.instances.get(row.id)).state is InstanceState.PAUSED
    new = await succeed(store, row.id, other)
    assert new.paused
    await see(store, new, Observation(PlacementState.PAUSED))
    seen = await store.instances.get(row.id)
    assert (seen.placement_id, seen.state, seen.paused) == (new.id, InstanceState.PAUSED, True)


async def test_a_stop_of_what_was_replaced_waits_for_no_dead_host(store: Store) -> None:
    node, row, old = await running(store)
    await die(store, node)
    assert await apply(store, Move.REPLACE, await displaced(store)) == 1
    assert (await store.instances.set_desired(row.id, InstanceDesired.TERMINATED)).state is InstanceState.TERMINATED
    await see(store, old, STOPPED)
    assert (await store.instances.get(row.id)).state is InstanceState.TERMINATED


async def test_what_was_being_stopped_on_a_dead_host_holds_nothing_up(store: Store) -> None:
    node, row, old = await running(store)
    await store.instances.restart(row.id)
    await die(store, node)
    assert await pending(store) == []
    found = await displaced(store)
    assert found.placement_id == old.id
    assert await apply(store, Move.REPLACE, found) == 1
    assert await pending(store) == [row.id]
    assert (await store.instances.get(row.id)).generation == 2


async def test_a_snapshot_of_what_was_lost_is_given_up(store: Store) -> None:
    node, row, _ = await running(store)
    snapshot = await store.snapshots.create(row.id)
    await die(store, node)
    assert await apply(store, Move.REPLACE, await displaced(store)) == 1
    assert (await store.snapshots.get(snapshot.id)).state.value == "failed"


async def test_a_singleton_on_a_dead_host_is_unknown_until_its_host_is_back(
    store: Store, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    node, row, old = await single(store)
    await die(store, node)
    found = await displaced(store)
    assert found.singleton
    assert await apply(store, Move.REPLACE, found) == 0
    assert await apply(store, Move.UNKNOWN, found) == 1
    assert await apply(store, Move.UNKNOWN, found) == 0
    assert await apply(store, Move.UNKNOWN, found, "another reason") == 1
    seen = await store.instances.get(row.id)
    assert (seen.state, seen.reason, seen.generation) == (InstanceState.UNKNOWN, "another reason", 1)
    assert (await displaced(store)).lost
    assert await pending(store) == []
    # A new start is one of the same, and waits for the end of this.
    await store.instances.restart(row.id)
    assert (await store.instances.get(row.id)).state is InstanceState.UNKNOWN
    assert await pending(store) == []
    assert await store.presence.heartbeat(node.id, node.generation)
    seen = await store.instances.get(row.id)
    assert (seen.state, seen.reason, seen.placement_id) == (InstanceState.RUNNING, "", old.id)
    assert (await store.nodes.get(node.id)).state is NodeState.READY
    await see(store, old, STOPPED)
    assert await pending(store) == [row.id]


async def test_what_is_back_is_what_it_was(store: Store) -> None:
    node, row, old = await running(store, node_id=None)
    pinned = await instance(store, await store.images.get(row.image_id), node_id=node.id)
    there = await place(store, pinned, node)
    await see(store, there, RUNNING)
    await die(store, node)
    by = {one.instance.id: one for one in await store.scheduling.displaced()}
    assert by[pinned.id].bound == "pinned to it"
    assert await apply(store, Move.REPLACE, by[pinned.id]) == 0
    assert await apply(store, Move.UNKNOWN, by[row.id]) == 0
    assert await apply(store, Move.UNKNOWN, by[pinned.id]) == 1
    assert await apply(store, Move.REPLACE, by[row.id]) == 1
    down = await store.nodes.get(node.id)
    assert (down.state, down.reason) == (NodeState.DOWN, "no sign of life")
    assert not await store.presence.heartbeat(node.id, node.generation + 1)
    assert await store.presence.heartbeat(node.id, node.generation)
    seen = await store.instances.get(pinned.id)
    assert (seen.state, seen.placement_id) == (InstanceState.RUNNING, there.id)
    assert (await store.placements.get(there.id)).lost_at is None
    # It was decided to do without this one.
    assert (await store.placements.get(old.id)).lost_at is not None
    assert await store.scheduling.displaced() == ()
    left = await live(store, node, row.id)
    assert left is not None
    assert not left.wanted


async def test_a_host_that_registers_anew_is_back_with_its_first_sign_of_life(
    store: Store, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    node, row, _ = await single(store)
    await store.nodes.set_desired(node.id, NodeDesired.DRAINING)
    await die(store, node)
    assert await apply(store, Move.UNKNOWN, await displaced(store)) == 1
    known = connection.execute("select host_id, hostname from nodes where id = %s", (node.id,)).fetchone()
    assert known is not None
    again = await store.nodes.register(host(**known))
    assert (again.id, again.state) == (node.id, NodeState.BOOTING)
    assert await store.scheduling.displaced() == ()
    assert await store.presence.heartbeat(node.id, again.generation)
    assert (await store.instances.get(row.id)).state is InstanceState.RUNNING
    assert (await store.nodes.get(node.id)).state is NodeState.BOOTING
    assert (await store.nodes.set_state(node.id, NodeState.READY)).state is NodeState.DRAINING


async def test_a_goodbye_gives_a_minute(store: Store, connection: psycopg.Connection[dict[str, Any]]) -> None:
    node, _, _ = await running(store)
    await store.nodes.set_state(node.id, NodeState.DOWN, "its process was stopped")
    assert await store.scheduling.displaced() == ()
    row = connection.execute(
        "select replace_after - down_since as grace from nodes where id = %s", (node.id,)
    ).fetchone()
    assert row is not None
    assert row["grace"].total_seconds() == 60
    connection.execute("update nodes set replace_after = now() where id = %s", (node.id,))
    assert (await displaced(store)).node_state is NodeState.DOWN


async def test_the_scheduler_and_the_host_are_told_of_a_death_and_of_a_return(store: Store) -> None:
    node, row, old = await single(store)
    with store.notifications.subscribe("zw_nodes", "zw_instances", "zw_placements") as hints:
        await heeded(store, hints, "zw_nodes")
        with trio.fail_after(60):
            await die(store, node)
            assert (await hints.wait()).ids == {str(node.id)}
            assert await apply(store, Move.UNKNOWN, await displaced(store)) == 1
            assert await store.presence.heartbeat(node.id, node.generation)
            told: set[str] = set()
            while not told >= {str(node.id), str(row.id), str(old.id)}:
                told |= (await hints.wait()).ids


async def test_a_grace_becomes_shorter_and_never_longer(
    store: Store, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    node, _, _ = await running(store)
    term, beat = await leading(store), await beat_of(store, node)
    assert beat.replace_in is None
    assert 0 <= beat.age < 60
    assert await store.presence.mark_down(beat, "it can't reach the database", term, grace=60.0)
    assert await store.scheduling.displaced() == ()
    # It is still looked at, since there is something to decide.
    waiting = await beat_of(store, node)
    assert waiting.state is NodeState.DOWN
    assert waiting.replace_in is not None
    assert 0 < waiting.replace_in <= 60
    assert not await store.presence.mark_down(waiting, "again", term, grace=60.0)
    assert not await store.presence.mark_down(waiting, "longer", term, grace=600.0)
    assert (await store.nodes.get(node.id)).reason == "it can't reach the database"
    assert await store.presence.mark_down(waiting, "no answer", term)
    assert (await store.nodes.get(node.id)).reason == "no answer"
    assert len(await store.scheduling.displaced()) == 1
    assert await store.presence.beats() == ()
    events = [event.data for event in await store.events.list(subject=node.id) if event.what == "node.state"]
    assert [event["reason"] for event in events if event["to"] == "down"] == [
        "it can't reach the database",
        "no answer",
    ]
    # A sign of life ends all of it.
    assert await store.presence.heartbeat(node.id, node.generation)
    (row,) = connection.execute("select state, down_since, replace_after from nodes where id = %s", (node.id,))
    assert row == {"state": "ready", "down_since": None, "replace_after": None}


async def test_a_host_that_said_goodbye_may_be_found_dead_meanwhile(store: Store) -> None:
    node = await ready_node(store)
    await store.nodes.set_state(node.id, NodeState.DOWN, "its process was stopped")
    beat, term = await beat_of(store, node), await leading(store)
    # Not once it has come back, by its word or its start.
    assert await store.presence.heartbeat(node.id, node.generation)
    assert not await store.presence.mark_down(beat, "no answer", term)
    await store.nodes.set_state(node.id, NodeState.DOWN, "its process was stopped")
    assert await store.presence.mark_down(await beat_of(store, node), "no answer", term)
    assert await store.presence.beats() == ()


async def test_a_host_is_found_dead_only_as_it_was_seen(store: Store) -> None:
    node = await ready_node(store)
    beat = await beat_of(store, node)
    term = await leading(store)
    with pytest.raises(Fenced):
        await store.presence.mark_down(beat, "silent", Term(term.epoch + 1, term.boot, term.ttl))
    assert await store.presence.heartbeat(node.id, node.generation)
    assert not await store.presence.mark_down(beat, "silent", term)
    beat = await beat_of(store, node)
    assert not await store.presence.mark_down(
        Beat(beat.node_id, beat.hostname, beat.state, beat.generation + 1, beat.seen), "silent", term
    )
    assert await store.presence.mark_down(beat, "silent", term)
    assert not await store.presence.mark_down(beat, "silent", term)
    assert await store.presence.beats() == ()
    assert await store.presence.heartbeat(node.id, node.generation)
    assert (await beat_of(store, node)).state is NodeState.READY


async def test_the_database_refuses_a_second_singleton(
    store: Store, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    _, row, old = await single(store)
    other = await ready_node(store)
    connection.execute("update instances set generation = 2 where id = %s", (row.id,))
    insert = (
        "insert into placements (id, instance_id, generation, node_id, vcpu, memory, disk, v4) values "
        "(gen_random_uuid(), %s, 2, %s, 1, 1, 1, '10.128.0.9')",
        (row.id, other.id),
    )
    with pytest.raises(errors.UniqueViolation):
        connection.execute(*insert)
    with pytest.raises(psycopg.DatabaseError, match="the only one of its instance"):
        connection.execute("update placements set exclusive = false where id = %s", (old.id,))
    with pytest.raises(errors.CheckViolation):
        connection.execute("update placements set kept = true where id = %s", (old.id,))
    connection.execute("update placements set lost_at = now() where id = %s", (old.id,))
    with pytest.raises(errors.UniqueViolation):
        connection.execute(*insert)
    connection.execute("update placements set exclusive = false where id = %s", (old.id,))
    with pytest.raises(psycopg.DatabaseError, match="the only one of its instance"):
        connection.execute("update placements set exclusive = true where id = %s", (old.id,))


async def uploaded(store: Store) -> tuple[NodeRow, InstanceRow, Placement, ImageRow]:
    """Return a running instance of an image that was uploaded to its host."""
    node = await ready_node(store)
    image = await store.images.create("archive:/spool/1_app.tar", node_id=node.id)
    assert await store.images.claim_pending(node.id)
    await store.images.ready(image.id, "sha256:1", CONFIG, 1)
    row = await instance(store, image, name="web")
    placement = await place(store, row, node)
    await see(store, placement, RUNNING)
    return node, await store.instances.get(row.id), placement, image


async def test_what_was_uploaded_to_a_dead_host_alone_waits_for_it_or_for_another_one_that_gets_the_image(
    store: Store,
) -> None:
    node, row, old, _ = await uploaded(store)
    other = await ready_node(store)
    await die(store, node)
    found = await displaced(store)
    assert (found.bound, found.instance.image_nodes) == ("no other host has its image", {node.id})
    assert await apply(store, Move.REPLACE, found) == 0
    with pytest.raises(Conflict) as caught:
        await store.instances.replace(row.id, force=True)
    assert (caught.value.code, caught.value.field) == ("bound-to-host", "image_id")
    assert await apply(store, Move.UNKNOWN, found) == 1
    after = await store.instances.get(row.id)
    assert (after.state, after.reason, after.generation) == (InstanceState.UNKNOWN, WHY, 1)
    assert await apply(store, Move.REPLACE, await displaced(store)) == 0
    # The same archive is sent to another host.
    again = await store.images.create("archive:/spool/2_app.tar", node_id=other.id)
    assert await store.images.claim_pending(other.id)
    await store.images.ready(again.id, "sha256:1", CONFIG, 1)
    await store.images.record_cached(other.id, frozenset({"sha256:1"}))
    found = await displaced(store)
    assert (found.bound, found.lost, found.instance.image_nodes) == ("", True, {node.id, other.id})
    assert await apply(store, Move.UNKNOWN, found) == 0
    assert await apply(store, Move.REPLACE, found) == 1
    (waiting,) = (await store.scheduling.pending()).instances
    assert (waiting.id, waiting.generation, waiting.image_nodes) == (row.id, 2, {node.id, other.id})
    assert (await store.placements.get(old.id)).lost_at is not None


async def test_what_was_uploaded_to_a_draining_host_alone_stays_there(store: Store) -> None:
    node, row, _, image = await uploaded(store)
    other = await ready_node(store)
    await drain(store, node)
    found = await displaced(store)
    assert found.bound == "no other host has its image"
    for what in (Move.HAND_OVER, Move.STOP_FIRST):
        assert await apply(store, what, found) == 0
    await store.images.record_cached(other.id, frozenset({str((await store.images.get(image.id)).digest)}))
    found = await displaced(store)
    assert found.bound == ""
    assert await apply(store, Move.HAND_OVER, found) == 1
    assert (await store.instances.get(row.id)).generation == 2
    # That one is no help while it takes nothing.
    await drain(store, other)
    await succeed_not(store, row)


async def succeed_not(store: Store, row: InstanceRow) -> None:
    """What is pending finds no host."""
    plan = evaluate(await store.scheduling.pending(), await store.scheduling.nodes())
    assert plan.assignments == ()
    assert [one.instance_id for one in plan.postponed] == [row.id]
