"""One connection while it stands: a reader that always reads, a writer, and pings of our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import outcome
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from runtime.dead_letters import Cause
from runtime.environment import Environment
from runtime.errors import ActorError, AskTimeout
from runtime.links import connection as events
from runtime.links import frames
from runtime.links.answers import BUSY, EXPIRED, error_of, refusal_of
from runtime.links.connection import Connection, Opened
from runtime.links.errors import FrameError, Garbage, OutOfTurn, QueueFull, Unreachable, WrongPeer
from runtime.links.frames import Identity, Purpose
from runtime.links.outbox import Outbox
from runtime.links.registry import Registry
from runtime.links.rules import Rules
from runtime.links.transport import Proof
from runtime.message import Message, Request

#: Frames handled before other tasks get a turn.
BATCH = 64
#: Seconds before the end of the peer's certificate from which on nothing new goes over a connection.
RENEWAL = 30.0
#: Ends in order, before which everything in work was waited for: what has no answer then was never begun.
PARTED = frozenset({"renewal", "duplicate", "unused"})
#: The end of one that was retired and had work for too long.
LINGERED = "lingered"
#: Close codes of the websocket that say more than that the connection is gone.
_CLOSED = {1009: ("oversize", "a message was larger than is allowed"), 1002: ("garbage", "no websocket frames")}


@dataclass(frozen=True, slots=True)
class End:
    """Why a connection ended: ``code`` for programs, ``detail`` for people. ``theirs``: the peer said so."""

    code: str
    detail: str
    theirs: bool = False

    def __str__(self) -> str:
        return f"{self.detail} ({self.code}{', said the peer' if self.theirs else ''})"


class Left(Exception):
    """The peer took its leave instead of greeting."""

    def __init__(self, end: End) -> None:
        super().__init__(str(end))
        self.end = end


class Receiver(Protocol):
    """Who takes what peers say."""

    def tell(self, peer: Identity, to: str, message: Message) -> None:
        """Deliver; raises the runtime's errors."""

    async def ask(self, peer: Identity, to: str, request: Request[Any], *, timeout: float) -> object:
        """Return the answer; raises as ``Ref.ask`` does."""

    async def bulk(self, peer: Identity, piece: frames.Bulk) -> None:
        """Take a piece; waiting makes the sender wait."""

    def lost(self, to: str, cause: Cause, what: object) -> None:
        """Note what could not be delivered."""


class _Waiter:
    """Somebody who waits for the answer to one request on one connection."""

    __slots__ = ("_task", "name", "request", "sent", "timeout")

    def __init__(self, name: str, request: str, timeout: float) -> None:
        self.name, self.request, self.timeout = name, request, timeout
        #: Whether the request may have reached the peer.
        self.sent = False
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> Any:
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def settle(self, result: outcome.Outcome[Any]) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task, result)
            self._task = None


