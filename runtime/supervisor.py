"""Starts children, and decides what follows when one ends. Failures arrive here as data, never as exceptions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog
import trio

from runtime.child import Child
from runtime.errors import NameTaken, RestartsExhausted, StartFailed, SystemStopped
from runtime.message import Exit
from runtime.name import Name
from runtime.ref import LifeRef, Ref
from runtime.restart import Escalate, History, Intensity, Remove, Strategy, affected, decide

if TYPE_CHECKING:
    from runtime.life import Life
    from runtime.spec import Spec
    from runtime.system import System

_STOPPED = Exit("stopped")


class Supervisor:
    """Owns the nursery in which its children and their effects run.

    ``on_exhausted`` is called once, when a child failed more often than ``intensity`` allows; whoever owns the
    supervisor then fails in its turn and closes it.
    """

    def __init__(
        self,
        system: System,
        name: str,
        strategy: Strategy,
        intensity: Intensity,
        on_exhausted: Callable[[BaseException], None],
    ) -> None:
        self.system = system
        self.name = name
        self.strategy = strategy
        self.intensity = intensity
        self._on_exhausted = on_exhausted
        self._children: dict[Name, Child] = {}
        self._nursery: trio.Nursery | None = None
        self._opened = trio.Event()
        self._closed = trio.Event()
        self._closing = False
        #: Restarts that count when children are counted together.
        self._history: History = ()
        #: Names to be restarted together, when, and the sleep until then. Only for strategies with groups.
        self._due: set[Name] = set()
        self._due_at = 0.0
        self._wait: trio.CancelScope | None = None
        self._regrouping = False
        #: Failures that made a group due. A round that sees it grow has been overtaken.
        self._failures = 0

    @property
    def children(self) -> list[Name]:
        """Names of the children in start order."""
        return list(self._children)

    async def run(self) -> None:
        """Hold the nursery open until ``close``."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._opened.set()
                try:
                    await trio.sleep_forever()
                finally:
                    # Children that are cancelled now must not be started again.
                    self._closing = True
        finally:
            self._opened.set()
            self._closed.set()

    async def opened(self) -> None:
        """Wait until children can be started."""
        if self._nursery is None:
            await self._opened.wait()

    def run_beside(self, fn: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a task that must not raise, for as long as the supervisor at most."""
        assert self._nursery is not None
        self._nursery.start_soon(fn, name=name)

    # ---- starting and stopping

    async def start(self, spec: Spec) -> LifeRef:
        """Start a child and return once its ``init`` is done.

        Raises ``NameTaken``, ``SystemStopped``, or ``StartFailed`` with the reason as its cause; then there is no such
        child. Cancelling stops the child again.
        """
        if self._closing or self._nursery is None:
            raise SystemStopped(self.name)
        name = Name(spec.name)
        if name in self.system.registry:
            raise NameTaken(name)
        child = Child(name, spec, self)
        self.system.registry[name] = child
        self._children[name] = child
        life = self._begin(child)
        try:
            await life.started()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._stop(child)
            raise
        if not life.ready:
            reason = life.exit.error if life.exit is not None else None
            raise StartFailed(name, f"{type(reason).__name__}: {reason}" if reason else "stopped") from reason
        return life.ref

    async def stop(self, target: Ref | str) -> None:
        """Stop a child for good and return when it is gone. No error when there is none.

        A ref to any of the child's lives will do, since it is the child that is stopped; one to a former child that
        happened to have the same name does nothing.
        """
        name = Name(target.name if isinstance(target, Ref) else target)
        child = self._children.get(name)
        if child is None or (isinstance(target, LifeRef) and target.life.child is not child):
            await trio.lowlevel.checkpoint()
            return
        await self._stop(child)

    async def _stop(self, child: Child) -> None:
        child.removed = True
        life = child.life
        if life is not None:
            life.stop(_STOPPED)
            await life.join()
        self._remove(child)

    async def close(self) -> None:
        """Stop all children, the latest started first, then end the nursery. Call it shielded."""
        self._closing = True
        for child in reversed(tuple(self._children.values())):
            await self._stop(child)
        await self._opened.wait()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        await self._closed.wait()

    def _begin(self, child: Child) -> Life:
        assert self._nursery is not None
        child.timer = None
        child.life = life = self.system.new_life(child)
        self._nursery.start_soon(life.run, name=child.name)
        return life

    def _begin_again(self, child: Child) -> None:
        if not child.removed and not self._closing:
            child.restarts += 1
            self._begin(child)

    def _remove(self, child: Child) -> None:
        child.removed = True
        if child.timer is not None:
            child.timer.cancel()
            child.timer = None
        if self._children.get(child.name) is child:
            del self._children[child.name]
            del self.system.registry[child.name]
            self._due.discard(child.name)

    # ---- what children report

    def child_ended(self, life: Life, reason: Exit) -> None:
        """Decide what follows the end of a child's life."""
        child = life.child
        child.life = None
        if reason.kind == "failed":
            child.last_error = f"{type(reason.error).__name__}: {reason.error}"
        if child.removed or self._closing:
            self._remove(child)
        elif not life.ready and child.restarts == 0:
            # It never was up: the one who started it hears of it and decides.
            self._remove(child)
        elif reason.kind == "stopped" and life.regrouped:
            if child.spec.restart == "temporary":
                self._remove(child)
        else:
            self._decide(child, reason)

    def _decide(self, child: Child, reason: Exit) -> None:
        log = structlog.get_logger().bind(actor=str(child.name), supervisor=self.name)
        alone = self.strategy == "one_for_one"
        history, decision = decide(
            child.history if alone else self._history,
            now=self.system.env.monotonic(),
            restart=child.spec.restart,
            exit_kind=reason.kind,
            intensity=self.intensity,
            backoff=child.spec.backoff,
            draw=self.system.env.random.random(),
        )
        if alone:
            child.history = history
        else:
            self._history = history
        failure = reason.error if reason.kind == "failed" else None
        match decision:
            case Remove():
                self._remove(child)
                if failure is not None:
                    log.error("actor failed and is not restarted", error=repr(failure), exc_info=failure)
            case Escalate():
                log.error("actor failed too often", error=repr(failure), exc_info=failure)
                self._exhaust(child, failure)
            case _:
                delay = decision.delay
                if failure is not None:
                    log.warning("actor failed", error=repr(failure), restart_in=round(delay, 3), exc_info=failure)
                if alone:
                    self._begin_later(child, delay)
                else:
                    self._regroup(affected(self.strategy, self.children, child.name), delay)

    def _exhaust(self, child: Child, failure: BaseException | None) -> None:
        self._closing = True
        error = RestartsExhausted(self.name, child.name, self.intensity.limit, self.intensity.within)
        error.__cause__ = failure
        self._on_exhausted(error)

    def _begin_later(self, child: Child, delay: float) -> None:
        if delay <= 0:
            self._begin_again(child)
        else:
            child.timer = self.system.timers.after(delay, lambda: self._begin_again(child))

    # ---- restarting several together

    def _regroup(self, names: tuple[str, ...], delay: float) -> None:
        until = self.system.env.monotonic() + delay
        self._due_at = max(until, self._due_at) if self._due else until
        self._due.update(Name(name) for name in names)
        self._failures += 1
        if self._wait is not None:
            self._wait.cancel()
        if not self._regrouping:
            self._regrouping = True
            self.run_beside(self._restart_due, f"{self.name}: restart of a group")

    async def _restart_due(self) -> None:
        try:
            while self._due and not self._closing:
                await self._restart_group()
        finally:
            self._regrouping = False

    async def _restart_group(self) -> None:
        """Stop what is due, latest first; wait; start it again in order. A failure meanwhile begins another round."""
        failures = self._failures
        for child in reversed(self._due_children()):
            if child.life is not None:
                life = child.life
                life.regrouped = True
                life.stop(_STOPPED)
                await life.join()
        if self._failures == failures:
            with trio.CancelScope() as self._wait:
                await self.system.env.sleep_until(self._due_at)
            self._wait = None
        for child in self._due_children():
            if self._failures != failures:
                return
            if child.removed or self._closing:
                continue
            self._due.discard(child.name)
            self._begin_again(child)
            if child.life is not None:
                await child.life.started()

    def _due_children(self) -> list[Child]:
        return [child for name, child in self._children.items() if name in self._due]
