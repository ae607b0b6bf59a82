"""One class of requirements in one evaluation: the hosts that are what it asks for, and which shapes fit nowhere."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from actors.model.scheduling import Requirements, Strategy
from actors.scheduler.fleet import Fleet, Room
from actors.scheduler.reasons import LEFT, NO_NODES, sentence, shortage
from actors.scheduler.sample import Packed, Spread, Tally, by_domain

#: Shapes of which the hosts that may fit are remembered; others are looked for among all hosts again.
SHAPES = 128
#: Where more than this part of all hosts have an image, it is found among those that are looked at anyway.
_RARE = 8


@dataclass(frozen=True, slots=True)
class Holders:
    """The hosts that have an image, in the order of their ids."""

    rooms: Sequence[Room] = ()
    ids: frozenset[int] = frozenset()


class Kind:
    """Instances that ask for the same, and leave the same node if any.

    ``among`` are the only nodes that have their image, if that was uploaded. Knows what is free, so it lasts no longer
    than its evaluation.
    """

    def __init__(
        self,
        fleet: Fleet,
        requirements: Requirements,
        leaves: UUID | None = None,
        among: Collection[UUID] | None = None,
    ) -> None:
        self.rooms, self._obstacles = fleet.feasible(requirements, among)
        here = None if leaves is None else fleet.by_id.get(leaves)
        if here is not None and here in self.rooms:
            self.rooms.remove(here)
            self._obstacles = merged(self._obstacles, {LEFT: 1})
        self._fleet = fleet
        self._ids = frozenset(room.id for room in self.rooms)
        self._shapes: OrderedDict[tuple[Strategy, int, int], Packed | Spread] = OrderedDict()
        self._domains: dict[str, list[Room]] | None = None
        self._holders: dict[UUID, Sequence[Room]] = {}
        self._hopeless: list[tuple[int, int]] = []  # none of them is at least as large as another one
        self._reasons: dict[tuple[int, int], str] = {}

    def choose(
        self, vcpu: int, memory: int, strategy: Strategy, image: UUID, holders: Holders, counts: Tally
    ) -> Room | None:
        """Return a host for this shape, or None when it fits on none of all that are feasible."""
        for least, smallest in self._hopeless:
            if vcpu >= least and memory >= smallest:
                return None
        shape = self._shape(strategy, vcpu, memory)
        if isinstance(shape, Packed):
            room = shape.choose(self._feasible(image, holders), holders.ids)
        else:
            room = shape.choose(counts, holders.ids)
        if room is None:
            # What is free only shrinks: nothing that is as large has to be tried again.
            self._hopeless = [one for one in self._hopeless if one[0] < vcpu or one[1] < memory]
            self._hopeless.append((vcpu, memory))
        return room

    def explained(self, vcpu: int, memory: int) -> bool:
        """Say whether the reason for this shape is known already: finding one looks at all hosts."""
        return (vcpu, memory) in self._reasons

    def reason(self, vcpu: int, memory: int) -> str:
        """Return why this shape fits nowhere, as it was when that was asked for the first time."""
        found = self._reasons.get((vcpu, memory))
        if found is None:
            if self._fleet.size == 0:
                found = NO_NODES
            else:
                found = sentence(merged(self._obstacles, shortage(self.rooms, vcpu, memory)))
            self._reasons[vcpu, memory] = found
        return found

    def _shape(self, strategy: Strategy, vcpu: int, memory: int) -> Packed | Spread:
        key = (strategy, vcpu, memory)
        shape = self._shapes.get(key)
        if shape is None:
            if strategy is Strategy.SPREAD:
                if self._domains is None:
                    self._domains = by_domain(self.rooms)
                shape = Spread(self._domains, vcpu, memory)
            else:
                shape = Packed(self.rooms, vcpu, memory)
            self._shapes[key] = shape
            if len(self._shapes) > SHAPES:
                self._shapes.popitem(last=False)
        else:
            self._shapes.move_to_end(key)
        return shape

    def _feasible(self, image: UUID, holders: Holders) -> Sequence[Room]:
        """Return those that have an image and are what is asked for, unless it is everywhere."""
        if not holders.rooms or len(holders.rooms) * _RARE > self._fleet.size:
            return ()
        found = self._holders.get(image)
        if found is None:
            found = self._holders[image] = [room for room in holders.rooms if room.id in self._ids]
        return found


def merged(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """Return the sums of two counts."""
    return {key: one.get(key, 0) + other.get(key, 0) for key in one | other}
