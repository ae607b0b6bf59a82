"""One life of an actor: its task from the first line of ``init`` to the last of ``stopped``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
import trio

from runtime.context import Context
from runtime.errors import ActorStopped, AskTimeout, InitTimeout, MailboxFull, ProtocolError, SystemStopped
from runtime.failure import sift
from runtime.mailbox import Mailbox
from runtime.message import Down, Exit, Message, Request
from runtime.ref import LifeRef
from runtime.reply import Reply, passes_to_asker
from runtime.supervisor import Supervisor
from runtime.watchdog import SLOW

if TYPE_CHECKING:
    from runtime.actor import Actor
    from runtime.child import Child
    from runtime.effect import Effect
    from runtime.name import Name
    from runtime.spec import ActorState
    from runtime.system import System
    from runtime.timers import Timer

#: Messages handled before other tasks get a turn.
BATCH = 64


class Life:
    """What a supervisor, a ref and a context share about one life. Everything here runs on the system's loop."""

    __slots__ = (
        "_failure",
        "_joiners",
        "_quiet",
        "_starting",
        "_stop_kind",
        "_watchers",
        "actor",
        "child",
        "children",
        "ctx",
        "current",
        "effects",
        "exit",
        "generation",
        "handled",
        "mailbox",
        "ready",
        "ref",
        "regrouped",
        "scope",
        "since",
        "slot",
        "slots",
        "state",
        "stopping",
        "system",
        "task",
        "timers",
        "watching",
    )

    def __init__(self, system: System, child: Child, generation: int) -> None:
        self.system = system
        self.child = child
        self.generation = generation
        self.mailbox = Mailbox(child.spec.mailbox, system.env.monotonic)
        self.ref = LifeRef(self)
        self.ctx = Context(self)
        self.actor: Actor | None = None
        self.state: ActorState | None = "starting"
        self.task: trio.lowlevel.Task | None = None
        self.scope = trio.CancelScope()
        self.ready = False
        #: Set once somebody has asked it to end.
        self.stopping = False
        #: Set when it is stopped only to be started again together with a sibling.
        self.regrouped = False
        self.exit: Exit | None = None
        self.handled = 0
        self.current: Message | None = None
        #: When the current message's turn came.
        self.since = 0.0
        #: The slot of the current message, None for one that nobody waits for.
        self.slot: Reply | None = None
        # Most actors have none of these most of the time, and an empty set is 216 bytes.
        self.slots: set[Reply] | None = None
        self.effects: set[Effect] | None = None
        self.timers: set[Timer] | None = None
        self.watching: set[Life] | None = None
        self._watchers: dict[Life, None] | None = None
        self.children: Supervisor | None = None
        self._joiners: trio.Event | None = None
        self._quiet: trio.Event | None = None
        self._starting: trio.Event | None = None
        self._stop_kind: Exit | None = None
        self._failure: BaseException | None = None

    @property
    def name(self) -> Name:
        """The actor's name."""
        return self.child.name

    @property
    def log(self) -> Any:
        """A logger that names the actor; made when used."""
        return structlog.get_logger().bind(actor=str(self.name))

    # ---- what others do to it

    def refuse(self, message: Message) -> ActorStopped:
        """Count a message that came too late and return the error for its sender."""
        self.system.dead_letters.add(self.name, "stopped", message)
        return self._stopped_error()

    def refuse_full(self, message: Message) -> MailboxFull:
        """Count a message that found no room and return the error for its sender."""
        self.system.dead_letters.add(self.name, "full", message)
        return MailboxFull(self.name, self.mailbox.limit)

    def _stopped_error(self) -> ActorStopped:
        return ActorStopped(self.name, str(self.exit) if self.exit else "stopping")

    def deliver(self, message: Message) -> None:
        """Put a message of the runtime itself into the system lane; it is a dead letter when the life is over."""
        if self.mailbox.closed:
            self.system.dead_letters.add(self.name, "stopped", message)
        else:
            self.mailbox.put_first(message)

    def stop(self, reason: Exit) -> None:
        """Ask the life to end after its present handler, or during it when that takes longer than ``stop_timeout``."""
        if self._stop_kind is not None or self.state == "stopping" or self.exit is not None:
            return
        self._stop_kind = reason
        self.stopping = True
        if self.current is None:
            self.scope.cancel()
        else:
            self.add_timer(self.system.timers.after(self.child.spec.stop_timeout, self.scope.cancel))

    def crash(self, error: BaseException) -> None:
        """End the life at once as failed with ``error``."""
        if self._failure is None and self.state != "stopping":
            self._failure = error
            self.scope.cancel()

    async def join(self) -> Exit:
        """Wait for the end."""
        if self.exit is None:
            if self._joiners is None:
                self._joiners = trio.Event()
            await self._joiners.wait()
        assert self.exit is not None
        return self.exit

    async def started(self) -> bool:
        """Wait until ``init`` is done or the life has ended before; tell whether it came up."""
        if not self.ready and self.exit is None:
            self._starting = trio.Event()
            await self._starting.wait()
        return self.ready

    def _tell_starter(self) -> None:
        if self._starting is not None:
            self._starting.set()
            self._starting = None

    def watch(self, watcher: Life) -> None:
        """Tell ``watcher`` when this life ends, now if it has."""
        if self.exit is not None:
            watcher.deliver(Down(self.ref, self.exit))
            return
        if self._watchers is None:
            self._watchers = {}
        self._watchers[watcher] = None
        if watcher.watching is None:
            watcher.watching = set()
        watcher.watching.add(self)

    def unwatch(self, watcher: Life) -> None:
        """Do not tell ``watcher`` after all."""
        if self._watchers is not None:
            self._watchers.pop(watcher, None)
        if watcher.watching is not None:
            watcher.watching.discard(self)

    # ---- the task

    async def run(self) -> None:
        """Live. Raises nothing: failures go to the supervisor as data, what is fatal goes to the system."""
        self.task = trio.lowlevel.current_task()
        failure: BaseException | None = None
        fatal: BaseException | None = None
        try:
            with self.scope:
                if not self.stopping:
                    await self._init()
                    self._become_ready()
                    await self._serve()
        except BaseException as error:
            failure, fatal = sift(error)
        if self._failure is not None:
            failure = self._failure
        elif isinstance(fatal, (KeyboardInterrupt, SystemExit)):
            failure = fatal
            self.system.fail(fatal)
        reason = Exit("failed", failure) if failure is not None else self._stop_kind or Exit("stopped")
        # From here on the life is over for everybody else; what follows is clean-up and always completes.
        with trio.CancelScope(shield=True):
            await self._shut_down(reason)
        self._end(reason)
        if isinstance(fatal, trio.Cancelled):
            raise fatal

    async def _init(self) -> None:
        spec = self.child.spec
        self.actor = actor = spec.factory()
        actor.ctx = self.ctx
        with trio.move_on_after(spec.init_timeout) as scope:
            await actor.init()
        if scope.cancelled_caught:
            raise InitTimeout(self.name, spec.init_timeout)

    def _become_ready(self) -> None:
        if self._stop_kind is not None:
            return
        self.state = "running"
        self.ready = True
        self._tell_starter()

    async def _serve(self) -> None:
        assert self.actor is not None
        mailbox, queue, watchdog = self.mailbox, self.mailbox.queue, self.system.watchdog
        clock, receive, child = self.system.env.monotonic, self.actor.receive, self.child
        while not self.stopping:
            if not queue and not mailbox.lane:
                await mailbox.wait()
                continue
            watchdog.enter(self)
            since = clock()
            for _ in range(BATCH):
                if mailbox.lane:
                    _, message, slot = mailbox.lane.popleft()
                elif queue:
                    _, message, slot = queue.popleft()
                    if mailbox.writers:
                        mailbox.refill()
                else:
                    break
                if slot is not None and not self._wanted(slot, since):
                    continue
                self.since = since
                self.slot = slot
                self.current = message
                if child.trace:
                    self.log.info("message", type=type(message).__name__, depth=len(queue))
                try:
                    await receive(message)
                except Exception as error:
                    if not self._is_answer(error):
                        raise
                self.handled += 1
                if self.slot is not None:
                    self._check_answered(self.slot)
                self.current = None
                since = clock()
                if since - self.since > SLOW:
                    watchdog.was_slow(self, message, since - self.since)
                if self._stop_kind is not None:
                    break
            else:
                watchdog.leave(self)
                await trio.lowlevel.checkpoint()
                continue
            watchdog.leave(self)

    def _wanted(self, slot: Reply, now: float) -> bool:
        if not slot.open:
            self.system.dead_letters.add(self.name, "revoked", slot.request)
            return False
        if slot.deadline <= now:
            self.system.dead_letters.add(self.name, "expired", slot.request)
            # Its asker's own timeout may be far off: trio's clock stands still during a suspend, this one does not.
            slot.abandon(AskTimeout(self.name, type(slot.request).__name__, slot.timeout))
            return False
        return True

    def _is_answer(self, error: Exception) -> bool:
        """Pass an error on to the asker when it is made for one; tell whether it was."""
        if not isinstance(self.current, Request) or not passes_to_asker(error):
            return False
        if self.slot is None:
            self.log.info("request refused", request=type(self.current).__name__, error=str(error))
        elif self.slot.open:
            self.slot.fail(error)
        else:
            return False
        return True

    def _check_answered(self, slot: Reply) -> None:
        """Fail a request that its handler neither answered nor put by: its asker would wait for nothing."""
        self.slot = None
        if slot.open and (self.slots is None or slot not in self.slots):
            self.log.error("request was not answered", request=type(slot.request).__name__)
            slot.fail(ProtocolError(f"{self.name} did not answer"))

    def take_slot(self) -> Reply | None:
        """Return the slot of the current message, which from now on is answered whenever its holder likes."""
        slot = self.slot
        if slot is not None:
            if self.slots is None:
                self.slots = set()
            self.slots.add(slot)
        return slot

    def forget_slot(self, slot: Reply) -> None:
        """Note that a slot was answered."""
        if self.slots is not None:
            self.slots.discard(slot)

    def add_timer(self, timer: Timer) -> None:
        """Have a timer cancelled with this life."""
        if self.timers is None:
            self.timers = set()
        self.timers.add(timer)

    def forget_timer(self, timer: Timer) -> None:
        """Note that a timer has fired or was cancelled."""
        if self.timers is not None:
            self.timers.discard(timer)

    async def own_supervisor(self) -> Supervisor:
        """Return the supervisor of this actor's children, made at the first use."""
        if self.mailbox.closed:
            raise SystemStopped(self.name)
        if self.children is None:
            spec = self.child.spec
            self.children = Supervisor(self.system, self.name, spec.strategy, spec.intensity, self.crash)
            self.child.supervisor.run_beside(self.children.run, f"{self.name}: children")
        await self.children.opened()
        return self.children

    def forget_effect(self, effect: Effect) -> None:
        """Note that an effect has ended."""
        if self.effects is not None:
            self.effects.discard(effect)
            if not self.effects and self._quiet is not None:
                self._quiet.set()

    # ---- the end

    async def _shut_down(self, reason: Exit) -> None:
        self.state = "stopping"
        self.close(reason)
        for timer in self.timers or ():
            timer.cancel()
        self.timers = None
        timeout = self.child.spec.stop_timeout
        if self.effects:
            await self._stop_effects(timeout)
        if self.children is not None:
            await self.children.close()
        if self.actor is not None:
            await self._call_stopped(reason, timeout)

    def close(self, reason: Exit) -> None:
        """Close the mailbox and fail everybody who waits for an answer of this life."""
        self.system.watchdog.leave(self)
        stopped = ActorStopped(self.name, str(reason))
        slot, self.slot, self.current = self.slot, None, None
        if (
            slot is not None
            and slot.open
            and reason.error is not None
            and (self.slots is None or slot not in self.slots)
        ):
            slot.fail(reason.error)
        for open_slot in (slot, *(self.slots or ())):
            if open_slot is not None:
                open_slot.abandon(stopped)
        self.slots = None
        for _, message, queued in self.mailbox.close():
            self.system.dead_letters.add(self.name, "stopped", message)
            if queued is not None:
                queued.abandon(stopped)

    async def _stop_effects(self, timeout: float) -> None:
        assert self.effects is not None
        self._quiet = trio.Event()
        for effect in tuple(self.effects):
            effect.cancel()
        with trio.move_on_after(timeout):
            await self._quiet.wait()
        if self.effects:
            names = sorted(effect.name for effect in self.effects)
            self.log.warning("effects go on after their cancellation", effects=names, seconds=timeout)

    async def _call_stopped(self, reason: Exit, timeout: float) -> None:
        assert self.actor is not None
        failure: BaseException | None = None
        fatal: BaseException | None = None
        with trio.move_on_after(timeout) as scope:
            try:
                await self.actor.stopped(reason)
            except trio.Cancelled:
                raise
            except BaseException as error:
                failure, fatal = sift(error)
        if scope.cancelled_caught:
            self.log.warning("clean-up did not end in time", seconds=timeout)
        if failure is not None:
            self.log.warning("clean-up failed", error=repr(failure), exc_info=failure)
        if fatal is not None and not isinstance(fatal, trio.Cancelled):
            self.system.fail(fatal)

    def _end(self, reason: Exit) -> None:
        self.exit = reason
        self.state = None
        self.actor = None
        self.task = None
        down = Down(self.ref, reason)
        for watcher in self._watchers or ():
            if watcher.watching is not None:
                watcher.watching.discard(self)
            watcher.deliver(down)
        self._watchers = None
        for watched in tuple(self.watching or ()):
            watched.unwatch(self)
        self.watching = None
        self.child.supervisor.child_ended(self, reason)
        self._tell_starter()
        if self._joiners is not None:
            self._joiners.set()
