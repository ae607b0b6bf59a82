"""The scheduler's look and its plan. Writes no table of its own: it uses the functions of those who do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar
from uuid import UUID

import trio

from actors.model.records import PendingInstance
from actors.model.resources import Resources
from actors.model.states import ImageStatus, NodeDesired, NodeState
from actors.scheduler.store import (
    After,
    Assignment,
    Displaced,
    GroupChange,
    GroupView,
    Moved,
    NodeView,
    Pending,
    Plan,
    Postponed,
)
from runtime.lease import Term
from zeitwork.store import groups, relocation
from zeitwork.store.assignments import assign, postpone
from zeitwork.store.current import BLOCKS
from zeitwork.store.cursor import by_index
from zeitwork.store.election import FENCED_SHARE, fence
from zeitwork.store.node_images import UPLOADED, nodes_with
from zeitwork.store.problems import CapacityExceeded
from zeitwork.store.requirements import requirements_from_json, taints_from_json
from zeitwork.store.units import Cursor, Units

T = TypeVar("T")

#: Decisions that share a transaction at first, at least and at most. What one costs beside them is spread over more
#: with more of them; but it holds locks for as long as it takes, and must stay far below what a leader's may take.
TOGETHER, FEWEST, MOST = 400, 16, 1000
#: Transactions of one plan at once: while one waits for the database, another one's work is prepared here.
LANES = 2
#: The share of the time that a leader's transaction may take, from which on fewer decisions share the next one.
_SLOW = 0.2

_NODES = """
select n.id, n.hostname, n.state, coalesce(n.vcpu_capacity, 0) as vcpu, coalesce(n.memory_capacity, 0) as memory,
    greatest(0, coalesce(n.vcpu_capacity, 0) - coalesce(u.vcpu, 0)) as vcpu_free,
    greatest(0, coalesce(n.memory_capacity, 0) - coalesce(u.memory, 0) - n.overhead_excess) as memory_free,
    coalesce(n.memory_overhead, 0) as memory_overhead, n.closed_reason, n.desired, r.name as region, n.labels, n.taints,
    n.hypervisor, n.architecture, n.pressure
from nodes n join regions r on r.id = n.region_id left join (
    select node_id, sum(vcpu) as vcpu, sum(memory + memory_overhead) as memory
    from placements where state <> 'removed' group by node_id) u on u.node_id = n.id
where n.state <> 'terminated' order by n.id
"""
# An earlier placement must be gone first: one instance never runs twice, but where that was decided (one that serves
# on, or whose host is dead), and never when it is to be one at a time. An instance that failed for good before it was
# placed (its image failed) stays failed until someone starts its next generation. One that goes on from a snapshot can
# do so on the snapshot's host only.
_PENDING = f"""
select i.id, i.generation, coalesce(s.node_id, i.pinned_node_id) as node_id, i.image_id, i.vcpu, i.memory, i.disk,
    m.status, m.error, {UPLOADED} as uploaded, i.priority, i.requirements, i.group_id, i.singleton, i.reason,
    extract(epoch from now() - i.pending_since)::float8 as waiting,
    (select c.node_id from placements c where c.instance_id = i.id and c.kept) as leaves
from instances i join images m on m.id = i.image_id
    left join snapshots s on s.id = i.snapshot_id and i.snapshot_generation = i.generation
where i.desired = 'running' and i.observed_generation < i.generation
    and (- i.priority, i.id) > (%s::smallint, %s::uuid)
    and not exists (select from placements where instance_id = i.id and generation = i.generation)
    and not exists (select from placements c where c.instance_id = i.id and {BLOCKS})
