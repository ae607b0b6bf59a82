"""What an actor may do, seen from inside it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from runtime.effect import Effect
from runtime.errors import ActorStopped, ProtocolError, TooManyEffects
from runtime.message import Exit, Message, Request
from runtime.reply import Reply, told

if TYPE_CHECKING:
    from runtime.environment import Environment
    from runtime.life import Life
    from runtime.name import Name
    from runtime.ref import LifeRef, Ref
    from runtime.spec import Spec
    from runtime.supervisor import Supervisor
    from runtime.system import System
    from runtime.timers import Timer

T = TypeVar("T")


class Context:
    """One per life. Everything reached through it ends with that life."""

    __slots__ = ("_life", "_log")

    def __init__(self, life: Life) -> None:
        self._life = life
        self._log: Any = None

    @property
    def name(self) -> Name:
        """The actor's name."""
        return self._life.name

    @property
    def ref(self) -> LifeRef:
        """A ref to this life."""
        return self._life.ref

    @property
    def generation(self) -> int:
        """Grows with each life in the system."""
        return self._life.generation

    @property
    def env(self) -> Environment:
        """Clock and chance."""
        return self._life.system.env

    @property
    def system(self) -> System:
        """The system this actor is part of."""
        return self._life.system

    @property
    def log(self) -> Any:
        """A structlog logger with ``actor`` bound. Made when first used, since most idle actors log nothing."""
        if self._log is None:
            self._log = self._life.log
        return self._log

    # ---- answering

    @property
    def deadline(self) -> float | None:
        """When the asker of the current request gives up, on ``env.monotonic``; None when nobody waits."""
        slot = self._life.slot
        return None if slot is None else slot.deadline

    def reply(self, value: Any) -> None:
        """Answer the request being handled. Raises ``ProtocolError`` the second time, or when none is handled."""
        slot = self._slot()
        if slot is not None:
            slot.reply(value)

    def fail(self, error: Exception) -> None:
        """Answer the request being handled with an error; the asker's ``ask`` raises it (see ``Ref.ask``)."""
        slot = self._slot()
        if slot is not None:
            slot.fail(error)

    def reply_slot(self) -> Reply:
        """Take the slot of the request being handled, to answer it later: ``slot.reply(v)`` or ``slot.fail(e)``.

        If the life ends first, the asker gets ``ActorStopped``.
        """
        request = self._request()
        return self._life.take_slot() or told(request, self._life)

    def _slot(self) -> Reply | None:
        self._request()
        return self._life.slot

    def _request(self) -> Request[Any]:
        current = self._life.current
        if not isinstance(current, Request):
            raise ProtocolError(f"{self.name} handles no request now")
        return current

    # ---- work and time

    def effect(
        self,
        fn: Callable[..., Awaitable[T]],
        *args: Any,
        name: str,
        deadline: float | None,
        then: Callable[[T], Message | None] | None = None,
        failed: Callable[[Exception], Message | None] | None = None,
    ) -> Effect:
        """Run ``fn(*args)`` as a child task and have its outcome told to this actor, ahead of ordinary messages.

        ``deadline`` in seconds; None for work that lasts as long as the actor. ``then`` makes the message of a result
        and ``failed`` that of an error (``EffectTimeout`` when the deadline passed); either may return None for "no
        message". Without ``failed`` an error ends the life. Raises ``TooManyEffects`` or ``ActorStopped``.
        """
        life = self._life
        if life.mailbox.closed:
            raise ActorStopped(self.name, "stopping")
        if life.effects is None:
            life.effects = set()
        if len(life.effects) >= life.child.spec.effects:
            raise TooManyEffects(self.name, life.child.spec.effects)
        work = functools.partial(fn, *args) if args else fn
        effect = Effect(life, name, work, deadline, then, failed)
        life.effects.add(effect)
        life.child.supervisor.run_beside(effect.run, f"{self.name}: {name}")
        return effect

    def after(self, seconds: float, message: Message) -> Timer:
        """Tell this actor ``message`` in ``seconds``, unless cancelled."""
        life = self._open_life()
        timer: Timer | None = None

        def fire() -> None:
            if timer is not None:
                life.forget_timer(timer)
            life.deliver(message)

        timer = life.system.timers.after(seconds, fire)
        life.add_timer(timer)
        return timer

    def every(self, seconds: float, message: Message, jitter: float = 0.1) -> Periodic:
        """Tell this actor ``message`` again and again, ``seconds`` apart, give or take the share ``jitter``.

        A tick is left out while the one before it is still queued.
        """
        if seconds <= 0:
            raise ValueError("a period must be positive")
        return Periodic(self._open_life(), seconds, message, jitter)

    def _open_life(self) -> Life:
        if self._life.mailbox.closed:
            raise ActorStopped(self.name, "stopping")
        return self._life

    # ---- others

    def monitor(self, ref: Ref) -> None:
        """Have ``Down(ref, reason)`` told to this actor when that life ends, at once if it has ended.

        A name is resolved now: what is monitored is the present life. Raises ``UnknownActor`` when there is none.
        """
        ref.current().life.watch(self._open_life())

    def demonitor(self, ref: Ref) -> None:
        """Undo ``monitor``. A ``Down`` that is queued already still comes."""
        ref.current().life.unwatch(self._life)

    async def start(self, spec: Spec) -> LifeRef:
        """Start a child and return once its ``init`` is done. It is stopped with this actor.

        Raises ``StartFailed``, ``NameTaken`` or ``SystemStopped``. A child whose ``init`` takes long, or asks this very
        actor for something, should be started from an effect.
        """
        return await (await self._life.own_supervisor()).start(spec)

    async def stop_child(self, child: Ref | str) -> None:
        """Stop a child for good and return when it is gone. No error when there is no such child."""
        if self._life.children is not None:
            await self._life.children.stop(child)

    @property
    def children(self) -> Supervisor | None:
        """This actor's own supervisor; None before the first ``start``."""
        return self._life.children

    def stop(self) -> None:
        """End this life normally, after the present handler. A permanent actor is started again, others are not."""
        self._life.stop(Exit("normal"))


class Periodic:
    """A timer that sets itself again."""

    __slots__ = ("_jitter", "_life", "_message", "_seconds", "_timer")

    def __init__(self, life: Life, seconds: float, message: Message, jitter: float) -> None:
        self._life = life
        self._seconds = seconds
        self._message = message
        self._jitter = min(max(jitter, 0.0), 1.0)
        self._timer: Timer | None = None
        self._set()

    @property
    def active(self) -> bool:
        """Whether it will tick again."""
        return self._timer is not None and self._timer.active

    def cancel(self) -> None:
        """Stop ticking."""
        if self._timer is not None:
            self._timer.cancel()
            self._life.forget_timer(self._timer)
            self._timer = None

    def _set(self) -> None:
        life = self._life
        seconds = self._seconds * (1 + self._jitter * life.system.env.random.uniform(-1, 1))
        self._timer = life.system.timers.after(seconds, self._tick)
        life.add_timer(self._timer)

    def _tick(self) -> None:
        if self._timer is not None:
            self._life.forget_timer(self._timer)
        if not self._life.mailbox.closed:
            self._set()
            self._life.mailbox.put_first_once(self._message)
