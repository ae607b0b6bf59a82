"""`zeitwork.store.removal` in memory: what becomes of all that is on a node that is removed."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from actors.model.errors import Conflict
from actors.model.states import InstanceDesired, NodeState, PlacementState
from actors.scheduler.store import Move
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.database import Transaction
from tests.simulation.store.node_rows import get_node, live_on, write_state
from tests.simulation.store.placements import observe
from tests.simulation.store.relocation import move
from zeitwork.store.nodes import _ENDS, ALIVE_WITHIN
from zeitwork.store.removal import GONE, refuse_living


def remove(tx: Transaction, node_id: UUID, *, dead: bool, leaves: bool, who: str) -> None:
    """Terminate a node, as `zeitwork.store.nodes.Nodes.delete` and ``leave`` do. Raises `NotFound` and `Conflict`."""
    node = get_node(tx, node_id)
    if node.state is not NodeState.TERMINATED:
        alive = not leaves and node.last_seen_at is not None and node.last_seen_at > tx.now - ALIVE_WITHIN
        if Bug.REMOVED_ALIVE in tx.bugs and dead:
            alive = False
        if dead:
            refuse_living({"hostname": node.hostname}, alive, dead=True)
            _bury(tx, node, who)
        live = live_on(tx, node_id)
        left = [row for row in live if node.state is NodeState.DOWN and not leaves and not _needed(tx, row)]
        if Bug.REMOVED_BLINDLY in tx.bugs:
            left = live
        if len(left) < len(live):
            raise Conflict(
                f"{len(live) - len(left)} placements are still on {node.hostname}",
                fix="drain it first, or stop and delete its instances",
            )
        refuse_living({"hostname": node.hostname}, alive, dead=False)
        for row in left:
            observe(tx, row.id, frozenset(PlacementState), GONE, 0.0)
        write_state(tx, node, NodeState.TERMINATED, _ENDS[dead, leaves], who)
    if dead or leaves:
        tx.database.nodes.put(node_id, replace(get_node(tx, node_id), buried=True))


def _bury(tx: Transaction, node: tables.Node, who: str) -> None:
    for row in live_on(tx, node.id):
        instance = tx.database.instances.get(row.instance_id)
        assert instance is not None
        if _needed(tx, row) and Bug.LEFT_FOR_LOST not in tx.bugs:
            move(tx, Move.REPLACE, instance, row, f"{node.hostname} was removed for good", force=True, who=who)
        observe(tx, row.id, frozenset(PlacementState), GONE, 0.0)


def _needed(tx: Transaction, row: tables.Placement) -> bool:
    """Say whether a placement can't go with its node: it is wanted running, and somebody waits for it."""
    instance = tx.database.instances.get(row.instance_id)
    assert instance is not None
    counts = not row.lost or row.exclusive or row.generation >= instance.generation
    return counts and instance.desired is InstanceDesired.RUNNING
