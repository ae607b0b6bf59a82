"""Whether the database answers, as far as is known: while it does not, nobody else has to wait to find out. Pure.

A wait that had no answer begins a silence, unless the server has answered somebody since that wait began: then it was
that one connection. Any answer of a later moment ends the silence. Refusals are answers: they come at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

#: First and largest wait in seconds between two tries to reach a server that does not answer.
PROBE_FIRST, PROBE_MAX = 0.25, 2.0


@dataclass(frozen=True, slots=True)
class Silence:
    """The server has answered nothing that was asked from ``since`` on (monotonic seconds); ``reason`` as found.

    Whoever found it out had waited since ``began``.
    """

    since: float
    reason: str
    began: float


class Breaker:
    """What is known of one server. Times are seconds of one monotonic clock, and may be told out of order."""

    def __init__(self, rng: random.Random, *, first: float = PROBE_FIRST, largest: float = PROBE_MAX) -> None:
        self.silence: Silence | None = None
        self._random = rng
        self._first, self._largest = first, largest
        self._answered = float("-inf")
        self._tries = 0
        self._due = 0.0

    def answered(self, at: float) -> Silence | None:
        """Take note of an answer that came at ``at``; return the silence that it ended, if it did."""
        self._answered = max(self._answered, at)
        ended = self.silence
        if ended is None or at < ended.since:
            return None
        self.silence = None
        return ended

    def unanswered(self, since: float, now: float, reason: str, began: float | None = None) -> bool:
        """Take note that what was asked at ``since`` had no answer; True when a silence begins by it.

        ``began`` is when whoever asked it first asked in vain.
        """
        if self.silence is not None or since < self._answered:
            return False
        self.silence = Silence(since, reason, since if began is None else began)
        self._tries = 0
        self._put_off(now)
        return True

    def missed(self, now: float) -> None:
        """Take note that the try which was due had no answer either; the next one is put off."""
        self._put_off(now)

    def due(self, now: float) -> float | None:
        """Return in how many seconds to try whether the server answers again, None while it is not silent."""
        return None if self.silence is None else max(0.0, self._due - now)

    def _put_off(self, now: float) -> None:
        ceiling = min(self._largest, self._first * 2.0 ** min(self._tries, 16))
        self._tries += 1
        self._due = now + self._random.uniform(ceiling / 2, ceiling)
