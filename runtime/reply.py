"""One-shot reply slots: who asked waits in one, who answers fills it, whichever comes first decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import outcome
import trio

from runtime.errors import ActorError, ProtocolError, RequestFailed

if TYPE_CHECKING:
    from runtime.life import Life
    from runtime.message import Request


def passes_to_asker(error: BaseException) -> bool:
    """Tell whether ``error`` is made for the one who asked: it carries a ``code`` for programs and a ``detail``.

    Such an error is an answer like any other. The runtime's own errors have no ``code`` and so are not: an
    ``ActorStopped`` that a handler met further down must not look as if the handler's actor had stopped.
    """
    return (
        isinstance(error, Exception)
        and isinstance(getattr(error, "code", None), str)
        and isinstance(getattr(error, "detail", None), str)
    )


class Reply:
    """The slot of one request. Filled once; revoked when the asker gives up, after which answers are dead letters."""

    __slots__ = ("_life", "_state", "_task", "deadline", "request", "timeout")

    def __init__(self, request: Request[Any], life: Life, timeout: float) -> None:
        self.request = request
        self.timeout = timeout
        #: When the asker gives up, on the environment's monotonic clock.
        self.deadline = life.system.env.monotonic() + timeout
        self._life = life
        self._state = "open"
        self._task: trio.lowlevel.Task | None = None

    @property
    def open(self) -> bool:
        """Whether somebody still waits for an answer."""
        return self._state == "open"

    def reply(self, value: Any) -> None:
        """Answer with ``value``; raises ``ProtocolError`` when it was answered before."""
        self._fill(outcome.Value(value))

    def fail(self, error: BaseException) -> None:
        """Answer with an error: one with ``code`` and ``detail`` as it is, any other as ``RequestFailed``."""
        if not passes_to_asker(error):
            cause = error
            detail = f"{type(cause).__name__}: {cause}"
            error = RequestFailed(self._life.name, type(self.request).__name__, detail)
            error.__cause__ = cause
        self._fill(outcome.Error(error))

    def abandon(self, error: ActorError) -> None:
        """Fail the asker with one of the runtime's own errors, if it still waits. An answer after that is late."""
        if self._state == "open":
            self._fill(outcome.Error(error))
            self._state = "revoked"

    def _fill(self, result: outcome.Outcome[Any]) -> None:
        if self._state == "open":
            self._state = "filled"
            self._life.forget_slot(self)
            if self._task is not None:
                trio.lowlevel.reschedule(self._task, result)
        elif self._state == "revoked":
            self._state = "late"
            self._life.forget_slot(self)
            self._life.system.dead_letters.add(self._life.name, "late", result)
        elif self._state != "told":
            raise ProtocolError(f"{self._life.name} answered {type(self.request).__name__} twice")

    async def wait(self) -> Any:
        """Wait for the answer. Cancelling revokes the slot. No other task may run between making it and this."""
        self._task = trio.lowlevel.current_task()
        return await trio.lowlevel.wait_task_rescheduled(self._revoke)

    def _revoke(self, _: object) -> trio.lowlevel.Abort:
        self._state = "revoked"
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


def told(request: Request[Any], life: Life) -> Reply:
    """Return a slot for a request that came by ``tell``: nobody waits, answers go nowhere and are no fault."""
    slot = Reply(request, life, float("inf"))
    slot._state = "told"
    return slot
