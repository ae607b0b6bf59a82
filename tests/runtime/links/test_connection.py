"""The protocol of links without IO: what is said arrives, and nothing else gets through."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any
from uuid import UUID

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import Message, Request
from runtime.links import cbor, frames
from runtime.links import connection as c
from runtime.links import errors as e
from runtime.links.connection import Connection
from runtime.links.registry import Registry
from tests.runtime.links.messages import (
    HIGH,
    LOW,
    THIRD,
    Describe,
    Double,
    Note,
    Part,
    Unlisted,
    hello,
    registry,
)


def pair(**more: Any) -> tuple[Connection, Connection]:
    """Two ends that have greeted each other."""
    one, other = Connection(hello(LOW, **more), registry()), Connection(hello(HIGH, **more), registry())
    list(one.receive(other.hello()))
    list(other.receive(one.hello()))
    return one, other


def only(events: Any) -> Any:
    (event,) = events
    return event


# ---- what is said arrives


def test_hello_says_who_the_peer_is_and_which_version_is_spoken() -> None:
    one = Connection(hello(LOW, oldest=3, newest=4), registry())
    other = Connection(hello(HIGH, 7, oldest=2, newest=3, capabilities=frozenset({"bulk"})), registry())
    assert only(one.receive(other.hello())) == c.Opened(frames.Identity(HIGH, 7), 3, frozenset({"bulk"}))
    assert only(other.receive(one.hello())).version == 3


parts = st.builds(Part, st.text(max_size=20), st.lists(st.integers(-(2**63), 2**64 - 1), max_size=5).map(tuple))
notes = st.builds(
    Note,
    st.text(max_size=200),
    st.none() | st.integers(0, 2**128 - 1).map(IPv6Address),
    st.none() | st.uuids(),
    st.lists(parts, max_size=5).map(tuple),
    st.binary(max_size=500),
)


@given(notes)
def test_messages_arrive_as_they_were(note: Note) -> None:
    one, other = pair()
    assert only(other.receive(one.tell("scheduler", note))) == c.Told("scheduler", note)


@given(st.lists(st.tuples(st.integers(-1000, 1000), st.booleans()), max_size=20), st.randoms())
def test_answers_find_their_requests_in_any_order(requests: list[tuple[int, bool]], random: Any) -> None:
    one, other = pair()
    asked = {}
    for number, _ in requests:
        question = one.ask("x", Double(number))
        asked[question.number] = (number, only(other.receive(question.frame(2.5))))
    assert len(asked) == len(requests) == one.pending
    answers = [(event, request) for request, event in asked.values()]
    random.shuffle(answers)
    for event, number in answers:
        assert event.remaining == 2.5
        answered = only(one.receive(other.reply(event.number, number * 2)))
        assert asked[answered.number][0] * 2 == answered.value
        assert isinstance(only(one.receive(other.reply(event.number, 0))), c.Late)
    assert one.pending == 0


def test_several_frames_come_in_one_message() -> None:
    one, other = pair()
    batch = one.tell("a", Note("1")) + one.ping(7) + one.ask("b", Double(3)).frame(1.0) + one.tell("c", Note("2"))
    kinds = [type(event) for event in other.receive(batch)]
    assert kinds == [c.Told, c.Pinged, c.Asked, c.Told]


def test_a_withdrawn_request_is_answered_late() -> None:
    one, other = pair()
    question = one.ask("x", Double(1))
    one.withdraw(question.number)
    assert only(one.receive(other.reply(question.number, 2))) == c.Late(question.number, 2)
    assert isinstance(only(one.receive(other.refuse(question.number, "full", ""))), c.Late)


def test_an_answer_of_another_kind_is_refused() -> None:
    one, other = pair()
    question = one.ask("x", Describe("n"))
    event = only(one.receive(other.reply(question.number, "no part")))
    assert (event.number, event.code, one.pending) == (question.number, "unreadable", 0)
    question = one.ask("x", Describe("n"))
    assert only(one.receive(other.reply(question.number, Part("n", (1, 2))))).value == Part("n", (1, 2))


def test_the_time_left_is_bounded() -> None:
    one, other = pair()
    assert only(other.receive(one.ask("x", Double(1)).frame(-3.0))).remaining == 0
    assert only(other.receive(one.ask("x", Double(1)).frame(1e12))).remaining == 24 * 3600


# ---- versions


@dataclass(frozen=True, slots=True)
class Grown(Message):
    text: str
    later: int = 3


@dataclass(frozen=True, slots=True)
class Small(Message):
    text: str


def test_fields_of_a_later_version_are_ignored_and_missing_ones_have_defaults() -> None:
    old, new = Registry(), Registry()
    old.add(Small, "m")
    new.add(Grown, "m")
    one, other = Connection(hello(LOW), old), Connection(hello(HIGH), new)
    list(one.receive(other.hello()))
    list(other.receive(one.hello()))
    assert only(one.receive(other.tell("a", Grown("x", 9)))).message == Small("x")
    assert only(other.receive(one.tell("a", Small("x")))).message == Grown("x", 3)


def test_an_unknown_type_is_answered_with_a_refusal_and_the_link_goes_on() -> None:
    more = registry()
    more.add(Small, "test.small")
    more.add(Grown, "test.note", version=2)
    one, other = Connection(hello(LOW), more), Connection(hello(HIGH), registry())
    list(one.receive(other.hello()))
    list(other.receive(one.hello()))
    event = only(other.receive(one.tell("a", Small("x"))))
    assert (event.code, event.to) == ("unknown-type", "a")
    assert only(one.receive(event.answer)) == c.Declined(0, False, "unknown-type", "'test.small' version 1")
    event = only(other.receive(one.tell("a", Grown("x"))))
    assert event.detail == "'test.note' version 2, versions [1] are known"
    assert only(other.receive(one.tell("a", Note("still here")))).message == Note("still here")


def test_unreadable_fields_are_refused_and_the_link_goes_on() -> None:
    _one, other = pair()
    ask = frames.encode(frames.Ask(1, "a", "test.double", 1, {"number": "three"}, 100))
    event = only(other.receive(ask))
    assert event.code == "unreadable"
    assert "number" in event.detail
    event = only(other.receive(frames.encode(frames.Ask(2, "a", "test.note", 1, {}, 100))))
    assert event.detail == "test.note is no request"


def test_unknown_kinds_of_frames_and_longer_frames_are_ignored() -> None:
    one, _ = pair()
    assert only(one.receive(cbor2.dumps([99, "news"]))) == c.Ignored(99)
    assert only(one.receive(cbor2.dumps([frames.PING, 4, "more"]))) == c.Pinged(4)


# ---- who may talk


@pytest.mark.parametrize(
    ("theirs", "error"),
    [
        (hello(HIGH, cluster=UUID(int=9)), e.WrongCluster),
        (hello(HIGH, oldest=3, newest=4), e.Incompatible),
        (hello(HIGH, oldest=0, newest=0), e.Incompatible),
        (hello(HIGH, oldest=5, newest=1), e.Incompatible),
        (hello(LOW), e.WrongPeer),
        (hello(THIRD), e.WrongPeer),
        (hello(HIGH, purpose="bulk"), e.OutOfTurn),
    ],
)
def test_a_wrong_hello_ends_it(theirs: frames.Hello, error: type[Exception]) -> None:
    one = Connection(hello(LOW, oldest=1, newest=2), registry(), expected=HIGH)
    with pytest.raises(error):
        list(one.receive(Connection(theirs, registry()).hello()))
    with pytest.raises(e.OutOfTurn):
        list(one.receive(Connection(hello(HIGH), registry()).hello()))


def test_nothing_comes_before_the_hello_or_twice() -> None:
    other = Connection(hello(HIGH), registry())
    for early in (other.ping(1), other.tell("a", Note()), other.reply(1, 2)):
        with pytest.raises(e.OutOfTurn):
            list(Connection(hello(LOW), registry()).receive(early))
    one, other = pair()
    with pytest.raises(e.OutOfTurn):
        list(one.receive(other.hello()))


def test_each_connection_has_its_purpose() -> None:
    control, bulk = pair(), pair(purpose="bulk")
    piece = bulk[0].bulk("t", 0, b"x" * frames.BULK_CHUNK, last=True)
    assert only(bulk[1].receive(piece)).data == b"x" * frames.BULK_CHUNK
    small = bulk[0].bulk("t", 0, b"x", last=True)
    with pytest.raises(e.OutOfTurn):
        list(control[0].receive(small))
    with pytest.raises(e.OutOfTurn):
        list(bulk[0].receive(control[1].tell("a", Note())))


# ---- bounds


def test_what_can_not_be_sent_is_told_to_its_sender() -> None:
    one, _ = pair()
    for wrong in (Unlisted(), Note("x" * frames.CONTROL_LIMIT), Note(parts=(Part("p", (2**70,)),))):
        with pytest.raises(e.Unsendable):
            one.tell("a", wrong)
    with pytest.raises(e.Unsendable):
        one.ask("a", Double(2**70))
    with pytest.raises(e.Unsendable):
        one.reply(1, object())
    with pytest.raises(e.Unsendable):
        one.bulk("t", 0, b"x" * (frames.BULK_CHUNK + 1), last=False)
    assert one.pending == 0


def test_requests_on_their_way_are_bounded() -> None:
    one, _ = pair()
    for number in range(c.MOST_PENDING):
        one.ask("a", Double(number))
    with pytest.raises(e.Unsendable):
        one.ask("a", Double(0))


def test_oversize_is_refused_before_it_is_looked_at() -> None:
    one, _ = pair()
    with pytest.raises(e.Oversize):
        list(one.receive(b"\x00" * (frames.CONTROL_LIMIT + 1)))


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x81" * 30_000 + b"\x00",  # nested lists
        b"\xa1\x61a" * 10_000 + b"\x00",  # nested maps
        b"\x9a\xff\xff\xff\xff",  # a list of four billion, none there
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",  # bytes likewise
        b"\x9f" + b"\x01" * 1000 + b"\xff",  # indefinite
        b"\x82\x07" + cbor2.dumps(2**100_0),  # a big number
        b"\x82\x07" + cbor2.dumps(cbor2.CBORTag(5, [10**15, 1])),  # a big float
        b"\x82\x07" + cbor2.dumps(cbor2.CBORTag(35, "(a+)+$")),  # a regular expression
        b"\x82\x07" + cbor2.dumps(cbor2.CBORTag(28, [])),  # shared references
        b"\x99\x80\x00" + b"\x01" * 0x8000,  # many items
        b"\x82\x07\xa1\x80\x00",  # a list as key
        b"\x82\x07\x62\xff\xff",  # text that is none
        b"\x82\x07\xf7",  # undefined
        b"\x82\x07",
        b"",
        b"\x00",
        b"\x80",
        b"\x81\x61x",
        b"\x81\x20",
        b"\x82\x07\x38\x00",
        b"\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_bombs_and_garbage_are_refused(bomb: bytes) -> None:
    one, _ = pair()
    with pytest.raises(e.FrameError):
        list(one.receive(bomb))


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_raise_nothing_else(data: bytes, greeted: bool) -> None:
    one = pair()[0] if greeted else Connection(hello(LOW), registry())
    try:
        list(one.receive(data))
    except e.FrameError as error:
        assert str(error)
        with pytest.raises(e.OutOfTurn):
            list(one.receive(data))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=500)
@given(st.integers(0, 12), st.lists(plain, max_size=9))
def test_any_frame_shaped_thing_raises_nothing_else(kind: int, elements: list[Any]) -> None:
    one, _ = pair()
    try:
        list(one.receive(cbor2.dumps([kind, *elements])))
    except e.FrameError as error:
        assert str(error)


@settings(max_examples=300)
@given(st.data())
def test_frames_with_one_thing_changed_raise_nothing_else(data: st.DataObject) -> None:
    one, other = pair()
    good = data.draw(
        st.sampled_from(
            [other.tell("a", Note("x", parts=(Part("p"),))), other.ask("a", Double(3)).frame(1), other.hello()]
        )
    )
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 3)) :]
    try:
        list(one.receive(bad))
    except e.FrameError as error:
        assert str(error)


@given(plain)
def test_what_is_measured_is_what_is_there(value: Any) -> None:
    encoded = cbor2.dumps(value)
    try:
        assert cbor.measure(encoded + b"\x00rest") == len(encoded)
    except e.Garbage as error:
        assert str(error) == "a tag"  # a number beyond 64 bits


def test_the_worst_frame_takes_little_memory() -> None:
    one, _ = pair()
    worst = cbor2.dumps([frames.TELL, "a", "test.note", 1, {"parts": [[]] * 8000}])
    tracemalloc.start()
    try:
        list(one.receive(worst))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


# ---- the registry


def test_wire_names_are_taken_once_and_by_frozen_dataclasses_only() -> None:
    made = registry()
    for kind, name in ((Note, "other"), (Small, "test.note")):
        with pytest.raises(ValueError):
            made.add(kind, name)

    class Loose(Message):
        pass

    with pytest.raises(ValueError):
        made.add(Loose, "loose")
    with pytest.raises(ValueError):
        made.add(Small, "")


def test_the_type_of_an_answer_is_read_from_the_request() -> None:
    @dataclass(frozen=True, slots=True)
    class Nothing(Request[None]):
        pass

    made = registry()
    made.add(Nothing, "nothing")
    assert [made.of(kind).answer for kind in (Double, Describe, Nothing, Note)] == [int, Part, type(None), None]
