"""Reports handlers that take long: they hold up their actor, and without awaiting they hold up everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.life import Life
    from runtime.message import Message

#: Seconds between looks at what is being handled.
TICK = 1.0
#: Seconds after which a handler is slow.
SLOW = 1.0


class Watchdog:
    """Sleeps for good while no actor handles anything, so that an idle system has no timer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._busy: set[Life] = set()
        self._reported: dict[Life, Message] = {}
        self._task: trio.lowlevel.Task | None = None
        self.slow = 0

    def enter(self, life: Life) -> None:
        """Note that an actor began to handle messages."""
        self._busy.add(life)
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def leave(self, life: Life) -> None:
        """Note that it has none left, or gives others a turn."""
        self._busy.discard(life)

    def was_slow(self, life: Life, message: Message, seconds: float) -> None:
        """Report a handler that has ended, unless it was reported while it ran."""
        if self._reported.pop(life, None) is not message:
            self._report(life, message, seconds, "handler was slow")

    async def run(self) -> None:
        """Look once per ``TICK`` while there is anything to look at."""
        while True:
            if not self._busy:
                self._reported.clear()
                self._task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._wake)
            await trio.sleep(TICK)
            now = self._clock()
            for life in tuple(self._busy):
                message = life.current
                if message is None or now - life.since <= SLOW or self._reported.get(life) is message:
                    continue
                self._reported[life] = message
                self._report(life, message, now - life.since, "handler is slow")

    def _wake(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _report(self, life: Life, message: Message, seconds: float, event: str) -> None:
        self.slow += 1
        structlog.get_logger().warning(
            event, actor=str(life.name), message=type(message).__name__, seconds=round(seconds, 3)
        )