class Session:
    """A connection whose websocket stands. First `greet`, then `run`, which returns why it ended."""

    def __init__(
        self,
        env: Environment,
        socket: WebSocketConnection,
        connection: Connection,
        registry: Registry,
        receiver: Receiver,
        rules: Rules,
        *,
        purpose: Purpose,
        dialled: bool,
        proof: Proof | None,
    ) -> None:
        self._env = env
        self._socket = socket
        self._connection = connection
        self._registry = registry
        self._receiver = receiver
        self._rules = rules
        self.purpose = purpose
        #: Whether this host made the connection.
        self.dialled = dialled
        self.proof = proof
        self.peer = Identity(UUID(int=0), 0)
        self.version = 0
        self.capabilities: frozenset[str] = frozenset()
        #: Seconds that the latest ping took.
        self.round_trip: float | None = None
        self.since = env.monotonic()
        self.received = 0
        self._outbox = Outbox("link", env.monotonic, connection.limit, self._was_sent)
        self._waiting: dict[int, _Waiter] = {}
        self._in_work = 0
        self._first: list[events.Event] = []
        self._end: End | None = None
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._retired_at: float | None = None
        self._writing = False
        self._retired: End | None = None
        self._ping = 0
        self._pinged_at: float | None = None
        self._used = trio.current_time()

    # ---- greeting

    async def greet(self, may: Callable[[Identity], None] | None = None) -> Opened:
        """Say hello and hear the peer's; the caller sets the deadline. Raises `FrameError`, `Left`, or the socket's.

        Whoever has dialled speaks first. The other side answers once it has seen that all is right, ``may`` included,
        so that a hello is also the word that one was accepted.
        """
        if self.dialled:
            await self._socket.send_message(self._connection.hello())
        opened, *self._first = self._connection.receive(self._bytes(await self._socket.get_message()))
        if isinstance(opened, events.Left):
            raise Left(End(opened.code, opened.detail, theirs=True))
        assert isinstance(opened, Opened)
        if self.proof is not None and self.proof.host != opened.identity.host:
            raise WrongPeer(f"says it is host {opened.identity.host}, its certificate says {self.proof.host}")
        if may is not None:
            may(opened.identity)
        if not self.dialled:
            await self._socket.send_message(self._connection.hello())
        self.peer, self.version, self.capabilities = opened.identity, opened.version, opened.capabilities
        return opened

    async def dismiss(self, code: str, detail: str) -> None:
        """Take leave without ever having run; bounded by ``Rules.parting``."""
        self._end = self._end or End(code, detail)
        await self._part()

    # ---- running

    @property
    def open(self) -> bool:
        """Whether messages can be queued."""
        return self._end is None and self._retired is None

    @property
    def parted(self) -> bool:
        """Whether the peer ended it in order: what had no answer by then was not carried out, and never will be."""
        return self._end is not None and self._end.theirs and self._end.code in PARTED

    async def run(self) -> End:
        """Carry messages until it ends. Raises nothing but ``Cancelled`` and faults of our own."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
                    await self._read()
        finally:
            end = self._end = self._end or End("stopping", "this host closes the link")
            self._outbox.close()
            for waiter in tuple(self._waiting.values()):
                self._fail(waiter, end)
            await self._part()
        return end

    def close(self, code: str, detail: str, *, theirs: bool = False) -> None:
        """End it now, with a goodbye. The first reason counts."""
        if self._end is None:
            self._end = End(code, detail, theirs)
            self._scope.cancel()

    def retire(self, code: str, detail: str) -> None:
        """Take nothing new, and end it once what is asked has been answered or ``Rules.lingering`` has passed."""
        if self._retired is None:
            self._retired, self._retired_at = End(code, detail), trio.current_time()

    async def _part(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._rules.parting):
            end = self._end
            try:
                if end is not None and not end.theirs and end.code not in ("lost", "silent"):
                    await self._socket.send_message(self._connection.goodbye(end.code, end.detail))
                await self._socket.aclose(1000, None)
            except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def _read(self) -> None:
        allowance, at = self._rules.frames_per_second, trio.current_time()
        try:
            for event in self._first:
                await self._handle(event)
            while True:
                message = self._bytes(await self._socket.get_message())
                count = 0
                for event in self._connection.receive(message):
                    await self._handle(event)
                    count += 1
                    if count % BATCH == 0:
                        await trio.lowlevel.checkpoint()
                self.received += count
                now = trio.current_time()
                rate = self._rules.frames_per_second
                allowance, at = min(rate, allowance + (now - at) * rate) - count, now
                if allowance < 0:
                    # What it sends too fast waits in its own socket; only its own pongs are late by that.
                    await trio.sleep(-allowance / rate)
        except FrameError as error:
            self.close(error.code, str(error))
        except ConnectionClosed as closed:
            self._lost(closed)

    def _bytes(self, message: str | bytes) -> bytes:
        if isinstance(message, str):
            raise Garbage("text where frames are bytes")
        return message

    def _lost(self, closed: ConnectionClosed) -> None:
        code = closed.reason.code if closed.reason is not None else 0
        self.close(*_CLOSED.get(code, ("lost", "the connection broke")))

    async def _write(self) -> None:
        try:
            while message := await self._outbox.take():
                self._writing = True
                await self._socket.send_message(message)
                self._writing = False
        except ConnectionClosed as closed:
            self._lost(closed)

    async def _watch(self) -> None:
        """Ping, and end what is silent, replaced or no longer certified."""
        every = min(self._rules.ping_every, self._rules.silence / 4)
        due = trio.current_time()
        while True:
            now = trio.current_time()
            if self._pinged_at is not None:
                # While this host itself stood still it heard nobody: what came then is yet to be read.
                self._pinged_at += now - due
            if self._pinged_at is None:
                self._ping += 1
                self._pinged_at = now
                self._outbox.put_urgent("ping", self._connection.ping(self._ping))
            elif now - self._pinged_at >= self._rules.silence:
                self.close("silent", f"no answer to a ping for {self._rules.silence:g} s")
            if self.proof is not None and (left := self.proof.until - self._env.now()) < RENEWAL:
                # The peer has another one by now, if all is well, and shows it on the next connection.
                self.retire("renewal", "the peer's certificate ends soon")
                if left <= 0:
                    self.close("untrusted", "the peer's certificate has expired")
            if self.purpose == "bulk" and self.dialled and now - self._used > self._rules.bulk:
                self.close("unused", "no bulk data for a while")
            if self._retired is not None and self._retired_at is not None:
                idle = not (self._waiting or self._in_work or self._outbox.size or self._writing)
                if idle:
                    self.close(self._retired.code, self._retired.detail)
                elif now - self._retired_at >= self._rules.lingering:
                    self.close(LINGERED, f"{self._retired.detail}, and {self._in_work} requests are still in work")
            due = trio.current_time() + every
            await trio.sleep_until(due)

    # ---- what comes

    async def _handle(self, event: events.Event) -> None:
        match event:
            case events.Told(to, message):
                try:
                    self._receiver.tell(self.peer, to, message)
                except ActorError as error:
                    _, code, detail, more = refusal_of(error)
                    self._send_back(to, self._connection.refuse(0, code, detail, more=more))
            case events.Asked():
                self._asked(event)
            case events.Answered(number, value):
                if (waiter := self._waiting.pop(number, None)) is not None:
                    waiter.settle(outcome.Value(value))
            case events.Declined(number):
                if (waiter := self._waiting.pop(number, None)) is not None:
                    waiter.settle(outcome.Error(error_of(event, waiter.name, waiter.request, waiter.timeout)))
                elif number == 0:
                    self._receiver.lost(f"{self.peer.host}", "stopped", event)
            case events.Late():
                self._receiver.lost(f"{self.peer.host}", "late", event.value)
            case events.NotUnderstood(to, code, _, answer):
                self._receiver.lost(to, "stopped", event)
                self._send_back(to, answer)
            case events.Pinged(number):
                self._outbox.put_urgent("pong", self._connection.pong(number))
            case events.Ponged(number):
                if number == self._ping and self._pinged_at is not None:
                    self.round_trip = trio.current_time() - self._pinged_at
                    self._pinged_at = None
            case events.Left(code, detail):
                self.close(code, detail, theirs=True)
            case frames.Bulk():
                with trio.move_on_after(self._rules.bulk) as scope:
                    await self._receiver.bulk(self.peer, event)
                if scope.cancelled_caught:
                    raise OutOfTurn(f"a piece of {event.transfer} was not taken within {self._rules.bulk:g} s")
            case _:
                pass

    def _asked(self, asked: events.Asked) -> None:
        if self._end is not None:
            return  # The goodbye promises that nothing is carried out any more.
        if asked.remaining <= 0:
            self._receiver.lost(asked.to, "expired", asked.request)
            self._send_back(asked.to, self._connection.refuse(asked.number, EXPIRED, "no time was left"))
        elif self._in_work >= self._rules.in_work:
            detail = f"{self._rules.in_work} requests of this peer are in work"
            self._send_back(asked.to, self._connection.refuse(asked.number, BUSY, detail))
        elif self._nursery is not None:
            self._in_work += 1
            self._nursery.start_soon(self._answer, asked)

    async def _answer(self, asked: events.Asked) -> None:
        try:
            value = await self._receiver.ask(self.peer, asked.to, asked.request, timeout=asked.remaining)
            frame = self._connection.reply(asked.number, value)
        except AskTimeout:
            return  # Its asker, whose time began to run earlier, has given up.
        except Exception as error:
            problem, code, detail, more = refusal_of(error)
            frame = self._connection.refuse(asked.number, code, detail, problem=problem, more=more)
        finally:
            self._in_work -= 1
        self._send_back(asked.to, frame)

    def _send_back(self, to: str, frame: bytes) -> None:
        try:
            self._outbox.put("control", frame)
        except QueueFull:
            self._receiver.lost(to, "full", frame)

    # ---- what goes

    def tell(self, to: str, message: Message) -> None:
        """Queue a message. Raises `Unsendable`, `QueueFull` or `Unreachable`."""
        self._check_open()
        self._outbox.put(self._registry.of(type(message)).lane, self._connection.tell(to, message))

    async def ask(self, to: str, request: Request[Any], *, timeout: float, name: str) -> Any:
        """Return the answer of the actor ``to``, called ``name`` in errors; raises as ``RemoteRef.ask`` says."""
        self._check_open()
        lane = self._registry.of(type(request)).lane
        question = self._connection.ask(to, request)
        waiter = _Waiter(name, type(request).__name__, timeout)
        try:
            self._outbox.ask(lane, question, self._env.monotonic() + timeout)
            self._waiting[question.number] = waiter
            with trio.move_on_after(timeout):
                return await waiter.wait()
            raise AskTimeout(name, waiter.request, timeout)
        finally:
            self._waiting.pop(question.number, None)
            self._connection.withdraw(question.number)

    async def send_bulk(self, transfer: str, offset: int, data: bytes, *, last: bool) -> None:
        """Queue a piece once there is room. Raises `Unreachable`, or `Unsendable` for large pieces."""
        frame = self._connection.bulk(transfer, offset, data, last=last)
        self._used = trio.current_time()
        await self._outbox.room()
        self._check_open()
        self._outbox.put("control", frame)

    async def room(self) -> None:
        """Wait until not much is queued."""
        await self._outbox.room()

    def _check_open(self) -> None:
        if not self.open:
            raise Unreachable(str(self.peer.host), str(self._end or self._retired), sent=False)

    def _was_sent(self, number: int) -> None:
        if (waiter := self._waiting.get(number)) is not None:
            waiter.sent = True

    def _fail(self, waiter: _Waiter, end: End) -> None:
        sent = waiter.sent and not self.parted
        waiter.settle(outcome.Error(Unreachable(str(self.peer.host), str(end), sent=sent)))
