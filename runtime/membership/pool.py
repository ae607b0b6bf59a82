"""Hosts to draw from: adding, removing and drawing cost the same for three as for a thousand."""

from __future__ import annotations

import random as stdlib_random
from collections.abc import Iterator
from uuid import UUID


class Pool:
    """A set with a place for each, so that one can be drawn and the order follows from what was done."""

    __slots__ = ("_index", "_items")

    def __init__(self) -> None:
        self._items: list[UUID] = []
        self._index: dict[UUID, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, host: UUID) -> bool:
        return host in self._index

    def __iter__(self) -> Iterator[UUID]:
        return iter(self._items)

    def add(self, host: UUID) -> None:
        """Put a host in. Harmless when it is."""
        if host not in self._index:
            self._index[host] = len(self._items)
            self._items.append(host)

    def discard(self, host: UUID) -> None:
        """Take it out. Harmless when it is not in."""
        place = self._index.pop(host, None)
        if place is not None:
            last = self._items.pop()
            if last != host:
                self._items[place] = last
                self._index[last] = place

    def draw(self, random: stdlib_random.Random) -> UUID | None:
        """Return one; None when it is empty."""
        return self._items[int(random.random() * len(self._items))] if self._items else None

    def sample(self, random: stdlib_random.Random, count: int, besides: UUID | None = None) -> list[UUID]:
        """Return so many different ones, or as many as there are, but not ``besides``."""
        if len(self._items) <= count + 1:
            rest = [host for host in self._items if host != besides]
            random.shuffle(rest)
            return rest[:count]
        drawn = random.sample(self._items, count + 1)
        return [host for host in drawn if host != besides][:count]


class Round:
    """The order in which all are probed: shuffled anew for each round; who joins gets a place in the present one."""

    __slots__ = ("_at", "_order")

    def __init__(self) -> None:
        self._order: list[UUID] = []
        self._at = 0

    def insert(self, host: UUID, random: stdlib_random.Random) -> None:
        """Have a host probed in this round too, at some time of what is left of it."""
        self._order.insert(random.randint(self._at, len(self._order)), host)

    def next(self, live: Pool, random: stdlib_random.Random) -> UUID | None:
        """Return whose turn it is; None when nobody is live."""
        for _ in range(2):
            while self._at < len(self._order):
                self._at += 1
                if (host := self._order[self._at - 1]) in live:
                    return host
            self._order = list(live)
            random.shuffle(self._order)
            self._at = 0
        return None
