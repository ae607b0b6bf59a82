"""What is due when: deadlines under keys, each of which has one at most."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

#: Entries of the heap that are void are swept when they are this many and more than half of it.
COMPACT_FROM = 64


class Agenda(Generic[K]):
    """Setting, moving and dropping cost log N; moved and dropped ones stay in the heap until they come up."""

    __slots__ = ("_heap", "_number", "_when")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []
        self._when: dict[K, tuple[float, int]] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._when)

    def __contains__(self, key: K) -> bool:
        return key in self._when

    def set(self, key: K, when: float) -> None:
        """Have ``key`` due at ``when``, whenever it was due before."""
        self._number += 1
        self._when[key] = when, self._number
        heapq.heappush(self._heap, (when, self._number, key))
        if len(self._heap) >= COMPACT_FROM and len(self._heap) > 2 * len(self._when):
            self._rebuild()

    def drop(self, key: K) -> None:
        """Forget it. Harmless when it is not there."""
        self._when.pop(key, None)

    @property
    def next(self) -> float | None:
        """When something is due; None when nothing ever is."""
        while self._heap:
            when, number, key = self._heap[0]
            if self._when.get(key) == (when, number):
                return when
            heapq.heappop(self._heap)
        return None

    def due(self, now: float) -> Iterator[K]:
        """Take out what is due, in order. What is set meanwhile comes too, if it is due."""
        while (when := self.next) is not None and when <= now:
            key = heapq.heappop(self._heap)[2]
            del self._when[key]
            yield key

    def shift(self, seconds: float) -> None:
        """Have everything due so much later."""
        for key, (when, number) in self._when.items():
            self._when[key] = when + seconds, number
        self._rebuild()

    def _rebuild(self) -> None:
        self._heap = [(when, number, key) for key, (when, number) in self._when.items()]
        heapq.heapify(self._heap)
