"""The scheduler's decision as a pure function of one snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from actors.model.records import PendingInstance
from actors.model.states import ImageStatus, NodeState
from actors.scheduler.store import Assignment, NodeView, Pending, Plan, Postponed


@dataclass(slots=True)
class _Room:
    """What is left on a node while this plan is made."""

    node: NodeView
    vcpu: int
    memory: int


def evaluate(pending: Pending, nodes: Iterable[NodeView]) -> Plan:
    """Assign every pending instance that fits, oldest first, and say of each other one why not.

    Bin-packs: of the nodes that fit, the one with the least memory left afterwards, so that large requests keep
    finding room; the node's id decides ties, so that equal snapshots give equal plans.
    """
    rooms = {node.id: _Room(node, node.vcpu_free, node.memory_free) for node in nodes}
    assignments: list[Assignment] = []
    postponed: list[Postponed] = []
    for instance in pending.instances:
        obstacle = _image_obstacle(instance)
        if obstacle is not None:
            postponed.append(obstacle)
            continue
        room = _best_room(instance, rooms)
        if room is None:
            reason = _why_nowhere(instance, rooms)
            postponed.append(Postponed(instance.id, instance.generation, reason))
            continue
        room.vcpu -= instance.resources.vcpu
        room.memory -= instance.resources.memory + room.node.memory_overhead
        assignments.append(Assignment(instance.id, instance.generation, room.node.id))
    return Plan(tuple(assignments), tuple(postponed))


def _image_obstacle(instance: PendingInstance) -> Postponed | None:
    match instance.image_status:
        case ImageStatus.READY:
            return None
        case ImageStatus.FAILED:
            reason = f"its image failed: {instance.image_error or 'no reason was recorded'}"
            return Postponed(instance.id, instance.generation, reason, final=True)
        case _:
            return Postponed(instance.id, instance.generation, "waiting for its image")


def _candidates(instance: PendingInstance, rooms: Mapping[UUID, _Room]) -> list[_Room]:
    if instance.node_id is None:
        return list(rooms.values())
    return [rooms[instance.node_id]] if instance.node_id in rooms else []


def _best_room(instance: PendingInstance, rooms: Mapping[UUID, _Room]) -> _Room | None:
    fitting = [room for room in _candidates(instance, rooms) if _obstacle(instance, room) is None]
    return min(fitting, key=lambda room: (room.memory, room.vcpu, room.node.id), default=None)


def _obstacle(instance: PendingInstance, room: _Room) -> str | None:
    """Return why ``instance`` cannot go to this node now, or None."""
    if room.node.state is not NodeState.READY:
        return room.node.state.value
    if room.node.closed:
        # What comes after the colon are the moment's figures: each host's are others, and equal obstacles are counted.
        return f"closed ({room.node.closed.partition(':')[0]})"
    if instance.resources.vcpu > room.vcpu:
        return f"lacks {instance.resources.vcpu - max(0, room.vcpu)} vCPU"
    needed = instance.resources.memory + room.node.memory_overhead
    if needed > room.memory:
        return f"lacks {needed - max(0, room.memory)} MiB"
    return None


def _why_nowhere(instance: PendingInstance, rooms: Mapping[UUID, _Room]) -> str:
    candidates = _candidates(instance, rooms)
    if not candidates:
        return "the node it is pinned to is not here" if instance.node_id else "there are no nodes"
    counts: dict[str, int] = {}
    for room in candidates:
        obstacle = _obstacle(instance, room) or "full"
        counts[obstacle] = counts.get(obstacle, 0) + 1
    listed = ", ".join(f"{count} {obstacle}" for obstacle, count in sorted(counts.items(), key=lambda i: (-i[1], i[0])))
    noun = "host" if len(candidates) == 1 else "hosts"
    return f"{len(candidates)} {noun}: {listed}"