order by - i.priority, i.id limit %s
"""
#: Before the first page.
_BEGIN = (-32768, UUID(int=0))
_GROUPS = """
select i.group_id, p.node_id, count(*) as count from instances i join placements p on p.instance_id = i.id
where i.group_id = any(%s) and i.state <> 'terminated' and p.state <> 'removed' group by i.group_id, p.node_id
"""


class Scheduling:
    """`actors.scheduler.store.SchedulingStore` on Postgres."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def nodes(self) -> tuple[NodeView, ...]:
        """Return every node that is not terminated, with what is free on it."""

        def unit(cursor: Cursor) -> tuple[NodeView, ...]:
            cursor.execute(_NODES)
            return tuple(
                NodeView(
                    id=row["id"],
                    hostname=row["hostname"],
                    state=NodeState(row["state"]),
                    vcpu=row["vcpu"],
                    memory=row["memory"],
                    vcpu_free=row["vcpu_free"],
                    memory_free=row["memory_free"],
                    memory_overhead=row["memory_overhead"],
                    closed=row["closed_reason"],
                    desired=NodeDesired(row["desired"]),
                    region=row["region"],
                    labels=row["labels"],
                    taints=taints_from_json(row["taints"]),
                    hypervisor=row["hypervisor"],
                    architecture=row["architecture"],
                    pressure=row["pressure"],
                )
                for row in cursor
            )

        return await self._units.read(unit, name="scheduling.nodes")

    async def pending(self, after: After | None = None, limit: int = 5000) -> Pending:
        """Return instances that want to be placed, by priority (highest first), then age (oldest first)."""

        def unit(cursor: Cursor) -> Pending:
            begin = _BEGIN if after is None else (-after.priority, after.id)
            by_index(cursor, in_order=True)
            cursor.execute(_PENDING.encode(), (*begin, limit + 1), prepare=False)
            rows = cursor.fetchall()
            images = nodes_with(cursor, {row["image_id"] for row in rows})
            instances = tuple(
                PendingInstance(
                    id=row["id"],
                    generation=row["generation"],
                    node_id=row["node_id"],
                    image_id=row["image_id"],
                    image_status=ImageStatus(row["status"]),
                    image_error=row["error"],
                    resources=Resources(row["vcpu"], row["memory"], row["disk"]),
                    priority=row["priority"],
                    requirements=requirements_from_json(row["requirements"]),
                    group_id=row["group_id"],
                    singleton=row["singleton"],
                    waiting=max(0.0, row["waiting"]),
                    reason=row["reason"],
                    leaves=row["leaves"],
                    image_nodes=images.get(row["image_id"], frozenset()) if row["uploaded"] else None,
                )
                for row in rows
            )
            more = len(instances) > limit
            instances = instances[:limit]
            members: dict[UUID, dict[UUID, int]] = {}
            named = list({one.group_id for one in instances if one.group_id is not None})
            cursor.execute(_GROUPS, (named,), prepare=False)
            for row in cursor:
                members.setdefault(row["group_id"], {})[row["node_id"]] = row["count"]
            last = After(instances[-1].priority, instances[-1].id) if more else None
            return Pending(instances, images, members, last)

        return await self._units.read(unit, name="scheduling.pending")

    async def groups(self) -> tuple[GroupView, ...]:
        """Return groups whose members are not what is wanted, in part or whole."""
        return await self._units.read(groups.views, name="scheduling.groups")

    async def apply_groups(self, changes: tuple[GroupChange, ...], term: Term) -> int:
        """Create and terminate members; return how many. A change of a group that was changed meanwhile is left out."""

        def unit(cursor: Cursor) -> int:
            fence(cursor, term)
            return groups.apply(cursor, changes)

        return await self._units.run(unit, name="scheduling.apply_groups")

    async def displaced(self) -> tuple[Displaced, ...]:
        """Return placements that have to be decided about because of their nodes."""
        return await self._units.read(relocation.displaced, name="scheduling.displaced")

    async def apply_moves(self, moves: tuple[Moved, ...], term: Term) -> int:
        """Carry out moves whose instance, placement and node are still as they were seen; return how many."""

        done = 0
        batches = _Batches(term)
        for together in batches.of(moves):

            def unit(cursor: Cursor, together: Sequence[Moved] = together) -> int:
                fence(cursor, term)
                return relocation.apply(cursor, together)

            with batches:
                done += await self._units.run(unit, name="scheduling.apply_moves")
        return done

    async def apply_plan(self, plan: Plan, term: Term) -> tuple[Postponed, ...]:
        """Commit each assignment with its addresses, and each reason; return those that were refused.

        A refusal of one (checked by the database itself) leaves the others. Applying the same assignment twice makes
        one placement. Raises `Fenced` when ``term`` is over; transactions before that one stay.
        """
        refused = await self._in_lanes(plan.assignments, term)
        batches = _Batches(term)
        for reasons in batches.of((*plan.postponed, *refused)):
            with batches:
                await self._postpone_together(reasons, term)
        return refused

    async def _in_lanes(self, assignments: Sequence[Assignment], term: Term) -> tuple[Postponed, ...]:
        """Make placements in lanes that work at once; return those that were refused, in the order of the plan."""
        refused: dict[Assignment, Postponed] = {}
        failures: list[Exception] = []

        async def work(lane: Sequence[Assignment]) -> None:
            batches = _Batches(term)
            try:
                for batch in batches.of(lane):
                    with batches:
                        refused.update(await self._assign_together(batch, term))
            except Exception as error:  # raised below, outside of the nursery's group
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for lane in _lanes(assignments):
                nursery.start_soon(work, lane)
        if failures:
            raise failures[0]
        return tuple(refused[one] for one in dict.fromkeys(assignments) if one in refused)

    async def _assign_together(self, assignments: Sequence[Assignment], term: Term) -> dict[Assignment, Postponed]:
        """Make placements in one transaction; return those that were refused."""

        def unit(cursor: Cursor) -> dict[Assignment, Postponed]:
            fence(cursor, term)
            by_index(cursor)
            return {
                one: Postponed(one.instance_id, one.generation, reason)
                for one, reason in assign(cursor, assignments, term.epoch).items()
            }

        try:
            return await self._units.run(unit, name="scheduling.assign")
        except CapacityExceeded as refusal:
            if len(assignments) == 1:
                return {assignments[0]: Postponed(assignments[0].instance_id, assignments[0].generation, str(refusal))}
        # The database refused what our own check let pass, and that of one undid all: it is found by halves.
        half = len(assignments) // 2
        found = await self._assign_together(assignments[:half], term)
        return found | await self._assign_together(assignments[half:], term)

    async def _postpone_together(self, reasons: Sequence[Postponed], term: Term) -> None:
        """Write reasons in one transaction."""

        def unit(cursor: Cursor) -> None:
            fence(cursor, term)
            by_index(cursor)
            postpone(cursor, reasons)

        await self._units.run(unit, name="scheduling.postpone")


