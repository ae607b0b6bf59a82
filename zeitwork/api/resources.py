"""Resources: what the hosts have, what placements hold of it, and what is free."""

from __future__ import annotations

from uuid import UUID

import msgspec

from actors.model.states import NodeState
from zeitwork.api.call import Answer, Call
from zeitwork.store.rows import ResourcesRow


class Amount(msgspec.Struct, frozen=True, kw_only=True):
    """Virtual CPUs and MiB of memory."""

    vcpu: int
    memory: int


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What capacity is computed from: (total - reserved) x overcommit. Memory in MiB, overhead for each VM."""

    vcpu_total: int
    vcpu_reserved: int
    vcpu_overcommit: float
    memory_total: int
    memory_reserved: int
    memory_overcommit: float
    memory_overhead: int


class NodeAmounts(msgspec.Struct, frozen=True, kw_only=True):
    """One host. ``machine`` is None until its process measured it."""

    node_id: UUID
    hostname: str
    state: NodeState
    capacity: Amount
    allocated: Amount
    available: Amount
    placements: int
    machine: Machine | None


class ResourcesView(msgspec.Struct, frozen=True, kw_only=True):
    """All hosts, and their sums; ``available`` counts only hosts that take new work."""

    capacity: Amount
    allocated: Amount
    available: Amount
    nodes: list[NodeAmounts]


async def overview(call: Call) -> Answer:
    """GET /api/v1/resources."""
    return Answer(summarize(await call.deps.store.nodes.resources()))


def summarize(rows: tuple[ResourcesRow, ...]) -> ResourcesView:
    """Return the view of these nodes. What is free on a host that takes nothing new is not free in the sum."""
    open_rows = [row for row in rows if row.state is NodeState.READY]
    return ResourcesView(
        capacity=Amount(vcpu=sum(row.vcpu for row in rows), memory=sum(row.memory for row in rows)),
        allocated=Amount(vcpu=sum(row.vcpu_used for row in rows), memory=sum(row.memory_used for row in rows)),
        available=Amount(
            vcpu=sum(row.vcpu_free for row in open_rows), memory=sum(row.memory_free for row in open_rows)
        ),
        nodes=[_node(row) for row in rows],
    )


def _node(row: ResourcesRow) -> NodeAmounts:
    found = row.capacity
    return NodeAmounts(
        node_id=row.node_id,
        hostname=row.hostname,
        state=row.state,
        capacity=Amount(vcpu=row.vcpu, memory=row.memory),
        allocated=Amount(vcpu=row.vcpu_used, memory=row.memory_used),
        available=Amount(vcpu=row.vcpu_free, memory=row.memory_free),
        placements=row.placements,
        machine=None
        if found is None
        else Machine(
            vcpu_total=found.vcpu_total,
            vcpu_reserved=found.vcpu_reserved,
            vcpu_overcommit=found.vcpu_overcommit,
            memory_total=found.memory_total,
            memory_reserved=found.memory_reserved,
            memory_overcommit=found.memory_overcommit,
            memory_overhead=found.memory_overhead,
        ),
    )
