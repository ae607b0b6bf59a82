"""The protocol of one connection without any IO: bytes in, events out; calls in, bytes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from runtime.links import cbor, frames
from runtime.links.errors import (
    FrameError,
    Garbage,
    Incompatible,
    OutOfTurn,
    Oversize,
    Unsendable,
    WrongCluster,
    WrongPeer,
)
from runtime.links.frames import Hello, Identity
from runtime.links.registry import Registry, UnknownType, Unreadable, from_plain, to_plain
from runtime.message import Message, Request

#: Milliseconds that a request may have left at most; more is cut to it.
LONGEST_WAIT = 24 * 3600 * 1000
#: Requests that may be on their way at once.
MOST_PENDING = 4096


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer's hello came and is right. ``version`` is the one to speak from now on."""

    identity: Identity
    version: int
    capabilities: frozenset[str]


@dataclass(frozen=True, slots=True)
class Told:
    """A message for the actor ``to``."""

    to: str
    message: Message


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for the actor ``to``, to be answered under ``number`` within ``remaining`` seconds."""

    number: int
    to: str
    request: Request[Any]
    remaining: float


@dataclass(frozen=True, slots=True)
class NotUnderstood:
    """A message or request that this host can't take; the refusal to send is ``answer``."""

    to: str
    code: str
    detail: str
    answer: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to the request of that number, which is settled by it."""

    number: int
    value: object


@dataclass(frozen=True, slots=True)
class Declined:
    """The refusal of the request of that number, which is settled by it; of a tell when the number is 0."""

    number: int
    problem: bool
    code: str
    detail: str
    more: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Late:
    """An answer or refusal to a request that nobody waits for any more, or that never was."""

    number: int
    value: object


@dataclass(frozen=True, slots=True)
class Left:
    """The peer closes the connection."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Pinged:
    """To be answered with a pong of that number."""

    number: int


@dataclass(frozen=True, slots=True)
class Ponged:
    """The answer to a ping."""

    number: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """A frame of a kind that a later version has."""

    kind: int


Settled = Answered | Declined | Late
Event = Opened | Told | Asked | NotUnderstood | Settled | Left | Pinged | Ponged | Ignored | frames.Bulk


@dataclass(frozen=True, slots=True)
class Question:
    """A request that is encoded but for the time left, which counts from when it is sent."""

    number: int
    head: bytes

    def frame(self, remaining: float) -> bytes:
        """Return its bytes, to be sent with so many seconds left."""
        return self.head + cbor.encode(min(LONGEST_WAIT, max(0, int(remaining * 1000))))


