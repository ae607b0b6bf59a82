"""The scheduler's look and its plan. Writes no table of its own: it uses the functions of those who do."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from actors.model.records import PendingInstance
from actors.model.resources import Resources
from actors.model.states import ImageStatus, InstanceDesired, InstanceState, NodeState, SnapshotState
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
from zeitwork.store.election import fence
from zeitwork.store.identifiers import new_id
from zeitwork.store.instance_rows import has_live_placement, lock_instance, restored_from, write_observed
from zeitwork.store.journal import announce, record
from zeitwork.store.leases import lease
from zeitwork.store.nodes import lock_node, resource_rows
from zeitwork.store.placements import insert_placement
from zeitwork.store.pools import pick
from zeitwork.store.problems import CapacityExceeded, PoolExhausted
from zeitwork.store.snapshot_rows import lock_snapshot
from zeitwork.store.units import Cursor, Units

#: Assignments that share a transaction: more of them would hold its locks for too long.
TOGETHER = 32

# An earlier placement must be gone first: one instance never runs twice. An instance that failed for good before it
# was placed (its image failed) stays failed until someone starts its next generation. One that goes on from a snapshot
# can do so on the snapshot's host only.
_PENDING = """
select i.id, i.generation, coalesce(s.node_id, i.pinned_node_id) as node_id, i.image_id, i.vcpu, i.memory, i.disk,
    m.status, m.error
from instances i join images m on m.id = i.image_id
    left join snapshots s on s.id = i.snapshot_id and i.snapshot_generation = i.generation
where i.desired = 'running' and i.state <> 'terminated'
    and not exists (select from placements where instance_id = i.id
        and (generation = i.generation or state <> 'removed'))
    and not (i.state = 'failed' and i.observed_generation = i.generation)
order by i.id limit %s
"""


class Scheduling:
    """`actors.scheduler.store.SchedulingStore` on Postgres."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def nodes(self) -> tuple[NodeView, ...]:
        """Return every node that is not terminated, with what is free on it."""

        def unit(cursor: Cursor) -> tuple[NodeView, ...]:
            return tuple(
                NodeView(
                    id=row.node_id,
                    hostname=row.hostname,
                    state=row.state,
                    vcpu=row.vcpu,
                    memory=row.memory,
                    vcpu_free=row.vcpu_free,
                    memory_free=row.memory_free,
                    memory_overhead=row.capacity.memory_overhead if row.capacity else 0,
                    closed=row.closed_reason,
                )
                for row in resource_rows(cursor)
            )

        return await self._units.read(unit, name="scheduling.nodes")

    async def pending(self, after: After | None = None, limit: int = 5000) -> Pending:  # noqa: ARG002
        """Return instances that want to be placed, by priority (highest first), then age (oldest first)."""

        def unit(cursor: Cursor) -> Pending:
            cursor.execute(_PENDING, (limit,))
            return Pending(
                tuple(
                    PendingInstance(
                        id=row["id"],
                        generation=row["generation"],
                        node_id=row["node_id"],
                        image_id=row["image_id"],
                        image_status=ImageStatus(row["status"]),
                        image_error=row["error"],
                        resources=Resources(row["vcpu"], row["memory"], row["disk"]),
                    )
                    for row in cursor
                )
            )

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

        def unit(cursor: Cursor) -> int:
            fence(cursor, term)
            return relocation.apply(cursor, moves)

        return await self._units.run(unit, name="scheduling.apply_moves")

    async def apply_plan(self, plan: Plan, term: Term) -> tuple[Postponed, ...]:
        """Commit each assignment with its addresses, and each reason; return those that were refused.

        A refusal of one (checked by the database itself) leaves the others. Applying the same assignment twice makes
        one placement. Raises `Fenced` when ``term`` is over; transactions before that one stay.
        """
        refused: list[Postponed] = []
        for begin in range(0, len(plan.assignments), TOGETHER):
            refused += await self._assign_together(plan.assignments[begin : begin + TOGETHER], term)
        reasons = (*plan.postponed, *refused)
        if reasons:

            def unit(cursor: Cursor) -> None:
                fence(cursor, term)
                # In one order everywhere, or two of these could wait for each other.
                for postponed in sorted(reasons, key=lambda one: one.instance_id):
                    _postpone(cursor, postponed)

            await self._units.run(unit, name="scheduling.postpone")
        return tuple(refused)

    async def _assign_together(self, assignments: Sequence[Assignment], term: Term) -> list[Postponed]:
        """Make placements in one transaction; return those that were refused."""

        def unit(cursor: Cursor) -> list[Postponed]:
            fence(cursor, term)
            # In one order everywhere, or two of these could wait for each other.
            found = [
                (one, _assign(cursor, one, term.epoch)) for one in sorted(assignments, key=lambda one: one.instance_id)
            ]
            return [Postponed(one.instance_id, one.generation, reason) for one, reason in found if reason is not None]

        try:
            return await self._units.run(unit, name="scheduling.assign")
        except (CapacityExceeded, PoolExhausted) as refusal:
            if len(assignments) == 1:
                return [Postponed(assignments[0].instance_id, assignments[0].generation, str(refusal))]
        # That of one undid all, and a plan is seldom wrong: then each has a transaction of its own.
        return [postponed for one in assignments for postponed in await self._assign_together((one,), term)]


