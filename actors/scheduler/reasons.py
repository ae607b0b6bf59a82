"""Why nothing fits, in a sentence: ``3 hosts: 2 draining, 1 lacks 512 MiB``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from actors.scheduler.fleet import Room

#: So many different amounts of one resource are listed one by one; more of them are put together.
_AMOUNTS = 4
#: So many different obstacles are listed.
_OBSTACLES = 8
#: What is said of a host whose room is kept for an instance that has waited for too long.
RESERVED = "kept for one that waits longer"
#: What is said of the host that an instance is to leave.
LEFT = "is where it is now"
NO_NODES = "there are no nodes"
NO_PIN = "the node it is pinned to is not here"


def shortage(rooms: Iterable[Room], vcpu: int, memory: int) -> dict[str, int]:
    """Return how many of these rooms lack what for this shape (``memory`` in MiB); none of them may fit it."""
    counts: dict[str, int] = {}
    vcpus: dict[int, int] = {}
    memories: dict[int, int] = {}
    for room in rooms:
        if vcpu > room.vcpu:
            lack = vcpu - max(0, room.vcpu)
            vcpus[lack] = vcpus.get(lack, 0) + 1
        elif memory > room.memory:
            overhead = room.node.memory_overhead
            lack = memory + overhead - max(0, room.memory + overhead)
            memories[lack] = memories.get(lack, 0) + 1
        else:
            counts[RESERVED] = counts.get(RESERVED, 0) + 1
    counts.update(_amounts(vcpus, "vCPU"))
    counts.update(_amounts(memories, "MiB"))
    return counts


def sentence(counts: Mapping[str, int]) -> str:
    """Return the reason for hosts by their obstacles, the most frequent first."""
    hosts = sum(counts.values())
    listed = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(listed) > _OBSTACLES:
        others = sum(count for _, count in listed[_OBSTACLES:])
        listed = [*listed[:_OBSTACLES], ("for other reasons", others)]
    noun = "host" if hosts == 1 else "hosts"
    return f"{hosts} {noun}: " + ", ".join(f"{count} {obstacle}" for obstacle, count in listed)


def same(present: str, reason: str) -> bool:
    """Say whether an instance says so already, whatever is said before it (``moves off h1 when there is room: …``)."""
    return present == reason or present.endswith(f": {reason}")


def _amounts(amounts: Mapping[int, int], unit: str) -> dict[str, int]:
    """Return obstacles for what is lacking. On many hosts it is another amount each: then only the bounds are told."""
    if len(amounts) > _AMOUNTS:
        return {f"lacks {min(amounts)} to {max(amounts)} {unit}": sum(amounts.values())}
    return {f"lacks {amount} {unit}": count for amount, count in amounts.items()}
