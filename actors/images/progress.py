"""How far a pull is. Written by worker threads and tasks, read by whoever reports it."""

from __future__ import annotations


class Progress:
    """Bytes done of bytes known so far in each of the stages, folded into one percentage that never falls."""

    def __init__(self) -> None:
        self.message = "waiting"
        self._from = self._to = 0
        self._done = 0
        self._total = 0
        self._highest = 0

    def stage(self, message: str, first: int, last: int, total: int) -> None:
        """Begin a stage that spans ``first`` to ``last`` percent and handles ``total`` bytes."""
        self.message = message
        self._from, self._to = first, last
        self._done, self._total = 0, total

    def add(self, count: int) -> None:
        """Count bytes; negative when a part starts over."""
        # Several threads may do this at once: a lost addition only makes the figure a little low.
        self._done += count

    @property
    def done(self) -> int:
        """Bytes of this stage that are done."""
        return self._done

    @property
    def total(self) -> int:
        """Bytes of this stage."""
        return self._total

    @property
    def percent(self) -> int:
        """0 to 99; only the image being ready is 100."""
        share = min(1.0, max(0.0, self._done / self._total)) if self._total else 0.0
        self._highest = max(self._highest, min(99, int(self._from + (self._to - self._from) * share)))
        return self._highest
