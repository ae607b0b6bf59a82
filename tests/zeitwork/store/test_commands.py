"""What hosts have yet to be told, as the database has it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest

from actors.commands.messages import CommandKind
from actors.commands.store import Note, Order
from actors.model.records import Observation
from actors.model.states import InstanceDesired, NodeState, PlacementState
from actors.scheduler.store import Move
from runtime.lease import Fenced
from tests.zeitwork.store.moving import RUNNING, apply, die, displaced, drain, succeed
from tests.zeitwork.store.world import STOPPED, instance, leading, place, ready_image, ready_node, running, see
from zeitwork.store import Store, commands, instances
from zeitwork.store.cursor import Cursor, by_index
from zeitwork.store.problems import OutcomeUnknown

OWN = UUID(int=99)


async def outstanding(store: Store, own: UUID = OWN, limit: int = 100) -> list[Order]:
    return list(await store.commands.outstanding(own, await leading(store), limit))


async def test_what_is_placed_is_to_be_created_until_its_host_begins(store: Store) -> None:
    node = await ready_node(store)
    row = await instance(store, await ready_image(store, node))
    assert await outstanding(store) == []
    placement = await place(store, row, node)
    order = Order(CommandKind.CREATE, row.id, placement.id, node.id, 1)
    assert await outstanding(store) == [order]
    # Its own host is woken by Postgres itself.
    assert await outstanding(store, node.id) == []
    await see(store, placement, Observation(PlacementState.PREPARING))
    assert await outstanding(store) == []
    # A host that ends with its machines puts them back to where they begin.
    await see(store, placement, Observation(PlacementState.ASSIGNED))
    assert await outstanding(store) == [order]


async def test_what_is_not_wanted_is_to_be_ended_until_nothing_is_left(store: Store) -> None:
    node, row, placement = await running(store)
    assert await outstanding(store) == []
    await store.instances.set_desired(row.id, InstanceDesired.STOPPED, stop_timeout=7.0)
    stop = Order(CommandKind.STOP, row.id, placement.id, node.id, 1, stop_timeout=7.0)
    assert await outstanding(store) == [stop]
    await see(store, placement, Observation(PlacementState.STOPPING))
    await store.instances.set_desired(row.id, InstanceDesired.STOPPED, force=True)
    assert await outstanding(store) == [replace(stop, force=True)]
    await store.instances.delete(row.id)
    assert await outstanding(store) == [replace(stop, force=True, kind=CommandKind.DELETE)]
    await see(store, placement, STOPPED)
    assert await outstanding(store) == []


async def test_of_a_new_start_the_old_one_is_to_be_ended_first(store: Store) -> None:
    node, row, placement = await running(store, stop_timeout=12.0)
    await store.instances.restart(row.id)
    assert await outstanding(store) == [
        Order(CommandKind.STOP, row.id, placement.id, node.id, 1, stop_timeout=12.0),
    ]
    await see(store, placement, STOPPED)
    fresh = await succeed(store, row.id, node)
    assert [(one.kind, one.placement_id) for one in await outstanding(store)] == [(CommandKind.CREATE, fresh.id)]


async def test_what_serves_on_until_its_successor_runs_is_left_alone(store: Store) -> None:
    node, row, placement = await running(store)
    other = await ready_node(store)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    assert await outstanding(store) == []
    successor = await succeed(store, row.id, other)
    assert [one.kind for one in await outstanding(store)] == [CommandKind.CREATE]
    await see(store, successor, RUNNING)
    # A host that is being emptied is there, and is told.
    (order,) = await outstanding(store)
    assert (order.kind, order.placement_id, order.away) == (CommandKind.STOP, placement.id, False)


async def test_what_is_on_a_host_that_is_down_waits_and_what_was_given_up_there_does_not(store: Store) -> None:
    node, row, placement = await running(store)
    other = await ready_node(store)
    waiting = await place(store, await instance(store, await ready_image(store, node, "b.example/b:1")), node)
    await die(store, node)
    assert [(one.placement_id, one.away) for one in await outstanding(store)] == [(waiting.id, True)]
    found = [one for one in await store.scheduling.displaced() if one.placement_id == placement.id]
    assert await apply(store, Move.REPLACE, found[0]) == 1
    fresh = await succeed(store, row.id, other)
    # Those for hosts that are there come first, and a limit leaves out the others.
    assert [one.placement_id for one in await outstanding(store)] == [fresh.id, waiting.id]
    assert [one.placement_id for one in await outstanding(store, limit=1)] == [fresh.id]
    await see(store, fresh, RUNNING)
    await store.presence.heartbeat(node.id, node.generation)
    # It is back, and has to end what was replaced.
    orders = {one.placement_id: (one.kind, one.away) for one in await outstanding(store)}
    assert orders == {waiting.id: (CommandKind.CREATE, False), placement.id: (CommandKind.STOP, False)}


async def test_a_host_that_starts_is_waited_for(store: Store) -> None:
    node = await ready_node(store)
    await place(store, await instance(store, await ready_image(store, node)), node)
    for state, away in ((NodeState.BOOTING, True), (NodeState.READY, False), (NodeState.DOWN, True)):
        await store.nodes.set_state(node.id, state)
        assert [one.away for one in await outstanding(store)] == [away]


async def test_only_a_leader_in_office_looks_and_writes(store: Store) -> None:
    node, row, placement = await running(store)
    term = await leading(store)
    await store.instances.delete(row.id)
    orders = await store.commands.outstanding(OWN, term, 10)
    old = replace(term, epoch=term.epoch - 1)
    for late in (
        lambda: store.commands.outstanding(OWN, old, 10),
        lambda: store.commands.record([Note("sent", orders[0], 1)], old),
    ):
        with pytest.raises(Fenced):
            await late()
    before = len(await store.instances.events(row.id))
    await store.commands.record([], term)
    await store.commands.record([Note("sent", orders[0], 1), Note("refused", orders[0], 1, "too late")], term)
    events = (await store.instances.events(row.id))[before:]
    assert [(one.who, one.what, one.data["reason"]) for one in events] == [
        ("dispatcher", "command.sent", ""),
        ("dispatcher", "command.refused", "too late"),
    ]
    assert events[0].data["placement_id"] == str(placement.id)
    assert events[0].data["node_id"] == str(node.id)


async def test_steps_are_written_once_whatever_becomes_of_the_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, row, _ = await running(store)
    term = await leading(store)
    await store.instances.delete(row.id)
    (order,) = await store.commands.outstanding(OWN, term, 10)
    notes = [Note("sent", order, 1), Note("refused", order, 1, "busy")]
    run = store.units.run

    async def lose_the_answer(*args: object, **kwargs: object) -> object:
        await run(*args, **kwargs)  # type: ignore[arg-type]
        raise OutcomeUnknown("lost")

    before = len(await store.instances.events(row.id))
    with monkeypatch.context() as patch:
        patch.setattr(store.units, "run", lose_the_answer)
        with pytest.raises(OutcomeUnknown):
            await store.commands.record(notes, term)
    await store.commands.record([*notes, Note("taken", order, 2)], term)
    events = (await store.instances.events(row.id))[before:]
    assert [one.what for one in events] == ["command.sent", "command.refused", "command.taken"]
    # What is known to be written is another step when it comes again.
    await store.commands.record(notes[:1], term)
    assert [one.what for one in (await store.instances.events(row.id))[before + 3 :]] == ["command.sent"]


async def test_the_log_tells_where_each_step_was_and_which_leader_decided(store: Store) -> None:
    node, row, _ = await running(store)
    other = await ready_node(store)
    await die(store, node)
    await apply(store, Move.REPLACE, await displaced(store), "down")
    fresh = await succeed(store, row.id, other)
    await see(store, fresh, RUNNING)
    await store.instances.delete(row.id, force=True, stop_timeout=3.0)
    epoch = (await leading(store)).epoch
    events = [one for one in await store.instances.events(row.id) if one.what != "instance.state"]
    assert [(one.what, one.data.get("node_id"), one.data.get("epoch")) for one in events] == [
        ("instance.created", None, None),
        ("placement.assigned", str(node.id), epoch),
        ("placement.state", str(node.id), epoch),
        ("placement.lost", str(node.id), epoch),
        ("instance.moved", str(node.id), epoch),
        ("placement.assigned", str(other.id), epoch),
        ("placement.state", str(other.id), epoch),
        ("instance.desired", None, None),
    ]
    assert [one.data["generation"] for one in events if one.what == "placement.state"] == [1, 2]
    assert (events[-1].data["force"], events[-1].data["stop_timeout"]) == (True, 3.0)


async def test_what_is_outstanding_and_what_happened_are_looked_up_by_index(store: Store, database_url: str) -> None:
    """Neither may cost more because more runs or has happened."""
    _, row, _ = await running(store)
    with psycopg.connect(database_url, autocommit=True) as connection, Cursor(connection) as cursor:
        cursor.execute(
            "insert into events (who, what, subject_kind, subject_id) "
            "select 'x', 'x', 'instance', gen_random_uuid() from generate_series(1, 5000)"
        )
        cursor.execute("analyze events")
        cursor.execute("begin")
        by_index(cursor, in_order=True)
        plan = _plan(cursor, commands._OUTSTANDING, (OWN, 10))
        assert "Seq Scan on placements" not in plan
        assert "Seq Scan on instances" not in plan
        used = set(re.findall(r"using (instances_\w+|placements_\w+)", plan))
        assert used == {
            *("instances_ending", "instances_unplaced", "instances_pkey"),
            *("placements_assigned", "placements_released", "placements_lost", "placements_instance_live"),
        }
        cursor.execute("rollback")
        plan = _plan(cursor, instances._EVENTS.encode(), {"id": row.id, "after": 0, "limit": 100})
        assert "events_subject" in plan
        assert "events_pkey" not in plan


def _plan(cursor: Cursor, query: bytes, values: Any) -> str:
    cursor.execute(b"explain " + query, values)
    return "\n".join(line["QUERY PLAN"] for line in cursor)
