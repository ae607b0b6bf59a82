"""The nodes of one evaluation: what is left on each, and which could run what is asked for at all."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Sequence
from uuid import UUID

from actors.model.scheduling import DOMAIN_LABEL, Requirements
from actors.scheduler.feasibility import Check, availability, checks
from actors.scheduler.store import NodeView

#: What is said of a host that can't get the image of an instance, which was uploaded elsewhere.
IMAGELESS = "without its image"
#: A host that refused something lately is taken when no other one fits: no merit reaches this.
_LAST_RESORT = 10.0
#: How much a host whose tasks always wait for a CPU is behind one whose tasks never do.
_PRESSURE = 0.5


class Room:
    """What is left on a node while an evaluation lasts. It only shrinks.

    ``memory`` is the largest guest (MiB) that fits: the overhead of its monitor is taken off. ``empty`` is the share
    that is free, the mean of vCPU and memory. ``avoided``: it refused something lately. ``reserved``: what is left is
    kept for an instance that has waited for too long.
    """

    __slots__ = (
        "_memory_share",
        "_vcpu_share",
        "avoided",
        "domain",
        "empty",
        "id",
        "memory",
        "node",
        "penalty",
        "reserved",
        "vcpu",
    )

    def __init__(self, node: NodeView, avoided: bool) -> None:
        self.node = node
        self.id = node.id.int  # hashes faster than a UUID
        self.vcpu = node.vcpu_free
        self.memory = node.memory_free - node.memory_overhead
        self._vcpu_share = 0.5 / node.vcpu if node.vcpu > 0 else 0.0
        self._memory_share = 0.5 / node.memory if node.memory > 0 else 0.0
        self.empty = self.vcpu * self._vcpu_share + self.memory * self._memory_share
        self.domain = node.labels.get(DOMAIN_LABEL, "")
        self.penalty = _PRESSURE * node.pressure + (_LAST_RESORT if avoided else 0.0)
        self.avoided = avoided
        self.reserved = False

    def fits(self, vcpu: int, memory: int) -> bool:
        """Say whether a guest of this shape can be placed here now."""
        return vcpu <= self.vcpu and memory <= self.memory and not self.reserved

    def could_fit(self, vcpu: int, memory: int) -> bool:
        """Say whether a guest of this shape would fit if nothing else were here."""
        return vcpu <= self.node.vcpu and memory + self.node.memory_overhead <= self.node.memory

    def lacking(self, vcpu: int, memory: int) -> float:
        """Return what has to be freed for this shape, as a share of the host."""
        return max(0, vcpu - self.vcpu) * self._vcpu_share + max(0, memory - self.memory) * self._memory_share

    def share(self, vcpu: int, memory: int) -> float:
        """Return which share of the host this shape takes."""
        return vcpu * self._vcpu_share + memory * self._memory_share

    def take(self, vcpu: int, memory: int) -> None:
        """Have this shape placed here."""
        self.vcpu -= vcpu
        self.memory -= memory + self.node.memory_overhead
        self.empty = self.vcpu * self._vcpu_share + self.memory * self._memory_share


class Fleet:
    """All nodes. ``rooms`` are those that take new work, the fullest last; ``obstacles`` counts why others do not."""

    def __init__(self, nodes: Iterable[NodeView], avoid: Container[UUID] = ()) -> None:
        everyone = [Room(node, node.id in avoid) for node in nodes]
        self.size = len(everyone)
        self.by_id = {room.node.id: room for room in everyone}
        self.rooms, self.obstacles = _apart(everyone, (availability,))
        # Whoever takes from the end begins with the fullest, and with the lowest id of those that are equally full.
        self.rooms.sort(key=_fullest_last, reverse=True)

    def feasible(
        self, requirements: Requirements, among: Collection[UUID] | None = None
    ) -> tuple[list[Room], dict[str, int]]:
        """Return the rooms that are what is asked for, the fullest last, and why how many nodes are not.

        With ``among`` only these nodes are looked at, however many others there are.
        """
        if among is not None:
            some = sorted((self.by_id[node] for node in among if node in self.by_id), key=_fullest_last, reverse=True)
            rooms, obstacles = _apart(some, (availability, *checks(requirements)))
            if others := self.size - len(some):
                obstacles[IMAGELESS] = others
            return rooms, obstacles
        rooms, obstacles = _apart(self.rooms, checks(requirements))
        for obstacle, count in self.obstacles.items():
            obstacles[obstacle] = obstacles.get(obstacle, 0) + count
        return rooms, obstacles


def _fullest_last(room: Room) -> tuple[float, int]:
    return room.empty + room.penalty, room.id


def _apart(rooms: list[Room], tests: Sequence[Check]) -> tuple[list[Room], dict[str, int]]:
    """Return those that pass all tests, and by which obstacle how many do not."""
    obstacles: dict[str, int] = {}
    for test in tests:
        passed = []
        for room in rooms:
            obstacle = test(room.node)
            if obstacle is None:
                passed.append(room)
            else:
                obstacles[obstacle] = obstacles.get(obstacle, 0) + 1
        rooms = passed
    return list(rooms), obstacles
