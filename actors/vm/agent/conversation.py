"""The host's half of the guest agent's protocol over one connection, without any input or output.

Bytes from the guest go in and events come out; requests and session frames come back as bytes to send, in that order.
What a guest may make the host remember is bounded: one unfinished frame, the requests that wait for an answer, and
the sessions' numbers.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass

from actors.model.errors import Unavailable
from actors.vm.agent.command import CommandSpec, Errors, Exit, Output
from actors.vm.agent.wire import (
    INITIAL_CREDIT,
    MAX_PAYLOAD,
    MAX_SESSIONS,
    TOKEN_BYTES,
    VERSION,
    Decoder,
    Frame,
    Kind,
    WireError,
)

#: Requests of session 0 that may wait for their answer at once.
MAX_REQUESTS = 64
#: The guest's flag in HELLO: its processes are stopped.
FROZEN = 1

_U32 = struct.Struct("<I")
_GREETING = struct.Struct(f"<{TOKEN_BYTES}sHH")
_HEADER_BYTES = 8
_LARGEST_SESSION = (1 << 32) - 1
#: More credit than this is as good as none: nobody sends so much in a session at once.
_MOST_CREDIT = 1 << 40
_ANSWERS = {Kind.PING: Kind.PONG, Kind.STATISTICS: Kind.STATISTICS_BACK}


@dataclass(frozen=True, slots=True)
class Greeted:
    """The guest answered HELLO: from now on everything it says means something."""

    version: int
    frozen: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """The request ``number`` was carried out; ``payload`` is what PONG or STATISTICS brought."""

    number: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Declined:
    """The request ``number`` could not be carried out, for the guest's reason ``text``."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Started:
    """The command of ``session`` runs as process ``pid`` of the guest."""

    session: int
    pid: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The command of ``session`` was not started, for the guest's reason ``text``."""

    session: int
    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """``what`` came from the command of ``session``; an `Exit` is the last of it."""

    session: int
    what: Output | Errors | Exit


@dataclass(frozen=True, slots=True)
class Granted:
    """More data may be sent in ``session``."""

    session: int


Event = Greeted | Answered | Declined | Started | Refused | Said | Granted


@dataclass(slots=True)
class _State:
    """One session: bytes of data that either side may still send. A closing one only waits for its end."""

    mine: int = INITIAL_CREDIT
    theirs: int = INITIAL_CREDIT
    started: bool = False
    closing: bool = False