def _lanes(assignments: Sequence[Assignment]) -> list[list[Assignment]]:
    """Divide assignments by their nodes, so that no lane waits for what another one has locked.

    What is left of a node is given in the order of the plan all the same: all of it is in one lane.
    """
    if len(assignments) <= TOGETHER:
        return [list(assignments)] if assignments else []
    number: dict[UUID, int] = {}
    lanes: list[list[Assignment]] = [[] for _ in range(LANES)]
    for one in assignments:
        lanes[number.setdefault(one.node_id, len(number) % LANES)].append(one)
    return [lane for lane in lanes if lane]


class _Batches:
    """How many decisions share a transaction: fewer after one that was slow, and slowly more again."""

    def __init__(self, term: Term) -> None:
        self._limit = term.ttl * FENCED_SHARE * _SLOW
        self._size = TOGETHER
        self._began = 0.0

    def of(self, decisions: Sequence[T]) -> Iterator[Sequence[T]]:
        """Return the decisions in batches; each batch's work goes into a ``with``."""
        begin = 0
        while begin < len(decisions):
            batch = decisions[begin : begin + self._size]
            begin += len(batch)
            yield batch

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        slow = time.perf_counter() - self._began > self._limit
        self._size = max(FEWEST, self._size // 2) if slow else min(MOST, self._size * 5 // 4)
