"""What could not be delivered: a bounded memory of the latest, and counts of all."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

#: ``stopped``: the receiver was dead or died with this queued. ``full``: no room. ``expired``: its deadline had passed
#: when its turn came. ``revoked``: the asker had given up when its turn came. ``late``: an answer nobody waits for.
Cause = Literal["stopped", "full", "expired", "revoked", "late"]

KEPT = 256


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One of them. ``at`` is the time of day in seconds since 1970; ``message`` is the message or the late answer."""

    at: float
    name: str
    cause: Cause
    message: object


class DeadLetters:
    """Iterates over the latest, oldest first."""

    def __init__(self, now: Callable[[], float], kept: int = KEPT) -> None:
        self._now = now
        self._latest: deque[DeadLetter] = deque(maxlen=kept)
        self.by_cause: Counter[Cause] = Counter()

    @property
    def count(self) -> int:
        """How many there were since the system began."""
        return self.by_cause.total()

    def add(self, name: str, cause: Cause, message: object) -> None:
        """Remember one."""
        self.by_cause[cause] += 1
        self._latest.append(DeadLetter(self._now(), name, cause, message))

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(tuple(self._latest))

    def __len__(self) -> int:
        return len(self._latest)