class Conversation:
    """One connection's state. ``token`` is what HELLO says, `TOKEN_BYTES` random bytes."""

    def __init__(self, token: bytes) -> None:
        if len(token) != TOKEN_BYTES:
            raise ValueError(f"a token has {TOKEN_BYTES} bytes")
        self._token = token
        self._before = bytearray()
        self._decoder: Decoder | None = None
        self._greeted = False
        self._waiting: deque[tuple[int, Kind, bytes]] = deque()
        self._numbers = 0
        self._sessions: dict[int, _State] = {}
        self._last_session = 0

    @property
    def sessions(self) -> int:
        """How many sessions the guest still has, closing ones included."""
        return len(self._sessions)

    @property
    def waiting(self) -> int:
        """How many requests wait for an answer."""
        return len(self._waiting)

    def hello(self) -> bytes:
        """Return the first frame to send."""
        return Frame(Kind.HELLO, 0, self._token + VERSION.to_bytes(2, "little")).encode()

    def request(self, kind: Kind, payload: bytes = b"") -> tuple[int, bytes]:
        """Return a new request's number and its bytes. Raises `Unavailable` when too many wait already."""
        if len(self._waiting) >= MAX_REQUESTS:
            raise Unavailable(
                f"{MAX_REQUESTS} requests wait for the guest's answer already", code="guest-busy", fix="try again later"
            )
        self._numbers += 1
        # What an answer must repeat to be the answer to this one.
        proof = payload if kind is Kind.PING else bytes((kind,))
        self._waiting.append((self._numbers, kind, proof))
        return self._numbers, Frame(kind, 0, payload).encode()

    def open(self, spec: CommandSpec) -> tuple[int, bytes]:
        """Return a new session's number and its bytes.

        Raises `InvalidInput` when ``spec`` can't be sent and `Unavailable` when the guest has all it can have.
        """
        payload = spec.encode()
        if len(self._sessions) >= MAX_SESSIONS:
            raise Unavailable(
                f"{MAX_SESSIONS} commands run in this guest by exec already",
                code="too-many-sessions",
                fix="end one of them first",
            )
        number = self._last_session
        while True:
            number = number % _LARGEST_SESSION + 1
            if number not in self._sessions:
                break
        self._last_session = number
        self._sessions[number] = _State()
        return number, Frame(Kind.OPEN, number, payload).encode()

    def allowance(self, session: int) -> int:
        """Return how many bytes of data may be sent in ``session`` now."""
        state = self._sessions.get(session)
        return 0 if state is None or state.closing else state.mine

    def data(self, session: int, data: bytes) -> bytes:
        """Return standard input as bytes to send, within `allowance`."""
        if len(data) > min(self.allowance(session), MAX_PAYLOAD):
            raise ValueError("more than was granted")
        state = self._sessions[session]
        state.mine -= len(data)
        return Frame(Kind.DATA, session, data).encode()

    def eof(self, session: int) -> bytes:
        """Return the bytes that say that standard input is over."""
        return Frame(Kind.EOF, session).encode()

    def resize(self, session: int, rows: int, cols: int) -> bytes:
        """Return the bytes that give the terminal another size."""
        return Frame(Kind.RESIZE, session, struct.pack("<HH", rows, cols)).encode()

    def signal(self, session: int, number: int) -> bytes:
        """Return the bytes that send a signal."""
        return Frame(Kind.SIGNAL, session, bytes((number,))).encode()

    def grant(self, session: int, count: int) -> bytes:
        """Return the bytes that let the guest send ``count`` more bytes; none when the session is over."""
        state = self._sessions.get(session)
        if state is None or state.closing:
            return b""
        state.theirs += count
        return Frame(Kind.CREDIT, session, _U32.pack(count)).encode()

    def close(self, session: int) -> bytes:
        """Return the bytes that end a session; none when it is over. Nothing more is heard of it."""
        state = self._sessions.get(session)
        if state is None or state.closing:
            return b""
        # It keeps its place until the guest says its end: the guest counts it as well.
        state.closing = True
        return Frame(Kind.CLOSE, session).encode()

    def receive(self, data: bytes) -> list[Event]:
        """Take the guest's next bytes; return what they mean.

        Raises `WireError` when the guest does not keep to the protocol: the connection is then of no more use.
        """
        if self._decoder is None:
            data = self._find_greeting(data)
            if not data:
                return []
            self._decoder = Decoder()
        events: list[Event] = []
        for frame in self._decoder.feed(data):
            if (event := self._take(frame)) is not None:
                events.append(event)
        return events

    def _find_greeting(self, data: bytes) -> bytes:
        """Return what came from the answer to our HELLO on, nothing until it came. What is before it means nothing."""
        self._before += data
        at = 0
        while (found := self._before.find(self._token, at)) >= 0:
            start = found - _HEADER_BYTES
            if start >= 0 and _is_greeting(self._before[start:found]):
                rest = bytes(self._before[start:])
                self._before.clear()
                return rest
            at = found + 1
        keep = _HEADER_BYTES + TOKEN_BYTES - 1
        del self._before[: max(0, len(self._before) - keep)]
        return b""

    def _take(self, frame: Frame) -> Event | None:
        if frame.session:
            return self._take_session(frame)
        if frame.kind == Kind.HELLO_BACK:
            if self._greeted:
                raise WireError("the guest said HELLO twice")
            self._greeted = True
            _, version, flags = _GREETING.unpack_from(frame.payload)
            return Greeted(version, bool(flags & FROZEN))
        if frame.kind in (Kind.PONG, Kind.STATISTICS_BACK, Kind.OK, Kind.ERROR):
            return self._take_answer(frame)
        return None  # a newer guest's word

    def _take_answer(self, frame: Frame) -> Event:
        if not self._waiting:
            raise WireError(f"the guest answered ({frame.kind}) what it was not asked")
        number, kind, proof = self._waiting.popleft()
        if frame.kind == Kind.ERROR:
            if frame.payload[:1] != bytes((kind,)):
                raise WireError(f"the guest's error is not for {kind.name}, which it was asked")
            return Declined(number, _words(frame.payload[1:]))
        fits = frame.kind == _ANSWERS.get(kind, Kind.OK)
        if frame.kind in (Kind.PONG, Kind.OK):
            fits = fits and frame.payload.startswith(proof)
        if not fits:
            raise WireError(f"the guest's answer ({frame.kind}) is not for {kind.name}, which it was asked")
        return Answered(number, frame.payload)

    def _take_session(self, frame: Frame) -> Event | None:
        number, payload = frame.session, frame.payload
        state = self._sessions.get(number)
        if state is None:
            return None  # late words of a session that is over
        if frame.kind in (Kind.EXIT, Kind.REFUSED):
            del self._sessions[number]
            if state.closing:
                return None
            if frame.kind == Kind.REFUSED:
                return Refused(number, _words(payload))
            return Said(number, _exit(payload))
        if frame.kind in (Kind.OUTPUT, Kind.ERRORS):
            return self._take_output(frame, state)
        if state.closing:
            return None
        if frame.kind == Kind.STARTED:
            if state.started:
                raise WireError("the guest started a session twice")
            state.started = True
            return Started(number, _u32(payload))
        if frame.kind == Kind.CREDIT_BACK:
            state.mine = min(state.mine + _u32(payload), _MOST_CREDIT)
            return Granted(number)
        return None

    @staticmethod
    def _take_output(frame: Frame, state: _State) -> Event | None:
        state.theirs -= len(frame.payload)
        if state.theirs < 0:
            raise WireError("the guest sent more output than it was granted")
        if state.closing or not frame.payload:
            return None
        what = Output(frame.payload) if frame.kind == Kind.OUTPUT else Errors(frame.payload)
        return Said(frame.session, what)


def _is_greeting(header: bytes | bytearray) -> bool:
    kind, zero, length, session = struct.unpack("<BBHI", header)
    return bool(kind == Kind.HELLO_BACK and not zero and _GREETING.size <= length <= MAX_PAYLOAD and not session)


def _words(payload: bytes) -> str:
    """Return a guest's words for people: one line, nothing that moves a terminal's cursor."""
    text = payload.decode("utf-8", "replace")
    return "".join(char if char.isprintable() else " " for char in text).strip()[:1000] or "no reason given"


def _u32(payload: bytes) -> int:
    if len(payload) < _U32.size:
        raise WireError("a frame of the guest is too short")
    number: int = _U32.unpack_from(payload)[0]
    return number


def _exit(payload: bytes) -> Exit:
    if len(payload) < 2 or payload[0] > 1:
        raise WireError("the guest said an end that is none")
    return Exit(signal=payload[1]) if payload[0] else Exit(status=payload[1])
