"""What the scheduler needs of storage: one consistent look, one atomic plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from actors.model.records import PendingInstance
from actors.model.states import NodeState
from runtime.lease import Term


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as the scheduler sees it. ``*_free`` are capacity x overcommit minus every placement not yet removed.

    ``closed`` says why the host itself takes no new work now, empty while it does.
    """

    id: UUID
    hostname: str
    state: NodeState
    vcpu: int
    memory: int
    vcpu_free: int
    memory_free: int
    memory_overhead: int
    closed: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is to decide, oldest first, and what there is to decide with."""

    pending: tuple[PendingInstance, ...]
    nodes: tuple[NodeView, ...]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Run this generation of this instance on this node."""

    instance_id: UUID
    generation: int
    node_id: UUID


@dataclass(frozen=True, slots=True)
class Postponed:
    """Why an instance was not placed. ``final`` fails it (its image failed); otherwise it stays pending."""

    instance_id: UUID
    generation: int
    reason: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions of one evaluation."""

    assignments: tuple[Assignment, ...] = ()
    postponed: tuple[Postponed, ...] = ()


class SchedulingStore(Protocol):
    """Desired state and capacity."""

    async def snapshot(self) -> Snapshot:
        """Return pending instances and the nodes that could take them."""

    async def apply_plan(self, plan: Plan, term: Term) -> tuple[Postponed, ...]:
        """Commit each assignment with its addresses, and each reason; return those that capacity or state refused.

        A refusal of one (checked by the database itself) leaves the others. Applying the same assignment twice makes
        one placement. Raises `Fenced` when ``term`` is over; what was committed before that stays.
        """
