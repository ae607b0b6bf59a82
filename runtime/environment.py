"""Where time and chance come from, so that a test or a simulation can bring its own."""

from __future__ import annotations

import functools
import os
import random as stdlib_random
import time
from collections.abc import Callable
from typing import Protocol

import trio

#: Longest single sleep in seconds. trio's clock stands still while the machine is suspended and CLOCK_BOOTTIME does
#: not, so a timer may be late by this much after a suspend, not by the length of the suspend.
LONGEST_SLEEP = 30.0


class Environment(Protocol):
    """Clock and chance of one host."""

    @property
    def random(self) -> stdlib_random.Random:
        """For jitter and choices; never for secrets."""

    @property
    def monotonic(self) -> Callable[[], float]:
        """Seconds that only grow, suspend included. Only differences mean something."""

    def now(self) -> float:
        """Return the time of day as seconds since 1970."""

    def entropy(self, count: int) -> bytes:
        """Return ``count`` unpredictable bytes."""

    async def sleep_until(self, when: float) -> None:
        """Return at the time ``when`` of ``monotonic`` or soon after."""


class RealEnvironment:
    """The machine's clocks and the kernel's entropy."""

    def __init__(self) -> None:
        self.random = stdlib_random.Random(os.urandom(16))
        self.monotonic: Callable[[], float] = functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)

    def now(self) -> float:
        """Return the time of day as seconds since 1970."""
        return time.time()

    def entropy(self, count: int) -> bytes:
        """Return ``count`` bytes from the kernel."""
        return os.urandom(count)

    async def sleep_until(self, when: float) -> None:
        """Sleep in pieces, so that time spent suspended counts."""
        while (left := when - self.monotonic()) > 0:  # noqa: ASYNC110 - time is not an event
            await trio.sleep(min(left, LONGEST_SLEEP))


class SimulatedEnvironment:
    """trio's clock (a ``MockClock`` in tests) and a seeded generator: the same seed gives the same run."""

    def __init__(self, seed: int = 0, epoch: float = 1_800_000_000.0) -> None:
        self.random = stdlib_random.Random(seed)
        self.monotonic: Callable[[], float] = trio.current_time
        self._epoch = epoch

    def now(self) -> float:
        """Return ``epoch`` plus trio's time."""
        return self._epoch + trio.current_time()

    def entropy(self, count: int) -> bytes:
        """Return ``count`` bytes that depend on the seed only."""
        return self.random.randbytes(count)

    async def sleep_until(self, when: float) -> None:
        """Sleep on trio's clock."""
        await trio.sleep_until(when)
