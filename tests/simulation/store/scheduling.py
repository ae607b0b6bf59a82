"""`zeitwork.store.scheduling` in memory: `actors.scheduler.store.SchedulingStore`."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from actors.model.records import PendingInstance
from actors.model.states import ImageStatus, InstanceDesired, InstanceState, NodeState
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
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.database import Transaction
from tests.simulation.store.election import fence
from tests.simulation.store.instance_rows import has_live_placement, placements_of, write_observed
from tests.simulation.store.leases import lease, pick
from tests.simulation.store.nodes import resource_rows
from tests.simulation.store.placements import insert_placement
from tests.simulation.store.units import Units
from zeitwork.store.problems import CapacityExceeded, PoolExhausted
from zeitwork.store.scheduling import TOGETHER


class Scheduling:
    """The scheduler's look and its plan."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def nodes(self) -> tuple[NodeView, ...]:
        """Return every node that is not terminated, with what is free on it."""

        def unit(tx: Transaction) -> tuple[NodeView, ...]:
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
                for row in resource_rows(tx)
            )

        return await self._units.read(unit, name="scheduling.nodes")

    async def pending(self, after: After | None = None, limit: int = 5000) -> Pending:
        """Return instances that want to be placed, by priority (highest first), then age (oldest first)."""

        def unit(tx: Transaction) -> Pending:
            instances = sorted(tx.database.instances, key=lambda row: row.id)
            return Pending(tuple(_pending(tx, row) for row in instances if _is_pending(tx, row))[:limit])

        return await self._units.read(unit, name="scheduling.pending")

    async def groups(self) -> tuple[GroupView, ...]:
        """Return groups whose members are not what is wanted, in part or whole."""
        return ()

    async def apply_groups(self, changes: tuple[GroupChange, ...], term: Term) -> int:
        """Create and terminate members; return how many."""
        raise NotImplementedError

    async def displaced(self) -> tuple[Displaced, ...]:
        """Return placements that have to be decided about because of their nodes."""
        return ()

    async def apply_moves(self, moves: tuple[Moved, ...], term: Term) -> int:
        """Carry out moves whose instance, placement and node are still as they were seen; return how many."""
        raise NotImplementedError

    async def apply_plan(self, plan: Plan, term: Term) -> tuple[Postponed, ...]:
        """Commit each assignment with its addresses, and each reason; return those that were refused."""
        refused: list[Postponed] = []
        for begin in range(0, len(plan.assignments), TOGETHER):
            refused += await self._assign_together(plan.assignments[begin : begin + TOGETHER], term)
        reasons = (*plan.postponed, *refused)
        if reasons:

            def unit(tx: Transaction) -> None:
                fence(tx, term)
                for postponed in sorted(reasons, key=lambda one: one.instance_id):
                    _postpone(tx, postponed)

            await self._units.run(unit, name="scheduling.postpone")
        return tuple(refused)

    async def _assign_together(self, assignments: Sequence[Assignment], term: Term) -> list[Postponed]:
        def unit(tx: Transaction) -> list[Postponed]:
            fence(tx, term)
            found = [
                (one, _assign(tx, one, term.epoch)) for one in sorted(assignments, key=lambda one: one.instance_id)
            ]
            return [Postponed(one.instance_id, one.generation, reason) for one, reason in found if reason is not None]

        try:
            return await self._units.run(unit, name="scheduling.assign")
        except (CapacityExceeded, PoolExhausted) as refusal:
            if len(assignments) == 1:
                return [Postponed(assignments[0].instance_id, assignments[0].generation, str(refusal))]
        return [postponed for one in assignments for postponed in await self._assign_together((one,), term)]


def _is_pending(tx: Transaction, row: tables.Instance) -> bool:
    if row.desired is not InstanceDesired.RUNNING or row.state is InstanceState.TERMINATED:
        return False
    if row.state is InstanceState.FAILED and row.observed_generation == row.generation:
        return False
    placed = placements_of(tx, row.id)
    if Bug.DOUBLE_PLACEMENT in tx.bugs:
        return not any(one.generation == row.generation and one.state is not one.state.ASSIGNED for one in placed)
    return not any(one.generation == row.generation or one.live for one in placed)


def _pending(tx: Transaction, row: tables.Instance) -> PendingInstance:
    image = tx.database.images.get(row.image_id)
    assert image is not None
    return PendingInstance(
        id=row.id,
        generation=row.generation,
        node_id=row.pinned_node_id,
        image_id=row.image_id,
        image_status=image.status,
        image_error=image.error,
        resources=row.resources,
    )


def _assign(tx: Transaction, assignment: Assignment, epoch: int) -> str | None:
    """Place an instance, or return why not."""
    instance = tx.database.instances.get(assignment.instance_id)
    if (
        instance is None
        or instance.generation != assignment.generation
        or instance.desired is not InstanceDesired.RUNNING
    ):
        return "it is not wanted any more as it was planned"
    if Bug.DOUBLE_PLACEMENT not in tx.bugs:
        if any(row.generation == assignment.generation for row in placements_of(tx, instance.id)):
            return None
        if has_live_placement(tx, instance.id):
            return "its earlier placement is still being removed"
    image = tx.database.images.get(instance.image_id)
    if image is None or image.status is not ImageStatus.READY:
        return "waiting for its image"
    node = tx.database.nodes.get(assignment.node_id)
    if node is None or node.state is not NodeState.READY:
        return f"the host is {node.state if node else 'gone'}"
    if node.closed_since is not None:
        return f"the host is closed: {node.closed_reason}"
    placement_id = tx.database.new_id()
    v4_pool, v4 = pick(tx, assignment.node_id, 4)
    assert isinstance(v4, IPv4Address)
    v6_pool, v6 = pick(tx, assignment.node_id, 6) if node.ipv6 else (None, None)
    assert v6 is None or isinstance(v6, IPv6Address)
    insert_placement(tx, placement_id, instance, assignment.node_id, v4, v6, epoch=epoch)
    lease(tx, v4_pool, v4, assignment.node_id, placement_id)
    if v6 is not None and v6_pool is not None:
        lease(tx, v6_pool, v6, assignment.node_id, placement_id)
    _announce_placement(tx, placement_id, assignment, v4, v6)
    write_observed(tx, instance.id, InstanceState.STARTING, "", generation=assignment.generation, who="scheduler")
    return None


def _announce_placement(
    tx: Transaction, placement_id: UUID, assignment: Assignment, v4: IPv4Address, v6: IPv6Address | None
) -> None:
    data = {
        "instance_id": str(assignment.instance_id),
        "node_id": str(assignment.node_id),
        "generation": assignment.generation,
        "v4": str(v4),
        "v6": str(v6) if v6 else None,
    }
    tx.record("scheduler", "placement.assigned", "placement", placement_id, data)
    tx.announce("zw_placements", placement_id)


def _postpone(tx: Transaction, postponed: Postponed) -> None:
    """Write why an instance still waits, or that it never will run, unless it has changed since."""
    instance = tx.database.instances.get(postponed.instance_id)
    if (
        instance is None
        or instance.generation != postponed.generation
        or instance.desired is not InstanceDesired.RUNNING
        or has_live_placement(tx, postponed.instance_id)
    ):
        return
    if postponed.final:
        state, generation = InstanceState.FAILED, postponed.generation
    else:
        state, generation = InstanceState.PENDING, instance.observed_generation
    write_observed(tx, instance.id, state, postponed.reason, generation=generation, who="scheduler")
