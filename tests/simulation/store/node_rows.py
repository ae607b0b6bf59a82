"""Nodes, and what placements hold on them, as others need them."""

from __future__ import annotations

from uuid import UUID

from actors.model.errors import NotFound
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.database import Transaction


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
