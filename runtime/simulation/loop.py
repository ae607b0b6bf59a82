"""Runs trio under a clock that jumps, in an order that follows from a seed."""

from __future__ import annotations

import math
import random
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar, TypeVarTuple

import trio
import trio.testing

T = TypeVar("T")
Args = TypeVarTuple("Args")

#: Steps that all tasks may take together while the clock stands still.
MOST_STEPS = 200_000
#: Seconds of CPU time that one step may take.
LONGEST_STEP = 20.0
#: Seconds that trio sleeps at most until the clock jumps, which it does at once.
_NEVER = 999999999


class Spun(Exception):
    """A task took steps without end while no time passed, or one step that did not end. The message names it."""


def run(
    main: Callable[[*Args], Awaitable[T]],
    *args: *Args,
    seed: int = 0,
    most_steps: int = MOST_STEPS,
    longest_step: float = LONGEST_STEP,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """Run ``main(*args)`` on a clock that jumps as soon as all tasks wait, and return what it returns.

    What is ready together runs in an order that follows from ``seed``. Raises `Spun` when a task spins: more than
    ``most_steps`` steps while the clock stands still, or ``longest_step`` seconds of CPU time in one (this is noticed
    in the main thread only). Also when all tasks wait and nothing is to come.
    """
    clock: Any = trio.testing.MockClock(autojump_threshold=0)
    watchdog = _Watchdog(clock, most_steps)
    # The same as its own at rate 0, at a fraction of the cost: it is asked some hundred times for each message.
    clock.current_time = lambda: clock._virtual_base
    clock.deadline_to_sleep_time = lambda deadline: _NEVER if deadline > clock._virtual_base else 0
    clock._autojump = watchdog.jump

    async def watched() -> T:
        watchdog.began()
        with watchdog.scope:
            return await main(*args)
        raise Spun(watchdog.story)

    # There is no public way to seed trio's choice among the tasks that are ready.
    internals: Any = trio._core._run
    before = internals._ALLOW_DETERMINISTIC_SCHEDULING, internals._r
    internals._ALLOW_DETERMINISTIC_SCHEDULING, internals._r = True, random.Random(seed)
    try:
        with _step_alarm(watchdog, longest_step):
            return trio.run(watched, clock=clock, instruments=[watchdog, *instruments])
    finally:
        internals._ALLOW_DETERMINISTIC_SCHEDULING, internals._r = before


class _Watchdog(trio.abc.Instrument):
    """Counts steps between two moves of the clock; beyond the limit it cancels the run."""

    def __init__(self, clock: Any, most: int) -> None:
        self.scope: trio.CancelScope
        self.story = ""
        self.steps = 0
        self._clock = clock
        self._most = most
        self._since = 0
        self._at = -1.0
        self._names: Counter[str] | None = None

    def began(self) -> None:
        """Be called in the main task, which is cancelled when something spins."""
        self.scope = trio.CancelScope()

    def jump(self) -> None:
        """Let the clock jump; end the run when there is nothing to jump to."""
        # What `trio.lowlevel.current_statistics` tells of it, without all else that it tells.
        deadlines: Any = trio._core._run.GLOBAL_RUN_CONTEXT.runner.deadlines
        to_next = deadlines.next_deadline() - self._clock.current_time()
        if to_next < math.inf:
            if to_next > 0:
                self._clock.jump(to_next)
            return
        told, self.story = bool(self.story), f"all tasks wait for ever, at {self._clock.current_time():.3f} s"
        if told:
            # And some of them do not even listen to a cancellation.
            raise Spun(self.story)
        self.scope.cancel()

    def before_io_wait(self, timeout: float) -> None:
        """Forget the steps so far when time is going to pass."""
        now = self._clock.current_time()
        if now != self._at or timeout > 0:
            self._at, self._since, self._names = now, self.steps, None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step; near the limit, also whose it is."""
        self.steps += 1
        taken = self.steps - self._since
        if taken * 2 <= self._most:
            return
        if self._names is None:
            self._names = Counter()
        self._names[task.name] += 1
        if taken > self._most and not self.story:
            name, count = self._names.most_common(1)[0]
            self.story = (
                f"{taken} steps while the clock stood at {self._at:.3f} s; "
                f"of the last {sum(self._names.values())}, {count} by task {name}"
            )
            self.scope.cancel()


@contextmanager
def _step_alarm(watchdog: _Watchdog, longest: float) -> Iterator[None]:
    """Interrupt a step that uses the CPU without end: nothing else gets a turn to notice it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = -1

    def look(_: int, frame: FrameType | None) -> None:
        nonlocal seen
        if watchdog.steps == seen:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "nowhere"
            raise Spun(f"a step used the CPU for more than {longest} s, at {place}")
        seen = watchdog.steps

    old = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, longest, longest)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)