def _assign(cursor: Cursor, assignment: Assignment, epoch: int) -> str | None:
    """Place an instance, or return why not."""
    instance = lock_instance(cursor, assignment.instance_id)
    if (
        instance is None
        or instance["generation"] != assignment.generation
        or instance["desired"] != InstanceDesired.RUNNING
    ):
        return "it is not wanted any more as it was planned"
    cursor.execute(
        "select from placements where instance_id = %s and generation = %s",
        (assignment.instance_id, assignment.generation),
    )
    if cursor.fetchone() is not None:
        return None  # applied before, and the answer was lost
    if has_live_placement(cursor, assignment.instance_id):
        return "its earlier placement is still being removed"
    cursor.execute("select status, deleted_at from images where id = %s", (instance["image_id"],))
    image = cursor.fetchone()
    if image is None or image["status"] != ImageStatus.READY:
        return "waiting for its image"
    node = lock_node(cursor, assignment.node_id)
    if node is None or node["state"] != NodeState.READY:
        return f"the host is {node['state'] if node else 'gone'}"
    if node["closed_since"] is not None:
        return f"the host is closed: {node['closed_reason']}"
    snapshot_id = restored_from(instance)
    if snapshot_id is not None and (obstacle := _snapshot_obstacle(cursor, snapshot_id, assignment.node_id)):
        return obstacle
    placement_id = new_id()
    v4_pool, v4 = pick(cursor, assignment.node_id, 4)
    assert isinstance(v4, IPv4Address)
    v6_pool, v6 = pick(cursor, assignment.node_id, 6) if node["ipv6"] else (None, None)
    assert v6 is None or isinstance(v6, IPv6Address)
    insert_placement(cursor, placement_id, instance, assignment.node_id, v4, v6, snapshot_id, epoch=epoch)
    lease(cursor, v4_pool, v4, assignment.node_id, placement_id)
    if v6 is not None and v6_pool is not None:
        lease(cursor, v6_pool, v6, assignment.node_id, placement_id)
    _announce_placement(cursor, placement_id, instance["id"], assignment, v4, v6)
    write_observed(cursor, instance, InstanceState.STARTING, "", generation=assignment.generation, who="scheduler")
    return None


def _snapshot_obstacle(cursor: Cursor, snapshot_id: UUID, node_id: UUID) -> str | None:
    """Return why a machine can't go on from a snapshot on this node, or None: then it stays until the commit."""
    snapshot = lock_snapshot(cursor, snapshot_id, to_use=True)
    assert snapshot is not None  # a foreign key holds it
    if snapshot["state"] != SnapshotState.READY:
        return f"its snapshot is {snapshot['state']}"
    return None if snapshot["node_id"] == node_id else "its snapshot is on another host"


def _announce_placement(
    cursor: Cursor,
    placement_id: UUID,
    instance_id: UUID,
    assignment: Assignment,
    v4: IPv4Address,
    v6: IPv6Address | None,
) -> None:
    data = {
        "instance_id": str(instance_id),
        "node_id": str(assignment.node_id),
        "generation": assignment.generation,
        "v4": str(v4),
        "v6": str(v6) if v6 else None,
    }
    record(cursor, "scheduler", "placement.assigned", "placement", placement_id, data)
    announce(cursor, "zw_placements", placement_id)


def _postpone(cursor: Cursor, postponed: Postponed) -> None:
    """Write why an instance still waits, or that it never will run, unless it has changed since."""
    instance = lock_instance(cursor, postponed.instance_id)
    if (
        instance is None
        or instance["generation"] != postponed.generation
        or instance["desired"] != InstanceDesired.RUNNING
        or has_live_placement(cursor, postponed.instance_id)
    ):
        return
    if postponed.final:
        state, generation = InstanceState.FAILED, postponed.generation
    else:
        state, generation = InstanceState.PENDING, instance["observed_generation"]
    write_observed(cursor, instance, state, postponed.reason, generation=generation, who="scheduler")
