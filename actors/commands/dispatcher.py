"""Tells hosts what Postgres wants of them, until it shows that they have done it. Runs under the leader."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

import trio

from actors.commands import dispatch
from actors.commands.counts import Counts
from actors.commands.dispatch import State, backoff, step
from actors.commands.messages import DISPATCHER, Command, Dispatch, Taken
from actors.commands.store import CommandStore, Note, Order
from actors.model.errors import Problem
from runtime import Actor, ActorError, AskTimeout, Exit, Message, Ref, RequestFailed, Spec, Timer
from runtime.lease import Fenced, NotLeading
from runtime.links.errors import Expired, Refused
from runtime.office import Office

#: Seconds between looks that nobody asked for, and that a look, a command and the writing of steps may take.
SLOW_TIMER = 15.0
LOOK_DEADLINE, COMMAND_DEADLINE, WRITE_DEADLINE = 10.0, 5.0, 10.0
#: Seconds that a leader which goes out of office takes to write steps: its successor waits for that.
LAST_WRITE_DEADLINE = 1.0
#: Seconds between looks at least that time asks for, and the longest pause after one when hints come fast.
SHORTEST_WAIT, LONGEST_PAUSE = 0.5, 2.0
#: A pause is so many times as long as its look took: looking takes a fifth of the time at most.
PAUSE_PER_LOOK = 4.0
#: First and largest wait in seconds after the store could not be asked or told.
BACKOFF_FIRST, BACKOFF_MAX = 0.5, 15.0
#: Orders in one look.
MOST_ORDERS = 5000
#: Steps wait so many seconds for others, so many are written at once, and so many are kept at most.
GATHER, WRITE_AT_ONCE, MOST_NOTES = 0.2, 500, 10_000

#: Return a ref to the actor that takes commands on a host; None, of every host, while this one has no links to others.
Reach = Callable[[UUID], Ref | None]


@dataclass(frozen=True, slots=True)
class _Looked(Message):
    orders: tuple[Order, ...]


@dataclass(frozen=True, slots=True)
class _LookFailed(Message):
    error: Exception


@dataclass(frozen=True, slots=True)
class _Rested(Message):
    """The time between two looks is over."""


@dataclass(frozen=True, slots=True)
class _Answered(Message):
    number: int
    placement_id: UUID
    answer: object


@dataclass(frozen=True, slots=True)
class _Failed(Message):
    number: int
    placement_id: UUID
    error: Exception


@dataclass(frozen=True, slots=True)
class _Write(Message):
    """It is time to write the steps that have come."""


@dataclass(frozen=True, slots=True)
class _Written(Message):
    """Steps have been written."""


@dataclass(frozen=True, slots=True)
class _WriteFailed(Message):
    error: Exception


class Dispatcher(Actor):
    """One look at a time; every command that is sent, again or not, follows from one.

    ``own`` is the leader's host, which Postgres itself wakes. Everything ends with the term of ``office``. ``counts``
    is given by whoever shows them.
    """

    def __init__(
        self, store: CommandStore, office: Office, own: UUID, reach: Reach, counts: Counts | None = None
    ) -> None:
        self._store = store
        self._office = office
        self._own = own
        self._reach = reach
        self.counts = counts if counts is not None else Counts()
        self._state = State(0)
        self._busy = False
        self._again = False
        self._began = 0.0
        self._failures = 0
        self._timer: Timer | None = None
        self._notes: deque[Note] = deque()
        self._writing: tuple[Note, ...] = ()
        self._write_failures = 0
        self._left_out = 0

    async def init(self) -> None:
        """Look at once, then on hints and on a slow timer."""
        try:
            self._state = State(self._office.term().epoch)
        except NotLeading:
            # It is over before it began: nothing is looked for in it, and nothing sent.
            self.ctx.log.info("the term is over")
        self.ctx.every(SLOW_TIMER, Dispatch())
        self.ctx.ref.tell(Dispatch("start"))

    async def receive(self, message: Message) -> None:
        """Look, send, and take note of what comes of it."""
        match message:
            case Dispatch():
                self._request()
            case _Looked(orders=orders):
                self._looked(orders)
            case _LookFailed(error=error):
                self._look_failed(error)
            case _Rested():
                self._busy = False
                if self._again:
                    self._request()
                else:
                    self._set_timer()
            case _Answered(number=number, placement_id=placement_id, answer=answer):
                self._answered(number, placement_id, answer)
            case _Failed(number=number, placement_id=placement_id, error=error):
                self._failed(number, placement_id, error)
            case _Write():
                self._write()
            case _Written():
                self._writing, self._write_failures = (), 0
                self._write()
            case _WriteFailed(error=error):
                self._write_failed(error)
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    async def stopped(self, reason: Exit) -> None:  # noqa: ARG002
        """What is outstanding is another leader's to know. Steps that wait are written while this one may."""
        self.counts.outstanding = 0
        notes = (*self._writing, *self._notes)
        begin = 0
        try:
            with trio.fail_after(LAST_WRITE_DEADLINE):
                for begin in range(0, len(notes), WRITE_AT_ONCE):
                    await self._store.record(notes[begin : begin + WRITE_AT_ONCE], self._office.term())
        except (trio.TooSlowError, Problem, Fenced, NotLeading) as error:
            # Its successor writes what it finds, and what it does about it.
            self.ctx.log.warning("steps of commands are not written", steps=len(notes) - begin, error=str(error))

    # --- looking

    def _request(self) -> None:
        if self._reach(self._own) is None:
            return  # whoever has no links tells nobody anything, and what they would be told is not asked for
        if self._busy:
            self._again = True
            return
        self._busy, self._again = True, False
        self._began = self.ctx.env.monotonic()
        self.ctx.effect(self._look, name="look", deadline=LOOK_DEADLINE, then=_Looked, failed=_LookFailed)

    async def _look(self) -> tuple[Order, ...]:
        try:
            return await self._store.outstanding(self._own, self._office.term(), MOST_ORDERS)
        except Fenced as fenced:
            self._office.doubt(str(fenced))
            raise

    def _looked(self, orders: tuple[Order, ...]) -> None:
        self._failures = 0
        self._step(dispatch.Looked(self._reachable(orders)))
        took = self.ctx.env.monotonic() - self._began
        self.ctx.after(min(LONGEST_PAUSE, PAUSE_PER_LOOK * took), _Rested())

    def _reachable(self, orders: tuple[Order, ...]) -> tuple[Order, ...]:
        """Let those wait that are for hosts to which nothing leads from here."""
        reach = {node_id: self._reach(node_id) is not None for node_id in {order.node_id for order in orders}}
        return tuple(order if reach[order.node_id] else replace(order, away=True) for order in orders)

    def _look_failed(self, error: Exception) -> None:
        self._busy = self._again = False
        self._failures += 1
        wait = backoff(BACKOFF_FIRST, BACKOFF_MAX, self._failures, self.ctx.env.random.random())
        self.ctx.log.warning("hosts are told nothing", error=str(error), retry_in=round(wait, 2))
        self._in(wait)

    def _set_timer(self) -> None:
        """Look again when something is to be sent again."""
        wake = self._state.wake()
        if wake is not None and not self._busy:
            self._in(max(SHORTEST_WAIT, wake - self.ctx.env.monotonic()))

    def _in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.ctx.after(seconds, Dispatch("again"))

    # --- sending

    def _step(self, event: dispatch.Event) -> None:
        env = self.ctx.env
        self._state, effects = step(self._state, event, env.monotonic(), env.random.random())
        self.counts.outstanding = len(self._state.entries)
        for effect in effects:
            match effect:
                case dispatch.Send(number, order):
                    self._send(number, order)
                case dispatch.Write(note):
                    self._note(note)
                case dispatch.Wrong(order, answer):
                    self.counts.wrong += 1
                    self.ctx.log.error(
                        "an answer that does not belong to its command",
                        host=str(order.node_id),
                        placement=str(order.placement_id),
                        answer=repr(answer)[:300],
                    )
        self._set_timer()

    def _send(self, number: int, order: Order) -> None:
        self.counts.sent += 1
        self.ctx.effect(
            partial(self._tell_host, order),
            name=f"{order.kind} {order.placement_id}",
            # Longer than what it waits for: that says more when it fails.
            deadline=COMMAND_DEADLINE + 1,
            then=partial(_Answered, number, order.placement_id),
            failed=partial(_Failed, number, order.placement_id),
        )

    def _answered(self, number: int, placement_id: UUID, answer: object) -> None:
        wrong = self.counts.wrong
        self._step(dispatch.Answered(number, placement_id, answer))
        if isinstance(answer, Taken) and answer.superseded:
            self.counts.refused += 1
        elif self.counts.wrong == wrong:
            self.counts.taken += 1

    def _failed(self, number: int, placement_id: UUID, error: Exception) -> None:
        unreachable = is_unreachable(error)
        if unreachable:
            self.counts.unreachable += 1
        else:
            self.counts.refused += 1
        self._step(dispatch.Failed(number, placement_id, str(error), unreachable))

    async def _tell_host(self, order: Order) -> Taken:
        epoch = self._office.term().epoch
        ref = self._reach(order.node_id)
        if ref is None:
            raise NoLinks("this host has no links to others")
        command = Command(
            kind=order.kind,
            instance_id=order.instance_id,
            placement_id=order.placement_id,
            node_id=order.node_id,
            generation=order.generation,
            epoch=epoch,
            deadline=COMMAND_DEADLINE,
            force=order.force,
            stop_timeout=order.stop_timeout,
        )
        return await ref.ask(command, timeout=COMMAND_DEADLINE)

    # --- telling of it

    def _note(self, note: Note) -> None:
        if len(self._notes) >= MOST_NOTES:
            if not self._left_out:  # there are as many to come as there are commands
                self.ctx.log.warning("steps of commands are not written: too many wait", step=note.step)
            self._left_out += 1
            return
        if self._left_out:
            self.ctx.log.warning("steps of commands are written again", left_out=self._left_out)
            self._left_out = 0
        if not self._notes and not self._writing:
            self.ctx.after(GATHER, _Write())
        self._notes.append(note)

    def _write(self) -> None:
        if self._writing or not self._notes:
            return
        notes = tuple(self._notes.popleft() for _ in range(min(WRITE_AT_ONCE, len(self._notes))))
        self._writing = notes
        self.ctx.effect(
            partial(self._record, notes),
            name="write steps",
            deadline=WRITE_DEADLINE,
            then=lambda _: _Written(),
            failed=_WriteFailed,
        )

    async def _record(self, notes: Sequence[Note]) -> None:
        try:
            await self._store.record(notes, self._office.term())
        except Fenced as fenced:
            self._office.doubt(str(fenced))
            raise

    def _write_failed(self, error: Exception) -> None:
        self._notes.extendleft(reversed(self._writing))
        self._writing = ()
        self._write_failures += 1
        if isinstance(error, Fenced | NotLeading):
            return  # the term is over, and this actor with it
        wait = backoff(BACKOFF_FIRST, BACKOFF_MAX, self._write_failures, self.ctx.env.random.random())
        self.ctx.log.warning("steps of commands are not written", error=str(error), retry_in=round(wait, 2))
        self.ctx.after(wait, _Write())


class NoLinks(ActorError):
    """This host is linked with no other, so that no command can leave it."""


def is_unreachable(error: Exception) -> bool:
    """Return whether a host gave no answer; what it refused or failed to do is one."""
    if isinstance(error, Problem | RequestFailed | Refused | Expired):
        return False
    return isinstance(error, ActorError | AskTimeout)


def dispatcher(store: CommandStore, office: Office, own: UUID, reach: Reach, counts: Counts | None = None) -> Spec:
    """Return the spec of a leader's dispatcher."""
    return Spec(DISPATCHER, lambda: Dispatcher(store, office, own, reach, counts))
