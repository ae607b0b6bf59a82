"""Steps of tests about hosts that die or are emptied."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg

from actors.model.records import Observation, Placement
from actors.model.states import NodeDesired, NodeState, PlacementState
from actors.registrar.store import Beat
from actors.scheduler.store import Assignment, Displaced, Move, Moved, Plan
from tests.zeitwork.store.world import apply_plan, instance, leading, live, place, ready_image, ready_node, see
from zeitwork.store import Store
from zeitwork.store.rows import InstanceRow, NodeRow

RUNNING = Observation(PlacementState.RUNNING, pid=1, hypervisor="qemu", boot_id="boot-1")
WHY = "because"


async def beat_of(store: Store, node: NodeRow) -> Beat:
    return next(beat for beat in await store.presence.beats() if beat.node_id == node.id)


async def die(store: Store, node: NodeRow) -> None:
    """Let the leader find a host dead."""
    assert await store.presence.mark_down(await beat_of(store, node), "no sign of life", await leading(store))


async def drain(store: Store, node: NodeRow) -> None:
    assert (await store.nodes.set_desired(node.id, NodeDesired.DRAINING)).state is NodeState.DRAINING


async def displaced(store: Store) -> Displaced:
    """Return the one placement that has to be decided about."""
    (found,) = await store.scheduling.displaced()
    return found


async def apply(store: Store, move: Move, found: Displaced, reason: str = WHY) -> int:
    moved = Moved(found.instance.id, found.instance.generation, found.placement_id, move, reason)
    return await store.scheduling.apply_moves((moved,), await leading(store))


async def succeed(store: Store, instance_id: UUID, node: NodeRow) -> Placement:
    """Place the present generation on ``node``."""
    row = await store.instances.get(instance_id)
    assert await apply_plan(store, Plan((Assignment(row.id, row.generation, node.id),))) == ()
    found = await live(store, node, instance_id)
    assert found is not None
    return found


async def pending(store: Store) -> list[UUID]:
    return [one.id for one in (await store.scheduling.pending()).instances]


async def single(store: Store) -> tuple[NodeRow, InstanceRow, Placement]:
    """Return a running singleton."""
    node = await ready_node(store)
    row = await instance(store, await ready_image(store, node), singleton=True)
    placement = await place(store, row, node)
    await see(store, placement, RUNNING)
    return node, await store.instances.get(row.id), placement


def wanted(placement: Placement | None) -> bool:
    """Say whether a placement that must be there is wanted by its host."""
    assert placement is not None
    return placement.wanted


def forget_beats(connection: psycopg.Connection[Any], node: NodeRow) -> None:
    """Let a host be silent for longer than one that lives can be."""
    connection.execute("update nodes set last_seen_at = last_seen_at - interval '1 hour' where id = %s", (node.id,))
