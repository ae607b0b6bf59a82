"""Runs the election of this process, and what a leader consists of for as long as it leads."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from runtime import election
from runtime.actor import Actor
from runtime.branch import branch
from runtime.effect import Effect
from runtime.errors import ActorStopped, MailboxFull
from runtime.lease import Candidate, EpochMemory, Granted, Held, LeaseStore, Term
from runtime.message import Exit, Message
from runtime.office import Office
from runtime.spec import Spec
from runtime.timers import Timer

#: Name of the one actor of this kind in a process.
NAME = "election"
#: Name of the leader's subtree.
LEADER = "leader"
#: Seconds to give the lease back; whoever waits for it finds out by itself a little later.
RESIGN_DEADLINE = 2.0
#: Seconds for all of a leader's actors to come up.
START_DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class LeaseChanged(Message):
    """A hint: the lease was taken or given back."""


@dataclass(frozen=True, slots=True)
class _Happened(Message):
    """An event for the state machine."""

    event: election.Event


@dataclass(frozen=True, slots=True)
class _Loaded(Message):
    epoch: int


@dataclass(frozen=True, slots=True)
class _NotKept(Message):
    error: Exception


@dataclass(frozen=True, slots=True)
class _Moved(Message):
    """The subtree has been started or stopped; ``error`` says why it could not be started."""

    office: Office | None
    error: Exception | None = None


class Elector(Actor):
    """``leader`` makes the children of one term; each asks the `Office` it is given before each of its effects.

    A term that ends is over for its office at once and its subtree is cancelled without waiting for anything; the next
    one's is started once that has gone. The lease is given back only after that.
    """

    def __init__(
        self,
        store: LeaseStore,
        candidate: Candidate,
        memory: EpochMemory,
        leader: Callable[[Office], Sequence[Spec]],
        *,
        ttl: float = 10.0,
        margin: float = 1.0,
    ) -> None:
        self._store = store
        self._candidate = candidate
        self._memory = memory
        self._leader = leader
        self._rules = election.Rules(candidate.boot, ttl, margin)
        self._state = election.State()
        self._loaded = False
        self._timer: Timer | None = None
        self._asking: Effect | None = None
        #: The office that shall have a subtree, the one that has, and whether that is being changed now.
        self._wanted: Office | None = None
        self._running: Office | None = None
        self._moving = False
        self._starting: trio.CancelScope | None = None
        self._resigning: Term | None = None

    async def init(self) -> None:
        """Return at once: nobody waits for an election."""
        self.ctx.effect(self._memory.load, name="load epoch", deadline=None, then=_Loaded, failed=_NotKept)

    async def receive(self, message: Message) -> None:
        """Feed the state machine."""
        match message:
            case _Happened(event):
                if isinstance(event, election.Lost) and self._state.term is None and self._state.failures == 0:
                    self.ctx.log.warning("no answer about the leader's lease", error=event.why)
                self._step(event)
            case LeaseChanged():
                if self._loaded:
                    self._step(election.Hinted())
            case _Loaded(epoch):
                self._begin(epoch)
            case _NotKept(error):
                # It matters only after a restored backup, and other hosts remember, too.
                self.ctx.log.error("the highest epoch seen is not kept on this host", error=str(error))
                if not self._loaded:
                    self._begin(0)
            case _Moved(office, error):
                self._moving, self._starting, self._running = False, None, office
                if error is not None and self._state.term is not None:
                    self._step(election.Unable(self._state.term.epoch, f"it does not start here: {error}"))
                self._move()
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    async def stopped(self, reason: Exit) -> None:  # noqa: ARG002
        """Give the lease back. The subtree is gone by now."""
        now, chance = self.ctx.env.monotonic(), self.ctx.env.random.random()
        _, effects = election.step(self._rules, self._state, election.Retire(), now, chance)
        if self._wanted is not None:
            self._wanted.end("this process ends")
        resigned = [effect.term for effect in effects if isinstance(effect, election.Resign)]
        term = resigned[0] if resigned else self._resigning
        if term is None:
            return
        try:
            with trio.fail_after(RESIGN_DEADLINE):
                await self._store.resign(term)
        except Exception as error:
            self.ctx.log.warning("lease not given back: it expires", epoch=term.epoch, error=str(error))
        else:
            self.ctx.log.info("leadership resigned", epoch=term.epoch)

    def _begin(self, epoch: int) -> None:
        self._loaded = True
        self._state = election.State(highest=epoch, due=self.ctx.env.monotonic())
        self._step(election.Tick())

    def _step(self, event: election.Event) -> None:
        env = self.ctx.env
        self._state, effects = election.step(self._rules, self._state, event, env.monotonic(), env.random.random())
        for effect in effects:
            self._carry_out(effect)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (wake := self._state.wake) is not None:
            self._timer = self.ctx.after(max(0.0, wake - env.monotonic()), _Happened(election.Tick()))

    def _carry_out(self, effect: election.Effect) -> None:
        match effect:
            case election.Acquire(number, above, within):
                acquire = functools.partial(self._store.acquire, self._candidate, ttl=self._rules.ttl, above=above)
                self._ask(number, "acquire", acquire, within)
            case election.Renew(number, term, within):
                self._ask(number, "renew", functools.partial(self._store.renew, term), within)
            case election.Lead(term, until):
                self.ctx.log.info("elected as leader", epoch=term.epoch)
                self._wanted = Office(term, until, self.ctx.env.monotonic, functools.partial(self._doubted, term))
                self._move()
            case election.Extend(_, until):
                if self._wanted is not None:
                    self._wanted.extend(until)
            case election.Leave(term, why):
                self._leave(term, why)
            case election.Resign(term):
                self._resigning = term
                self._move()
            case election.Remember(epoch):
                self.ctx.effect(self._memory.keep, epoch, name="keep epoch", deadline=None, failed=_NotKept)

    def _ask(self, number: int, name: str, work: Callable[[], Awaitable[Granted | Held | bool]], within: float) -> None:
        self._asking = self.ctx.effect(
            work,
            name=name,
            deadline=within,
            then=lambda answer: _Happened(election.Answered(number, answer)),
            failed=lambda error: _Happened(election.Lost(number, f"{type(error).__name__}: {error}")),
        )

    def _leave(self, term: Term, why: str) -> None:
        self.ctx.log.warning("leadership lost", epoch=term.epoch, reason=why)
        if self._wanted is not None:
            self._wanted.end(why)
            self._wanted = None
        if self._asking is not None:
            self._asking.cancel()
        if self._starting is not None:
            self._starting.cancel()
        self._move()

    def _doubted(self, term: Term, why: str) -> None:
        # If it does not get through, the next renewal finds out; the office is over in any case.
        with suppress(ActorStopped, MailboxFull):
            self.ctx.ref.tell(_Happened(election.Doubted(term.epoch, why)))

    def _move(self) -> None:
        """Take the next step towards the subtree that is wanted; one at a time."""
        if self._moving:
            return
        if self._running is not None and self._running is not self._wanted:
            self._moving = True
            self.ctx.effect(self._stop, name="stop leader", deadline=None, then=lambda _: _Moved(None))
        elif self._resigning is not None:
            term, self._resigning = self._resigning, None
            self.ctx.effect(
                self._store.resign,
                term,
                name="resign",
                deadline=RESIGN_DEADLINE,
                failed=lambda error: self.ctx.log.warning("lease not given back: it expires", error=str(error)),
            )
        elif self._wanted is not None and self._running is None:
            office = self._wanted
            self._moving = True
            self._starting = trio.CancelScope()
            self.ctx.effect(
                self._start,
                office,
                self._starting,
                name="start leader",
                deadline=None,
                then=lambda started: _Moved(office if started else None),
                failed=lambda error: _Moved(None, error),
            )

    async def _start(self, office: Office, scope: trio.CancelScope) -> bool:
        """Start the subtree; False when the term was over before that was done, and nothing is left of it."""
        with scope:
            try:
                await self._memory.keep(office.term().epoch)
            except OSError as error:
                self.ctx.log.error("the highest epoch seen is not kept on this host", error=str(error))
            await self.ctx.start(branch(LEADER, lambda: self._leader(office), init_timeout=START_DEADLINE))
        return not scope.cancelled_caught

    async def _stop(self) -> None:
        await self.ctx.stop_child(LEADER)


def elector(factory: Callable[[], Elector]) -> Spec:
    """Return the spec of an elector: time enough at its end for its subtree to go and the lease to be given back."""
    return Spec(NAME, factory, stop_timeout=RESIGN_DEADLINE + 6.0)
