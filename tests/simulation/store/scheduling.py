"""`zeitwork.store.scheduling` in memory: `actors.scheduler.store.SchedulingStore`."""

from __future__ import annotations

from collections.abc import Sequence

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
from tests.simulation.store import groups, relocation
from tests.simulation.store.assignments import assign, postpone
from tests.simulation.store.database import Transaction
from tests.simulation.store.election import fence
from tests.simulation.store.nodes import resource_rows
from tests.simulation.store.pending import pending
from tests.simulation.store.units import Units
from zeitwork.store.problems import CapacityExceeded
from zeitwork.store.scheduling import TOGETHER


class Scheduling:
    """The scheduler's looks and its changes."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def nodes(self) -> tuple[NodeView, ...]:
        """Return every node that is not terminated, with what is free on it."""
        return await self._units.read(_nodes, name="scheduling.nodes")

    async def pending(self, after: After | None = None, limit: int = 5000) -> Pending:
        """Return instances that want to be placed, by priority (highest first), then age (oldest first)."""
        return await self._units.read(lambda tx: pending(tx, after, limit), name="scheduling.pending")

    async def groups(self) -> tuple[GroupView, ...]:
        """Return groups whose members are not what is wanted, in part or whole."""
        return await self._units.read(groups.views, name="scheduling.groups")

    async def apply_groups(self, changes: tuple[GroupChange, ...], term: Term) -> int:
        """Create and terminate members; return how many."""

        def unit(tx: Transaction) -> int:
            fence(tx, term)
            return groups.apply(tx, changes)

        return await self._units.run(unit, name="scheduling.apply_groups")

    async def displaced(self) -> tuple[Displaced, ...]:
        """Return placements that have to be decided about because of their nodes."""
        return await self._units.read(relocation.displaced, name="scheduling.displaced")

    async def apply_moves(self, moves: tuple[Moved, ...], term: Term) -> int:
        """Carry out moves whose instance, placement and node are still as they were seen; return how many."""

        done = 0
        for begin in range(0, len(moves), TOGETHER):
            together = moves[begin : begin + TOGETHER]

            def unit(tx: Transaction, together: tuple[Moved, ...] = together) -> int:
                fence(tx, term)
                return relocation.apply(tx, together)

            done += await self._units.run(unit, name="scheduling.apply_moves")
        return done

    async def apply_plan(self, plan: Plan, term: Term) -> tuple[Postponed, ...]:
        """Commit each assignment with its addresses, and each reason; return those that were refused."""
        refused: list[Postponed] = []
        for begin in range(0, len(plan.assignments), TOGETHER):
            refused += await self._assign_together(plan.assignments[begin : begin + TOGETHER], term)
        reasons = (*plan.postponed, *refused)
        for begin in range(0, len(reasons), TOGETHER):
            together = reasons[begin : begin + TOGETHER]

            def unit(tx: Transaction, together: Sequence[Postponed] = together) -> None:
                fence(tx, term)
                postpone(tx, together)

            await self._units.run(unit, name="scheduling.postpone")
        return tuple(refused)

    async def _assign_together(self, assignments: Sequence[Assignment], term: Term) -> list[Postponed]:
        def unit(tx: Transaction) -> list[Postponed]:
            fence(tx, term)
            return assign(tx, assignments, term.epoch)

        try:
            return await self._units.run(unit, name="scheduling.assign")
        except CapacityExceeded as refusal:
            if len(assignments) == 1:
                return [Postponed(assignments[0].instance_id, assignments[0].generation, str(refusal))]
        half = len(assignments) // 2
        return [
            postponed
            for part in (assignments[:half], assignments[half:])
            for postponed in await self._assign_together(part, term)
        ]


def _nodes(tx: Transaction) -> tuple[NodeView, ...]:
    found = []
    for row in resource_rows(tx):
        node = tx.database.nodes.get(row.node_id)
        assert node is not None
        region = tx.database.regions.get(node.region_id)
        assert region is not None
        found.append(
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
                desired=node.desired,
                region=region.name,
                labels=node.labels,
                taints=node.taints,
                hypervisor=node.hypervisor,
                architecture=node.architecture,
                pressure=node.pressure,
            )
        )
    return tuple(found)
