"""What the scheduler needs of storage: consistent looks, and atomic changes that only the present leader can make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from actors.model.records import PendingInstance
from actors.model.scheduling import ARCHITECTURE, Taint
from actors.model.states import InstanceDesired, InstanceState, NodeDesired, NodeState
from runtime.lease import Term


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as the scheduler sees it. ``*_free`` are capacity x overcommit minus every placement not yet removed.

    ``closed`` says why the host itself takes no new work now, empty while it does. ``pressure`` is the share of the
    last minutes in which its tasks waited for a CPU, 0 to 1. ``hypervisor`` is None while it is not known.
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
    desired: NodeDesired = NodeDesired.READY
    region: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    hypervisor: str | None = None
    architecture: str = ARCHITECTURE
    pressure: float = 0.0


@dataclass(frozen=True, slots=True)
class After:
    """Where the next page of pending instances begins: after this one, in the order of `SchedulingStore.pending`."""

    priority: int
    id: UUID


@dataclass(frozen=True, slots=True)
class Pending:
    """A page of instances that want to be placed, and what is known about where they could go.

    ``images`` names nodes that have an image in their cache, ``groups`` counts a group's placements that are not
    removed on each node; both only for images and groups of this page. ``after`` asks for the next page, None when
    there is none.
    """

    instances: tuple[PendingInstance, ...] = ()
    images: Mapping[UUID, frozenset[UUID]] = field(default_factory=dict)
    groups: Mapping[UUID, Mapping[UUID, int]] = field(default_factory=dict)
    after: After | None = None


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
    """Decisions about what is pending."""

    assignments: tuple[Assignment, ...] = ()
    postponed: tuple[Postponed, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """An instance of a group that is not terminated. ``placed``: it has a current placement, on a node in
    ``node_state``."""

    id: UUID
    slot: int
    desired: InstanceDesired
    state: InstanceState
    generation: int
    placed: bool
    node_state: NodeState | None = None


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group and its members. ``failures`` is how often in a row members failed for good; ``retry_in`` is the seconds
    until slots of those may be filled again, 0 when they may."""

    id: UUID
    name: str
    generation: int
    replicas: int
    deleted: bool
    failures: int
    retry_in: float
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupChange:
    """Bring a group nearer to what is wanted of it: only while its generation is still this one.

    ``create`` are slots, ``terminate`` instances that are not needed or failed for good. ``failures`` and ``retry_in``
    (seconds) replace the group's when not None; ``gone`` ends a deleted group without members.
    """

    group_id: UUID
    generation: int
    create: tuple[int, ...] = ()
    terminate: tuple[UUID, ...] = ()
    failures: int | None = None
    retry_in: float | None = None
    gone: bool = False


class Move(StrEnum):
    """What becomes of a placement whose host is dead or is to be emptied (DESIGN 1)."""

    REPLACE = "replace"  # its host is dead: the next generation is placed at once
    HAND_OVER = "hand_over"  # it serves on until the next generation runs elsewhere
    STOP_FIRST = "stop_first"  # there may never be two of it: it is stopped, then placed elsewhere
    STAY = "stay"  # its host is not emptied any more, and nothing was placed elsewhere: its move is off
    UNKNOWN = "unknown"  # its host is dead, and it may still run there: wait for the host or for an operator


@dataclass(frozen=True, slots=True)
class Displaced:
    """A current placement, wanted running, on a node that is down for long enough, or draining.

    Or one that was to leave its node, which is ``ready`` again, and whose next generation was not placed yet.

    ``bound`` says why it can run on that node only (``pinned to it``, ``its snapshot is there`` or ``no other host has
    its image``), empty when it can run elsewhere. ``name`` is what people call the instance, empty when it has no name.
    """

    instance: PendingInstance
    placement_id: UUID
    node_id: UUID
    hostname: str
    node_state: NodeState
    singleton: bool
    bound: str
    lost: bool  # decided about before
    name: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """A decision about a displaced placement; ``reason`` is what its instance says meanwhile."""

    instance_id: UUID
    generation: int
    placement_id: UUID
    move: Move
    reason: str


class SchedulingStore(Protocol):
    """Desired state and capacity. Methods with a ``term`` raise `Fenced` when it is over, and change nothing then."""

    async def nodes(self) -> tuple[NodeView, ...]:
        """Return every node that is not terminated, with what is free on it."""

    async def pending(self, after: After | None = None, limit: int = 5000) -> Pending:
        """Return instances that want to be placed, by priority (highest first), then age (oldest first)."""

    async def apply_plan(self, plan: Plan, term: Term) -> tuple[Postponed, ...]:
        """Commit each assignment with its addresses, and each reason; return those that capacity or state refused.

        A refusal of one (checked by the database itself) leaves the others. Applying the same assignment twice makes
        one placement. What was committed before a term ended stays.
        """

    async def groups(self) -> tuple[GroupView, ...]:
        """Return groups whose members are not what is wanted, in part or whole."""

    async def apply_groups(self, changes: tuple[GroupChange, ...], term: Term) -> int:
        """Create and terminate members; return how many. A change of a group that was changed meanwhile is left out.

        Applying the same change twice makes one instance a slot.
        """

    async def displaced(self) -> tuple[Displaced, ...]:
        """Return placements that have to be decided about because of their nodes."""

    async def apply_moves(self, moves: tuple[Moved, ...], term: Term) -> int:
        """Carry out moves whose instance, placement and node are still as they were seen; return how many."""
