"""All timers of a system: one heap, one sleeping task, so that a timer costs some bytes and not a task."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import trio

from runtime.environment import Environment

#: Cancelled timers stay in the heap until their time comes, unless they are this many and more than half of it.
COMPACT_FROM = 64


class Timer:
    """Something to be called once, at ``when`` on the monotonic clock."""

    __slots__ = ("_call", "_timers", "when")

    def __init__(self, timers: Timers, when: float, call: Callable[[], None]) -> None:
        self._timers = timers
        self._call: Callable[[], None] | None = call
        self.when = when

    @property
    def active(self) -> bool:
        """Whether it is still going to be called."""
        return self._call is not None

    def cancel(self) -> None:
        """Make sure that it is not called any more. Harmless when it was."""
        if self._call is not None:
            self._call = None
            self._timers.note_cancelled()

    def fire(self) -> None:
        """Call it, once."""
        call, self._call = self._call, None
        if call is not None:
            call()


class Timers:
    """The heap and its task. What is called must not raise or block."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self._cancelled = 0
        self._sleep: trio.CancelScope | None = None

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Have ``call`` called in ``seconds``."""
        timer = Timer(self, self._env.monotonic() + max(seconds, 0.0), call)
        self._sequence += 1
        heapq.heappush(self._heap, (timer.when, self._sequence, timer))
        if self._heap[0][2] is timer and self._sleep is not None:
            self._sleep.cancel()
        return timer

    def note_cancelled(self) -> None:
        """Count a timer that stays in the heap for nothing, and sweep when they are many."""
        self._cancelled += 1
        if self._cancelled >= COMPACT_FROM and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].active]
            heapq.heapify(self._heap)
            self._cancelled = 0

    async def run(self) -> None:
        """Fire timers until cancelled."""
        while True:
            self._fire_due()
            with trio.CancelScope() as self._sleep:
                if self._heap:
                    await self._env.sleep_until(self._heap[0][0])
                else:
                    await trio.sleep_forever()
            self._sleep = None

    def _fire_due(self) -> None:
        now = self._env.monotonic()
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            if timer.active:
                timer.fire()
            else:
                self._cancelled -= 1
