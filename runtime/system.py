"""All actors of one host: the root of the tree, the names, the clock and what can be seen of them."""

from __future__ import annotations

from types import TracebackType

import structlog
import trio
from trio import TaskStatus

from runtime.child import Child
from runtime.dead_letters import DeadLetters
from runtime.environment import Environment, RealEnvironment
from runtime.failure import sift
from runtime.introspection import ActorInfo, describe
from runtime.life import Life
from runtime.name import Name
from runtime.ref import LifeRef, NamedRef, Ref
from runtime.restart import Intensity, Strategy
from runtime.spec import Spec
from runtime.supervisor import Supervisor
from runtime.timers import Timers
from runtime.watchdog import Watchdog


class System:
    """``async with System() as system:`` runs actors until the block ends, then stops them in order.

    Actors are shielded from a cancellation of the surrounding code; that code leaves the block, and leaving stops the
    actors, the latest started first. Raises what ended it when a child of the root failed too often.
    """

    def __init__(
        self,
        env: Environment | None = None,
        strategy: Strategy = "one_for_one",
        intensity: Intensity = Intensity(),  # noqa: B008 - frozen
    ) -> None:
        self.env: Environment = env if env is not None else RealEnvironment()
        self.registry: dict[str, Child] = {}
        self.dead_letters = DeadLetters(self.env.now)
        self.timers = Timers(self.env)
        self.watchdog = Watchdog(self.env.monotonic)
        self.supervisor = Supervisor(self, "system", strategy, intensity, self.fail)
        #: Sends since one last gave other tasks a turn.
        self.unyielded = 0
        self._generation = 0
        self._scope = trio.CancelScope()
        self._inner = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._failure: BaseException | None = None

    # ---- actors

    async def start(self, spec: Spec) -> LifeRef:
        """Start an actor under the root and return once its ``init`` is done; see ``Supervisor.start``."""
        return await self.supervisor.start(spec)

    async def stop(self, target: Ref | str) -> None:
        """Stop an actor that was started under the root."""
        await self.supervisor.stop(target)

    def lookup(self, name: str) -> LifeRef | None:
        """Return a ref to the present life under ``name``, or None; also None before its restart."""
        child = self.registry.get(name)
        if child is None or child.life is None or child.life.mailbox.closed:
            return None
        return child.life.ref

    def name(self, name: str) -> NamedRef:
        """Return a ref that finds whoever lives under ``name`` at each use, so it survives restarts."""
        return NamedRef(self, Name(name))

    def new_life(self, child: Child) -> Life:
        """Make the next life of ``child``. For supervisors."""
        self._generation += 1
        return Life(self, child, self._generation)

    # ---- introspection

    def snapshot(self) -> list[ActorInfo]:
        """Describe every actor as it is now, in start order."""
        now = self.env.monotonic()
        return [describe(child, now) for child in self.registry.values()]

    def trace(self, name: str, on: bool = True) -> bool:
        """Log each message an actor handles, across its restarts; returns False when there is no such actor."""
        child = self.registry.get(name)
        if child is None:
            return False
        child.trace = on
        return True

    # ---- running

    def fail(self, error: BaseException) -> None:
        """End the system: cancel the block, stop everything in order, raise ``error``."""
        if self._failure is None:
            self._failure = error
            structlog.get_logger().error("system fails", error=repr(error))
            self._scope.cancel()

    async def __aenter__(self) -> System:
        self._scope.__enter__()
        nursery = trio.open_nursery()
        self._nursery_context = nursery
        self._nursery = await nursery.__aenter__()
        await self._nursery.start(self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert self._nursery is not None
        # Leaving is clean-up: nothing from outside may cut it short. A scope of its own can't be opened here, since it
        # would have to be closed before the nursery is.
        self._nursery.cancel_scope.shield = True
        await self.supervisor.close()
        self._inner.cancel()
        await self._nursery_context.__aexit__(None, None, None)
        swallowed = bool(self._scope.__exit__(kind, error, trace))
        failure, self._failure = self._failure, None
        if failure is None:
            return swallowed
        if error is None or swallowed or isinstance(error, trio.Cancelled):
            raise failure
        raise BaseExceptionGroup("the system failed, and so did the block it ran in", [failure, error])

    async def _run(self, task_status: TaskStatus[None]) -> None:
        """Run the root apart from cancellations of the block, which reach it as an orderly stop."""
        try:
            with trio.CancelScope(shield=True) as self._inner:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.timers.run, name="timers")
                    nursery.start_soon(self.watchdog.run, name="watchdog")
                    nursery.start_soon(self.supervisor.run, name="root supervisor")
                    await self.supervisor.opened()
                    task_status.started()
        except BaseException as error:
            failure, fatal = sift(error)
            self.fail(failure or fatal or error)
