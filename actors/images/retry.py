"""When to try again: exponential back-off with jitter, and an end."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``attempts`` in a row without progress end it. Waits in seconds; ``longest`` also bounds a server's wish."""

    attempts: int = 4
    first: float = 0.5
    longest: float = 10.0

    def wait(self, failures: int, source: random.Random, wish: float | None = None) -> float | None:
        """Return seconds to wait after so many failures in a row; None when it is time to give up."""
        if failures >= self.attempts:
            return None
        ceiling: float = min(self.longest, self.first * 2 ** (failures - 1))
        wait = source.uniform(ceiling / 2, ceiling)
        return wait if wish is None else min(self.longest, max(wait, wish))


DEFAULT_POLICY = RetryPolicy()
