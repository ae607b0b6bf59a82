"""Work an actor has done beside itself: a child task whose outcome comes back as a message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from runtime.errors import EffectTimeout
from runtime.failure import sift
from runtime.message import Message

if TYPE_CHECKING:
    from runtime.life import Life


class Effect:
    """One running piece of work. It ends with its actor's life at the latest."""

    __slots__ = ("_cancelled", "_deadline", "_failed", "_life", "_scope", "_then", "_work", "name", "since")

    def __init__(
        self,
        life: Life,
        name: str,
        work: Callable[[], Awaitable[Any]],
        deadline: float | None,
        then: Callable[[Any], Message | None] | None,
        failed: Callable[[Exception], Message | None] | None,
    ) -> None:
        self.name = name
        #: When it was started, on the monotonic clock.
        self.since = life.system.env.monotonic()
        self._life = life
        self._work = work
        self._deadline = deadline
        self._then = then
        self._failed = failed
        self._scope = trio.CancelScope()
        self._cancelled = False

    def cancel(self) -> None:
        """Cancel it. No message comes of it, except when it had ended already and its message is queued."""
        self._cancelled = True
        self._scope.cancel()

    async def run(self) -> None:
        """Do the work, then tell the actor. Raises nothing but ``Cancelled`` from outside."""
        result: Any = None
        failure: Exception | None = None
        fatal: BaseException | None = None
        if self._deadline is not None:
            self._scope.deadline = trio.current_time() + self._deadline
        try:
            with self._scope:
                result = await self._work()
        except BaseException as error:
            failure, fatal = sift(error)
        life = self._life
        life.forget_effect(self)
        if fatal is not None:
            if isinstance(fatal, trio.Cancelled):
                raise fatal
            life.system.fail(fatal)
            return
        if self._cancelled:
            if failure is not None:
                life.log.warning("effect failed while it was cancelled", effect=self.name, error=repr(failure))
            return
        if failure is None and self._scope.cancelled_caught:
            failure = EffectTimeout(f"{life.name}: {self.name}", self._deadline or 0.0)
        self._report(result, failure)

    def _report(self, result: Any, failure: Exception | None) -> None:
        try:
            if failure is None:
                message = self._then(result) if self._then is not None else None
            elif self._failed is not None:
                message = self._failed(failure)
            else:
                raise failure
        except Exception as error:
            # The callbacks are the actor's code, and so is work whose failure nobody wanted to hear of.
            self._life.crash(error)
            return
        if message is not None:
            self._life.deliver(message)