class Connection:
    """One connection, from both hellos to its end. Numbers of requests are used once, so answers never match others.

    ``expected`` is the host that was dialled, None when any may answer. After a `FrameError` it is over.
    """

    def __init__(self, local: Hello, registry: Registry, *, expected: UUID | None = None) -> None:
        self._local = local
        self._registry = registry
        self._expected = expected
        self._numbers = 0
        self._pending: dict[int, Any] = {}
        self._over = False
        #: Who the peer is, once that is known.
        self.peer: Identity | None = None
        self.limit = frames.CONTROL_LIMIT if local.purpose == "control" else frames.BULK_LIMIT

    @property
    def pending(self) -> int:
        """How many requests wait for an answer."""
        return len(self._pending)

    # ---- what comes

    def receive(self, message: bytes) -> Iterator[Event]:
        """Yield what one message holds, which is one frame or several. Raises `FrameError`, then it is over."""
        if self._over:
            raise OutOfTurn("something came after the end")
        try:
            if len(message) > self.limit:
                raise Oversize(f"{len(message)} bytes in one message, {self.limit} are allowed")
            start, size = 0, len(message)
            while True:
                end = cbor.measure(message, start)
                yield self._event(frames.parse(cbor.decode(message if end - start == size else message[start:end])))
                if end == size:
                    return
                start = end
        except FrameError:
            self._over = True
            raise

    def _event(self, frame: frames.Frame) -> Event:
        if isinstance(frame, frames.Hello):
            return self._opened(frame)
        if self.peer is None and not isinstance(frame, frames.Goodbye):
            raise OutOfTurn(f"{type(frame).__name__.lower()} before the hello")
        if isinstance(frame, frames.Tell | frames.Ask):
            return self._addressed(frame)
        if isinstance(frame, frames.Reply | frames.Refusal):
            return self._settled(frame)
        match frame:
            case frames.Ping(number):
                return Pinged(number)
            case frames.Pong(number):
                return Ponged(number)
            case frames.Goodbye(code, detail):
                return Left(code, detail)
            case frames.Bulk():
                if self._local.purpose != "bulk":
                    raise OutOfTurn("bulk data on a control connection")
                if len(frame.data) > frames.BULK_CHUNK:
                    raise Oversize(f"{len(frame.data)} bytes in one piece, {frames.BULK_CHUNK} are allowed")
                return frame
        return Ignored(frame.kind)

    def _opened(self, hello: Hello) -> Opened:
        ours = self._local
        if self.peer is not None:
            raise OutOfTurn("a second hello")
        if hello.cluster != ours.cluster:
            raise WrongCluster(f"the peer belongs to cluster {hello.cluster}, this host to {ours.cluster}")
        version = min(hello.newest, ours.newest)
        if hello.oldest > hello.newest or version < max(hello.oldest, ours.oldest):
            raise Incompatible(
                f"the peer speaks versions {hello.oldest} to {hello.newest}, this host {ours.oldest} to {ours.newest}: "
                "update the older one"
            )
        if hello.purpose != ours.purpose:
            raise OutOfTurn(f"a connection for {hello.purpose} where {ours.purpose} is spoken")
        if hello.identity.host == ours.identity.host:
            raise WrongPeer("the peer says it is this very host")
        if self._expected is not None and hello.identity.host != self._expected:
            raise WrongPeer(f"host {self._expected} was dialled and {hello.identity.host} answered")
        self.peer = hello.identity
        return Opened(hello.identity, version, hello.capabilities)

    def _addressed(self, frame: frames.Tell | frames.Ask) -> Event:
        number = frame.number if isinstance(frame, frames.Ask) else 0
        if self._local.purpose != "control":
            raise OutOfTurn("a message on a connection for bulk data")
        if isinstance(frame, frames.Ask) and number == 0:
            raise Garbage("a request without a number")
        try:
            message = self._registry.read(frame.name, frame.version, frame.fields)
        except UnknownType as error:
            return self._not_understood(frame.to, number, "unknown-type", str(error))
        except Unreadable as error:
            return self._not_understood(frame.to, number, "unreadable", f"{frame.name}: {error}")
        if isinstance(frame, frames.Tell):
            return Told(frame.to, message)
        if not isinstance(message, Request):
            return self._not_understood(frame.to, number, "unreadable", f"{frame.name} is no request")
        return Asked(number, frame.to, message, min(frame.remaining, LONGEST_WAIT) / 1000)

    def _not_understood(self, to: str, number: int, code: str, detail: str) -> NotUnderstood:
        return NotUnderstood(to, code, detail, frames.encode(frames.Refusal(number, False, code, detail)))

    def _settled(self, frame: frames.Reply | frames.Refusal) -> Event:
        if isinstance(frame, frames.Refusal):
            if frame.number and self._pending.pop(frame.number, self) is self:
                return Late(frame.number, frame)
            return Declined(frame.number, frame.problem, frame.code, frame.detail, frame.more)
        kind = self._pending.pop(frame.number, self)
        if kind is self:
            return Late(frame.number, frame.value)
        try:
            return Answered(frame.number, from_plain(frame.value, kind))
        except Unreadable as error:
            return Declined(frame.number, False, "unreadable", f"the answer: {error}")

    # ---- what goes

    def hello(self) -> bytes:
        """Return the first frame to send."""
        return frames.encode(self._local)

    def tell(self, to: str, message: Message) -> bytes:
        """Return the frame of a message. Raises `Unsendable`."""
        wire = self._registry.of(type(message))
        return self._bounded(frames.Tell(to, wire.name, wire.version, to_plain(message)))

    def ask(self, to: str, request: Request[Any]) -> Question:
        """Return a request, which is pending from now on. Raises `Unsendable`."""
        if len(self._pending) >= MOST_PENDING:
            raise Unsendable(f"{MOST_PENDING} requests wait for answers already")
        wire = self._registry.of(type(request))
        number = self._numbers + 1
        # The time left is the last element, a number of one byte while it is 0, so that it can be put in later.
        head = self._bounded(frames.Ask(number, to, wire.name, wire.version, to_plain(request), 0))[:-1]
        self._numbers = number
        self._pending[number] = wire.answer
        return Question(number, head)

    def withdraw(self, number: int) -> None:
        """Wait no longer for an answer; one that still comes is `Late`."""
        self._pending.pop(number, None)

    def reply(self, number: int, value: object) -> bytes:
        """Return the frame of an answer. Raises `Unsendable`."""
        return self._bounded(frames.Reply(number, to_plain(value)))

    def refuse(
        self, number: int, code: str, detail: str, *, problem: bool = False, more: Mapping[str, object] | None = None
    ) -> bytes:
        """Return the frame of a refusal."""
        plain = {key: value[:1000] if isinstance(value, str) else value for key, value in (more or {}).items()}
        return self._bounded(frames.Refusal(number, problem, code, detail, plain))

    def goodbye(self, code: str, detail: str) -> bytes:
        """Return the last frame to send."""
        return frames.encode(frames.Goodbye(code, detail))

    def ping(self, number: int) -> bytes:
        """Return the frame of a ping."""
        return frames.encode(frames.Ping(number))

    def pong(self, number: int) -> bytes:
        """Return the frame of its answer."""
        return frames.encode(frames.Pong(number))

    def bulk(self, transfer: str, offset: int, data: bytes, *, last: bool) -> bytes:
        """Return the frame of a piece of at most `frames.BULK_CHUNK` bytes; raises `Unsendable` for more."""
        if len(data) > frames.BULK_CHUNK:
            raise Unsendable(f"{len(data)} bytes in one piece, {frames.BULK_CHUNK} are allowed")
        return self._bounded(frames.Bulk(transfer, offset, data, last))

    def _bounded(self, frame: frames.Frame) -> bytes:
        try:
            encoded = frames.encode(frame)
            cbor.measure(encoded)
        except (TypeError, ValueError, RecursionError, Garbage) as error:
            raise Unsendable(f"{type(frame).__name__} can't be sent: {error}") from error
        # Room for the time left, which is written when a request is sent.
        if len(encoded) + 16 > self.limit:
            raise Unsendable(f"{len(encoded)} bytes in one frame, {self.limit} are allowed")
        return encoded
