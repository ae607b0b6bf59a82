"""A scheduling store in memory, small: enough to see what the actor asks and writes, and in which order."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import trio

from actors.model.records import PendingInstance
from actors.scheduler.queue import in_turn
from actors.scheduler.store import (
    After,
    Displaced,
    GroupChange,
    GroupView,
    Moved,
    NodeView,
    Pending,
    Plan,
    Postponed,
)
from runtime.lease import Fenced, Term


class Store:
    """Answers with what its fields hold. ``errors`` are raised by the method of that name, one each time."""

    def __init__(self, *nodes: NodeView) -> None:
        self.views = {node.id: node for node in nodes}
        self.waiting: dict[UUID, PendingInstance] = {}
        self.group_views: tuple[GroupView, ...] = ()
        self.displaced_views: tuple[Displaced, ...] = ()
        self.placed: dict[UUID, UUID] = {}
        self.reasons: dict[UUID, str] = {}
        self.changes: list[GroupChange] = []
        self.moves: list[Moved] = []
        self.calls: list[str] = []
        self.plans: list[Plan] = []
        self.refusing: set[UUID] = set()  # nodes
        self.errors: dict[str, list[Exception]] = {}
        self.fenced = False
        self.page = 5000
        self.seconds = 0.0  # that each write takes

    async def nodes(self) -> tuple[NodeView, ...]:
        await self._called("nodes")
        return tuple(self.views.values())

    async def pending(self, after: After | None = None, limit: int = 5000) -> Pending:
        await self._called("pending")
        ordered = sorted(self.waiting.values(), key=lambda one: (-one.priority, one.id))
        if after is not None:
            ordered = [one for one in ordered if (-one.priority, one.id) > (-after.priority, after.id)]
        found = ordered[: min(limit, self.page)]
        more = len(found) < len(ordered)
        return Pending(tuple(found), after=After(found[-1].priority, found[-1].id) if more else None)

    async def apply_plan(self, plan: Plan, term: Term) -> tuple[Postponed, ...]:
        await self._called("apply_plan", term)
        self.plans.append(plan)
        refused = []
        for one in plan.assignments:
            if one.node_id in self.refusing:
                refused.append(Postponed(one.instance_id, one.generation, "its pool is empty"))
                continue
            instance, view = self.waiting.pop(one.instance_id), self.views[one.node_id]
            self.views[view.id] = replace(
                view,
                vcpu_free=view.vcpu_free - instance.resources.vcpu,
                memory_free=view.memory_free - instance.resources.memory - view.memory_overhead,
            )
            self.placed[one.instance_id] = one.node_id
        for reason in (*plan.postponed, *refused):
            self.reasons[reason.instance_id] = reason.reason
            self.waiting[reason.instance_id] = replace(self.waiting[reason.instance_id], reason=reason.reason)
            if reason.final:
                del self.waiting[reason.instance_id]
        return tuple(refused)

    async def groups(self) -> tuple[GroupView, ...]:
        await self._called("groups")
        return self.group_views

    async def apply_groups(self, changes: tuple[GroupChange, ...], term: Term) -> int:
        await self._called("apply_groups", term)
        self.changes += changes
        done = {change.group_id for change in changes}
        self.group_views = tuple(view for view in self.group_views if view.id not in done)
        return sum(len(change.create) + len(change.terminate) for change in changes)

    async def displaced(self) -> tuple[Displaced, ...]:
        await self._called("displaced")
        return self.displaced_views

    async def apply_moves(self, moves: tuple[Moved, ...], term: Term) -> int:
        await self._called("apply_moves", term)
        self.moves += moves
        done = {move.placement_id for move in moves}
        self.displaced_views = tuple(one for one in self.displaced_views if one.placement_id not in done)
        return len(moves)

    async def _called(self, name: str, term: Term | None = None) -> None:
        self.calls.append(name)
        await trio.lowlevel.checkpoint()
        if term is not None:
            if self.seconds:
                await trio.sleep(self.seconds)
            if self.fenced:
                raise Fenced(term, "another one leads")
        if self.errors.get(name):
            raise self.errors[name].pop(0)

    def want(self, *instances: PendingInstance) -> None:
        self.waiting.update((one.id, one) for one in in_turn(instances))
