"""Resources: what the hosts have, what placements hold of it, and what is free."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import msgspec

from actors.ipam_lease.store import PoolUsage
from actors.model.states import NodeDesired, NodeState
from zeitwork.api import history
from zeitwork.api.call import Answer, Call
from zeitwork.api.decode import Input
from zeitwork.api.history import HistoryView, Span, parse_span, step_of
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


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """MiB that VMMs take beside their guests. ``allocated`` is what placements hold for it, a part of what they hold.

    ``measured`` is what ``monitors`` running VMMs take together, looked at every half minute; ``excess`` is how much of
    that their placements do not hold: it is not available, and told here. ``machine.memory_overhead`` is what a new
    placement is charged; it follows what was measured.
    """

    allocated: int
    measured: int
    monitors: int
    excess: int


class AddressPool(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses of one family on a host. A released address rests a while before it is ``available`` again.

    The counts of an IPv6 pool are beyond 2**53: a reader with only floating point sees them rounded.
    """

    family: int
    pool: str
    size: int
    leased: int
    resting: int
    available: int


class NodeAmounts(msgspec.Struct, frozen=True, kw_only=True):
    """One host. ``machine`` is None until its process measured it; ``closed`` says why it takes no new work for now."""

    node_id: UUID
    hostname: str
    state: NodeState
    closed: str | None
    capacity: Amount
    allocated: Amount
    available: Amount
    placements: int
    overhead: Overhead
    addresses: list[AddressPool]
    machine: Machine | None


class ResourcesView(msgspec.Struct, frozen=True, kw_only=True):
    """All hosts, and their sums; ``available`` counts only hosts that take new work. ``history`` when asked for."""

    capacity: Amount
    allocated: Amount
    available: Amount
    nodes: list[NodeAmounts]
    history: HistoryView | None = None


class ResourcesQuery(Input):
    """``history`` adds how it came to this: minutes or hours back, at most a day."""

    history: Span | None = None


async def overview(call: Call) -> Answer:
    """GET /api/v1/resources."""
    query: ResourcesQuery = call.query
    rows = await call.deps.store.nodes.resources()
    pools = await call.deps.store.leases.usages()
    if query.history is None:
        return Answer(summarize(rows, pools))
    seconds = parse_span(query.history)
    step = step_of(seconds)
    samples = await call.deps.store.history.samples(seconds, step)
    return Answer(summarize(rows, pools, history.present(samples, rows, seconds, step)))


def summarize(
    rows: tuple[ResourcesRow, ...], pools: Mapping[UUID, tuple[PoolUsage, ...]], past: HistoryView | None = None
) -> ResourcesView:
    """Return the view of these nodes. What is free on a host that takes nothing new is not free in the sum."""
    open_rows = [row for row in rows if row.state is NodeState.READY and not _closed(row)]
    return ResourcesView(
        capacity=Amount(vcpu=sum(row.vcpu for row in rows), memory=sum(row.memory for row in rows)),
        allocated=Amount(vcpu=sum(row.vcpu_used for row in rows), memory=sum(row.memory_used for row in rows)),
        available=Amount(
            vcpu=sum(row.vcpu_free for row in open_rows), memory=sum(row.memory_free for row in open_rows)
        ),
        nodes=[_node(row, pools.get(row.node_id, ())) for row in rows],
        history=past,
    )


def _closed(row: ResourcesRow) -> str | None:
    """Return why a host that is ready takes no new work, None when it does."""
    return row.closed_reason or ("cordoned" if row.desired is NodeDesired.CORDONED else None)


def _node(row: ResourcesRow, pools: tuple[PoolUsage, ...]) -> NodeAmounts:
    found = row.capacity
    return NodeAmounts(
        node_id=row.node_id,
        hostname=row.hostname,
        state=row.state,
        closed=_closed(row),
        capacity=Amount(vcpu=row.vcpu, memory=row.memory),
        allocated=Amount(vcpu=row.vcpu_used, memory=row.memory_used),
        available=Amount(vcpu=row.vcpu_free, memory=row.memory_free),
        placements=row.placements,
        overhead=Overhead(
            allocated=row.overhead.allocated,
            measured=row.overhead.measured,
            monitors=row.overhead.monitors,
            excess=row.overhead.excess,
        ),
        addresses=[
            AddressPool(
                family=pool.family,
                pool=pool.pool,
                size=pool.size,
                leased=pool.leased,
                resting=pool.resting,
                available=pool.size - pool.leased - pool.resting,
            )
            for pool in pools
        ],
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
