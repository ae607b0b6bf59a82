"""Whose turn it is. What waits gets more important, so that nothing waits for ever behind what is important."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge

from actors.model.records import PendingInstance
from actors.model.scheduling import MAX_PRIORITY

#: Seconds of waiting that are worth one step of priority.
AGEING = 60.0
#: Seconds from which on an instance that does not fit has a host kept for it.
STARVED = 120.0


def effective_priority(instance: PendingInstance) -> int:
    """Return the priority that it has by now: the highest one is reached by waiting alone."""
    return min(MAX_PRIORITY, instance.priority + int(max(0.0, instance.waiting) // AGEING))


def turn(instance: PendingInstance) -> tuple[int, float, int]:
    """Return the key that sorts instances by whose turn it is: effective priority, then age, then id."""
    return (-effective_priority(instance), -instance.waiting, instance.id.int)


def in_turn(instances: Iterable[PendingInstance]) -> list[PendingInstance]:
    """Return them by whose turn it is."""
    return sorted(instances, key=turn)


def merged(pages: Iterable[Iterable[PendingInstance]]) -> Iterator[PendingInstance]:
    """Yield what is on pages that are each in turn, in turn over all of them; worked out as it is asked for."""
    return merge(*pages, key=turn)
