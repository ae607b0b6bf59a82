"""A trio loop in a thread, for Hypothesis machines: their rules are synchronous, what they drive is not."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
import trio.lowlevel
import trio.testing

from runtime import SimulatedEnvironment, System

T = TypeVar("T")


class Stage:
    """A system under a clock that stands still until told to jump."""

    def __init__(self, **system: Any) -> None:
        self.clock = trio.testing.MockClock(rate=0)
        self.failure: BaseException | None = None
        self.system: System
        self._ready = threading.Event()
        self._end: trio.Event
        self._token: trio.lowlevel.TrioToken
        self._thread = threading.Thread(target=self._run, args=(system,), daemon=True)
        self._thread.start()
        assert self._ready.wait(120)

    def _run(self, options: dict[str, Any]) -> None:
        async def main() -> None:
            self._token = trio.lowlevel.current_trio_token()
            self._end = trio.Event()
            async with System(SimulatedEnvironment(), **options) as self.system, trio.open_nursery() as self.nursery:
                self._ready.set()
                await self._end.wait()
                self.nursery.cancel_scope.cancel()

        try:
            trio.run(main, clock=self.clock)
        except BaseException as error:
            self.failure = error

    @property
    def over(self) -> bool:
        """Whether the system has ended by itself."""
        return not self._thread.is_alive()

    def do(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run ``step`` in the loop, then everything that follows from it at the present moment."""

        async def run() -> T:
            result = await step()
            await self._settle()
            return result

        return trio.from_thread.run(run, trio_token=self._token)

    async def _settle(self) -> None:
        # Timers that are due now fire only after the loop has looked at its clock.
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            await trio.lowlevel.checkpoint()

    def jump(self, seconds: float) -> None:
        """Let time pass."""

        async def step() -> None:
            self.clock.jump(seconds)

        self.do(step)

    def wait_over(self) -> None:
        """Wait until the system has ended by itself."""
        self._thread.join(120)
        assert self.over

    def close(self) -> None:
        """End the system if it has not ended."""
        if not self.over:
            trio.from_thread.run_sync(self._end.set, trio_token=self._token)
        self.wait_over()
