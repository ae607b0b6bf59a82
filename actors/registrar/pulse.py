"""For how long this host's own signs of life have been written: what makes the silence of others mean something."""

from __future__ import annotations

#: Seconds between two signs that are a gap: signs could not be written, or this process stood still.
GAP = 7.0


class Pulse:
    """Written by the presence actor, read by the leader's watch in the same process. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._last = 0.0

    def beat(self, now: float) -> None:
        """Take note that a sign was written."""
        if self._began is None or now - self._last > GAP:
            self._began = now
        self._last = now

    def steady(self, now: float) -> float:
        """Return for how many seconds signs have been written without a gap; 0 while they are not."""
        return 0.0 if self._began is None or now - self._last > GAP else now - self._began
