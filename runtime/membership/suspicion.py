"""How long a host is suspected before it counts as dead: the shorter, the more hosts suspect it independently."""

from __future__ import annotations

import math
from collections.abc import Iterable
from uuid import UUID


class Suspicion:
    """Of one incarnation of one host. Lifeguard's: ``most`` s at first, ``least`` s with ``needed`` confirmations."""

    __slots__ = ("_accusers", "_least", "_most", "_needed", "began")

    def __init__(self, began: float, least: float, most: float, needed: int) -> None:
        self.began = began
        self._least = least
        self._most = max(least, most)
        self._needed = max(0, needed)
        # Ordered, as all that is iterated over. The first accuser confirms nothing.
        self._accusers: dict[UUID, None] = {}

    @property
    def confirmations(self) -> int:
        """How many have confirmed it, those beyond what is needed not counted."""
        return max(0, len(self._accusers) - 1)

    def accuse(self, accusers: Iterable[UUID]) -> bool:
        """Add who suspects; tell whether somebody is new and was needed."""
        before = len(self._accusers)
        for accuser in accusers:
            if len(self._accusers) <= self._needed:
                self._accusers.setdefault(accuser)
        return len(self._accusers) > before

    @property
    def timeout(self) -> float:
        """How long it lasts, from ``began``, with the confirmations so far."""
        if self.confirmations >= self._needed:
            return self._least
        share = math.log(self.confirmations + 1) / math.log(self._needed + 1)
        return max(self._least, self._most - share * (self._most - self._least))

    @property
    def until(self) -> float:
        """When the host counts as dead, unless it refutes."""
        return self.began + self.timeout
