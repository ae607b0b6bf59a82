"""How well this host itself is (Lifeguard's local health multiplier): who is slow must not accuse others."""

from __future__ import annotations


class Awareness:
    """A score from 0 (well) to ``most``. Failed probes of one's own, missing nacks and refutations raise it."""

    __slots__ = ("_most", "score")

    def __init__(self, most: int) -> None:
        self._most = most
        self.score = 0

    def add(self, delta: int) -> None:
        """Raise it, or lower it where ``delta`` is negative, within its bounds."""
        self.score = min(self._most, max(0, self.score + delta))

    @property
    def scale(self) -> int:
        """What the times of probes are multiplied by."""
        return self.score + 1
