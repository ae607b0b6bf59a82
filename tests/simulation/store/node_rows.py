"""Nodes, and what placements hold on them, as others need them."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from actors.model.errors import NotFound
from actors.model.states import NodeDesired, NodeState
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.database import Transaction

#: Seconds that a host which said goodbye may be away before what runs on it is replaced.
GRACE = 60.0


def live_on(tx: Transaction, node_id: UUID) -> list[tables.Placement]:
    """Return the placements of a node that are not removed."""
    return [row for row in tx.database.placements if row.node_id == node_id and row.live]


def get_node(tx: Transaction, node_id: UUID) -> tables.Node:
    """Return a node. Raises `NotFound`."""
    row = tx.database.nodes.get(node_id)
    if row is None:
        raise NotFound(f"there is no node {node_id}", fix="`zeitwork nodes` lists them")
    return row


def used(tx: Transaction, node_id: UUID) -> tuple[int, int]:
    """Return the vCPU and MiB that placements hold on a node."""
    live = live_on(tx, node_id)
    vcpu = sum(row.resources.vcpu for row in live)
    memory = sum(row.resources.memory + row.memory_overhead for row in live)
    if Bug.CAPACITY_IGNORED in tx.bugs:
        return 0, 0
    if Bug.CAPACITY_TWICE in tx.bugs:
        return 2 * vcpu, 2 * memory
    return vcpu, memory


def write_state(
    tx: Transaction, node: tables.Node, state: NodeState, reason: str, who: str, *, grace: float = GRACE
) -> None:
    """Write a node's state when it differs. What runs on one that goes down is replaced after ``grace`` seconds."""
    if state is NodeState.READY and node.desired is NodeDesired.DRAINING:
        state = NodeState.DRAINING
    if (node.state, node.reason) == (state, reason):
        return
    down_since = replace_after = None
    if state is NodeState.DOWN:
        down_since = tx.now if node.down_since is None else node.down_since
        after = tx.now + grace
        replace_after = after if node.replace_after is None else min(node.replace_after, after)
    tx.database.nodes.put(
        node.id,
        replace(
            node,
            state=state,
            reason=reason,
            updated_at=tx.now,
            down_since=down_since,
            replace_after=replace_after,
        ),
    )
    tx.record(who, "node.state", "node", node.id, {"from": node.state, "to": state, "reason": reason})
    tx.announce("zw_nodes", node.id)


def hasten(tx: Transaction, node: tables.Node, reason: str, who: str, grace: float) -> bool:
    """Have what ran on a node that is down replaced ``grace`` seconds from now; False when that is no sooner."""
    after = tx.now + grace
    if node.replace_after is None or node.replace_after <= after:
        return False
    tx.database.nodes.put(node.id, replace(node, reason=reason, updated_at=tx.now, replace_after=after))
    tx.record(who, "node.state", "node", node.id, {"from": node.state, "to": node.state, "reason": reason})
    tx.announce("zw_nodes", node.id)
    return True
