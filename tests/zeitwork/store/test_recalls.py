"""Moves that are off because their host is not to be emptied any more, on real Postgres."""

from __future__ import annotations

import pytest

from actors.model.states import InstanceState, NodeDesired, NodeState
from actors.scheduler.store import Assignment, Move, Plan
from tests.zeitwork.store.moving import RUNNING, apply, die, displaced, drain, pending, succeed
from tests.zeitwork.store.world import apply_plan, live, ready_node, running, see
from zeitwork.store import Store


@pytest.mark.parametrize("desired", [NodeDesired.READY, NodeDesired.CORDONED])
async def test_what_was_to_leave_a_host_stays_once_it_may(store: Store, desired: NodeDesired) -> None:
    node, row, old = await running(store)
    before = await store.instances.get(row.id)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    assert await pending(store) == [row.id]
    assert await store.scheduling.displaced() == ()
    await store.nodes.set_desired(node.id, desired)
    found = await displaced(store)
    assert (found.placement_id, found.node_state) == (old.id, NodeState.READY)
    assert await apply(store, Move.STAY, found, "") == 1
    assert await apply(store, Move.STAY, found, "") == 0
    after = await store.instances.get(row.id)
    assert (after.state, after.reason, after.generation, after.placement_id) == (InstanceState.RUNNING, "", 1, old.id)
    assert after.observed_generation == before.observed_generation
    assert await pending(store) == []
    assert await store.scheduling.displaced() == ()
    placement = await live(store, node, row.id)
    assert placement is not None
    assert placement.wanted
    assert not (await store.placements.get(old.id)).kept
    # What was planned for the generation that is off is refused, and the next move is one like any other.
    other = await ready_node(store)
    (refusal,) = await apply_plan(store, Plan((Assignment(row.id, 2, other.id),)))
    assert refusal.instance_id == row.id
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    await see(store, await succeed(store, row.id, other), RUNNING)
    after = await store.instances.get(row.id)
    assert (after.state, after.generation, after.node_id) == (InstanceState.RUNNING, 2, other.id)


async def test_what_was_placed_elsewhere_goes_there(store: Store) -> None:
    node, row, _ = await running(store)
    other = await ready_node(store)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    await store.nodes.set_desired(node.id, NodeDesired.READY)
    found = await displaced(store)
    await succeed(store, row.id, other)
    assert await apply(store, Move.STAY, found, "") == 0
    assert await store.scheduling.displaced() == ()
    assert (await store.instances.get(row.id)).generation == 2


async def test_a_move_that_somebody_asked_for_goes_on(store: Store) -> None:
    node, row, old = await running(store)
    await store.instances.replace(row.id)
    assert await pending(store) == [row.id]
    assert await store.scheduling.displaced() == ()
    await drain(store, node)
    await store.nodes.set_desired(node.id, NodeDesired.READY)
    assert await store.scheduling.displaced() == ()
    # Until somebody asks for something else.
    await store.instances.restart(row.id)
    assert not (await store.placements.get(old.id)).kept


async def test_one_is_not_called_back_while_its_host_is_emptied_or_dead(store: Store) -> None:
    node, row, _ = await running(store)
    await drain(store, node)
    assert await apply(store, Move.HAND_OVER, await displaced(store)) == 1
    await store.nodes.set_desired(node.id, NodeDesired.READY)
    found = await displaced(store)
    await drain(store, node)
    assert await apply(store, Move.STAY, found, "") == 0
    await store.nodes.set_desired(node.id, NodeDesired.READY)
    await die(store, node)
    assert await apply(store, Move.STAY, found, "") == 0
    assert (await store.instances.get(row.id)).generation == 2
