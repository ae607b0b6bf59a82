"""The protocol's host side: whatever a guest sends, in whatever pieces, it is understood or refused, and bounded."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.model.errors import InvalidInput, Unavailable
from actors.vm.agent.command import CommandSpec, Errors, Exit, Output
from actors.vm.agent.conversation import (
    MAX_REQUESTS,
    Answered,
    Conversation,
    Declined,
    Event,
    Granted,
    Greeted,
    Refused,
    Said,
    Started,
)
from actors.vm.agent.statistics import Statistics
from actors.vm.agent.statistics import parse as parse_statistics
from actors.vm.agent.wire import INITIAL_CREDIT, MAX_PAYLOAD, MAX_SESSIONS, Decoder, Frame, Kind, WireError

TOKEN = bytes(range(1, 17))
HELLO_BACK = Frame(Kind.HELLO_BACK, 0, TOKEN + b"\x01\x00\x00\x00").encode()
SPEC = CommandSpec(("/bin/true",))


def greeted() -> Conversation:
    conversation = Conversation(TOKEN)
    conversation.hello()
    assert conversation.receive(HELLO_BACK) == [Greeted(1, False)]
    return conversation


def from_guest(kind: int, payload: bytes = b"", session: int = 0) -> bytes:
    return Frame(kind, session, payload).encode()


def one(data: bytes) -> Frame:
    (frame,) = Decoder().feed(data)
    return frame


def in_pieces(conversation: Conversation, stream: bytes, cuts: list[int]) -> list[Event]:
    edges = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    return [event for start, end in itertools.pairwise(edges) for event in conversation.receive(stream[start:end])]


CUTS = st.lists(st.integers(0, 4000), max_size=40)


@given(st.binary(max_size=600), CUTS, st.booleans())
def test_what_comes_before_hello_is_skipped(garbage: bytes, cuts: list[int], frozen: bool) -> None:
    conversation = Conversation(TOKEN)
    number, _ = conversation.request(Kind.PING, b"12345678")
    hello = Frame(Kind.HELLO_BACK, 0, TOKEN + b"\x01\x00" + bytes((frozen, 0))).encode()
    stream = garbage + hello + from_guest(Kind.PONG, b"12345678" + bytes(8))
    assert in_pieces(conversation, stream, cuts) == [Greeted(1, frozen), Answered(number, b"12345678" + bytes(8))]


@pytest.mark.parametrize(
    "before",
    [
        b"\x85\x00\xff\xff\x00\x00\x00\x00",  # a frame too long
        b"\x92\x00\x00\x10\x01\x00\x00\x00",  # the beginning of one that would swallow HELLO
        Frame(Kind.HELLO, 0, TOKEN + b"\x01\x00").encode(),  # our own words, echoed
        Frame(Kind.HELLO_BACK, 0, bytes(16) + b"\x01\x00\x00\x00").encode(),  # the answer to an earlier host
        Frame(Kind.HELLO_BACK, 7, TOKEN + b"\x01\x00\x00\x00").encode(),
        TOKEN,
        TOKEN[:-1],
        b"\0" * 20000,
    ],
)
def test_what_is_no_answer_to_hello_is_none(before: bytes) -> None:
    for size in (1, 7, 100_000):
        conversation = Conversation(TOKEN)
        stream = before + HELLO_BACK
        events = [event for at in range(0, len(stream), size) for event in conversation.receive(stream[at : at + size])]
        assert events == [Greeted(1, False)]


@given(st.lists(st.binary(max_size=300), max_size=50))
def test_waiting_for_hello_keeps_a_few_bytes_only(pieces: list[bytes]) -> None:
    conversation = Conversation(TOKEN)
    for piece in pieces:
        assert conversation.receive(piece) == []
        assert len(conversation._before) < 24


REPLIES = {
    Kind.PING: (b"87654321", Kind.PONG, b"87654321" + bytes(8)),
    Kind.STATISTICS: (b"", Kind.STATISTICS_BACK, b"processes=3\0"),
    Kind.STOP: (b"", Kind.OK, bytes((Kind.STOP,))),
    Kind.FREEZE: (b"", Kind.OK, bytes((Kind.FREEZE,))),
    Kind.THAW: (bytes(8), Kind.OK, bytes((Kind.THAW,))),
    Kind.ENTROPY: (b"e", Kind.OK, bytes((Kind.ENTROPY,))),
    Kind.IDENTITY: (bytes(9), Kind.OK, bytes((Kind.IDENTITY,))),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(REPLIES)), st.booleans()), max_size=MAX_REQUESTS), CUTS)
def test_answers_find_their_requests_in_order(asked: list[tuple[Kind, bool]], cuts: list[int]) -> None:
    conversation = greeted()
    stream, expected = b"", list[Event]()
    for kind, fine in asked:
        payload, answer, content = REPLIES[kind]
        number, data = conversation.request(kind, payload)
        assert one(data) == Frame(kind, 0, payload)
        if fine:
            stream += from_guest(answer, content)
            expected.append(Answered(number, content))
        else:
            stream += from_guest(Kind.ERROR, bytes((kind,)) + "nö\x1b[2J".encode())
            expected.append(Declined(number, "nö [2J"))
    assert in_pieces(conversation, stream, cuts) == expected
    assert conversation.waiting == 0


def test_requests_are_bounded() -> None:
    conversation = greeted()
    for _ in range(MAX_REQUESTS):
        conversation.request(Kind.STOP)
    with pytest.raises(Unavailable, match="wait for the guest's answer"):
        conversation.request(Kind.STOP)
    conversation.receive(from_guest(Kind.OK, bytes((Kind.STOP,))))
    conversation.request(Kind.STOP)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (None, from_guest(Kind.OK, b"\x04")),
        (None, from_guest(Kind.ERROR, b"\x04no")),
        (None, HELLO_BACK),
        (Kind.STOP, from_guest(Kind.OK, bytes((Kind.THAW,)))),
        (Kind.STOP, from_guest(Kind.OK)),
        (Kind.STOP, from_guest(Kind.PONG, bytes(16))),
        (Kind.STOP, from_guest(Kind.STATISTICS_BACK)),
        (Kind.STOP, from_guest(Kind.ERROR, bytes((Kind.THAW,)) + b"no")),
        (Kind.STOP, from_guest(Kind.ERROR)),
        (Kind.PING, from_guest(Kind.PONG, b"another!" + bytes(8))),
        (Kind.STATISTICS, from_guest(Kind.OK, bytes((Kind.STATISTICS,)))),
        (None, b"\x85\x00\x01\x40\x00\x00\x00\x00"),
    ],
)
def test_a_guest_that_answers_wrongly_is_not_believed(asked: Kind | None, answer: bytes) -> None:
    conversation = greeted()
    if asked is not None:
        conversation.request(asked, REPLIES[asked][0])
    with pytest.raises(WireError):
        conversation.receive(answer)


def test_words_that_are_not_known_are_ignored() -> None:
    conversation = greeted()
    number, _ = conversation.open(SPEC)
    assert conversation.receive(from_guest(250, b"new") + from_guest(251, b"new", number)) == []


def test_a_session_from_open_to_exit() -> None:
    conversation = greeted()
    number, data = conversation.open(CommandSpec(("sh", "-c", "x=1"), {"A": "b=c"}, "/tmp", "app", (24, 80)))
    frame = one(data)
    assert (frame.kind, frame.session) == (Kind.OPEN, number)
    assert frame.payload == (b"arg=sh\0arg=-c\0arg=x=1\0env=A=b=c\0cwd=/tmp\0user=app\0tty=1\0rows=24\0cols=80\0end=\0")
    events = conversation.receive(
        from_guest(Kind.STARTED, (9).to_bytes(4, "little"), number)
        + from_guest(Kind.OUTPUT, b"out", number)
        + from_guest(Kind.ERRORS, b"err", number)
        + from_guest(Kind.CREDIT_BACK, (5).to_bytes(4, "little"), number)
        + from_guest(Kind.EXIT, b"\x01\x0f", number)
        + from_guest(Kind.OUTPUT, b"late", number)
        + from_guest(Kind.EXIT, b"\x00\x00", number)
    )
    assert events == [
        Started(number, 9),
        Said(number, Output(b"out")),
        Said(number, Errors(b"err")),
        Granted(number),
        Said(number, Exit(signal=15)),
    ]
    assert conversation.sessions == 0
    assert conversation.close(number) == conversation.grant(number, 1) == b""
    assert conversation.allowance(number) == 0


def test_a_refused_session_is_over() -> None:
    conversation = greeted()
    number, _ = conversation.open(SPEC)
    assert conversation.receive(from_guest(Kind.REFUSED, b"no such file", number)) == [Refused(number, "no such file")]
    assert conversation.sessions == 0


def test_sessions_are_bounded_and_a_closing_one_still_counts() -> None:
    conversation = greeted()
    numbers = [conversation.open(SPEC)[0] for _ in range(MAX_SESSIONS)]
    assert len(set(numbers)) == MAX_SESSIONS
    assert one(conversation.close(numbers[0])) == Frame(Kind.CLOSE, numbers[0])
    assert conversation.close(numbers[0]) == b""
    with pytest.raises(Unavailable, match="commands run in this guest"):
        conversation.open(SPEC)
    late = from_guest(Kind.STARTED, bytes(4), numbers[0]) + from_guest(Kind.OUTPUT, b"late", numbers[0])
    assert conversation.receive(late + from_guest(Kind.EXIT, b"\x01\x01", numbers[0])) == []
    conversation.open(SPEC)


def test_session_numbers_begin_anew_and_never_meet_a_live_one() -> None:
    conversation = greeted()
    first, _ = conversation.open(SPEC)
    conversation._last_session = (1 << 32) - 1
    second, _ = conversation.open(SPEC)
    assert (first, second) == (1, 2)


@pytest.mark.parametrize(
    "frames",
    [
        [(Kind.STARTED, bytes(4)), (Kind.STARTED, bytes(4))],
        [(Kind.STARTED, b"")],
        [(Kind.CREDIT_BACK, b"\x01")],
        [(Kind.EXIT, b"\x00")],
        [(Kind.EXIT, b"\x02\x00")],
        [(Kind.OUTPUT, bytes(MAX_PAYLOAD))] * (INITIAL_CREDIT // MAX_PAYLOAD) + [(Kind.ERRORS, b"x")],
    ],
)
def test_a_session_out_of_order_ends_the_connection(frames: list[tuple[int, bytes]]) -> None:
    conversation = greeted()
    number, _ = conversation.open(SPEC)
    with pytest.raises(WireError):
        conversation.receive(b"".join(from_guest(kind, payload, number) for kind, payload in frames))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (CommandSpec(()), "command"),
        (CommandSpec(("",)), "command[0]"),
        (CommandSpec(("a", "b\0c")), "command[1]"),
        (CommandSpec(("a", "\udcff")), "command[1]"),
        (CommandSpec(("a",), {"A=": "b"}), "env"),
        (CommandSpec(("a",), {"": "b"}), "env"),
        (CommandSpec(("a",), {"A": "b\0"}), "env.A"),
        (CommandSpec(("a",), cwd=""), "cwd"),
        (CommandSpec(("a",), user="a\0"), "user"),
        (CommandSpec(("a",), terminal=(0, 80)), "rows"),
        (CommandSpec(("a",), terminal=(24, 65536)), "cols"),
        (CommandSpec(("a", "x" * MAX_PAYLOAD)), "command"),
    ],
)
def test_what_can_not_be_sent_is_named(spec: CommandSpec, field: str) -> None:
    conversation = greeted()
    with pytest.raises(InvalidInput) as refused:
        conversation.open(spec)
    assert refused.value.field == field
    assert conversation.sessions == 0


@given(st.binary(max_size=400))
def test_statistics_take_what_they_know(noise: bytes) -> None:
    known = (
        b"uptime_ms=12\0load_1m_milli=-3\0processes=\xc2\xb2\0new_name=1\0oom_kills=99999999999999999999\0app_pid=0\0"
    )
    assert parse_statistics(known) == Statistics(uptime_ms=12, app_pid=0)
    parse_statistics(noise)


@given(st.binary(max_size=2000), CUTS)
def test_any_bytes_at_all_are_understood_or_refused(noise: bytes, cuts: list[int]) -> None:
    conversation = greeted()
    number, _ = conversation.open(SPEC)
    conversation.request(Kind.PING, bytes(8))
    with contextlib.suppress(WireError):
        in_pieces(conversation, from_guest(Kind.STARTED, bytes(4), number) + noise, cuts)
    assert conversation.sessions <= 1


class Exchange(RuleBasedStateMachine):
    """A correct guest modelled beside the conversation: credits and tables agree after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.conversation = greeted()
        self.sent: dict[int, int] = {}  # by session: bytes the guest may still get, by its own books
        self.got: dict[int, int] = {}  # bytes the guest may still send
        self.closing: set[int] = set()

    def pick(self, draw: Any) -> int:
        found: int = draw.draw(st.sampled_from(sorted(self.sent)))
        return found

    @precondition(lambda self: len(self.sent) < MAX_SESSIONS)
    @rule()
    def open(self) -> None:
        number, _ = self.conversation.open(SPEC)
        assert number not in self.sent
        self.conversation.receive(from_guest(Kind.STARTED, bytes(4), number))
        self.sent[number], self.got[number] = INITIAL_CREDIT, INITIAL_CREDIT

    @precondition(lambda self: self.sent)
    @rule(draw=st.data(), size=st.integers(1, MAX_PAYLOAD))
    def send(self, draw: Any, size: int) -> None:
        number = self.pick(draw)
        allowed = self.conversation.allowance(number)
        assert allowed == (0 if number in self.closing else self.sent[number])
        if size > allowed:
            with pytest.raises(ValueError):
                self.conversation.data(number, bytes(size))
        else:
            self.conversation.data(number, bytes(size))
            self.sent[number] -= size

    @precondition(lambda self: self.sent)
    @rule(draw=st.data(), size=st.integers(0, 100_000))
    def guest_grants(self, draw: Any, size: int) -> None:
        number = self.pick(draw)
        events = self.conversation.receive(from_guest(Kind.CREDIT_BACK, size.to_bytes(4, "little"), number))
        assert events == ([] if number in self.closing else [Granted(number)])
        if number not in self.closing:
            self.sent[number] += size

    @precondition(lambda self: self.sent)
    @rule(draw=st.data(), size=st.integers(1, MAX_PAYLOAD), errors=st.booleans())
    def guest_writes(self, draw: Any, size: int, errors: bool) -> None:
        number = self.pick(draw)
        size = min(size, self.got[number])
        frame = from_guest(Kind.ERRORS if errors else Kind.OUTPUT, bytes(size), number)
        events = self.conversation.receive(frame)
        self.got[number] -= size
        silent = number in self.closing or not size
        assert events == ([] if silent else [Said(number, (Errors if errors else Output)(bytes(size)))])

    @precondition(lambda self: self.sent)
    @rule(draw=st.data(), size=st.integers(1, 100_000))
    def grant(self, draw: Any, size: int) -> None:
        number = self.pick(draw)
        if self.conversation.grant(number, size):
            self.got[number] += size
        else:
            assert number in self.closing

    @precondition(lambda self: self.sent)
    @rule(draw=st.data())
    def close(self, draw: Any) -> None:
        number = self.pick(draw)
        self.conversation.close(number)
        self.closing.add(number)

    @precondition(lambda self: self.sent)
    @rule(draw=st.data())
    def guest_ends(self, draw: Any) -> None:
        number = self.pick(draw)
        events = self.conversation.receive(from_guest(Kind.EXIT, b"\0\x03", number))
        assert events == ([] if number in self.closing else [Said(number, Exit(status=3))])
        del self.sent[number], self.got[number]
        self.closing.discard(number)

    @invariant()
    def tables_agree(self) -> None:
        assert self.conversation.sessions == len(self.sent)


TestExchange = Exchange.TestCase
