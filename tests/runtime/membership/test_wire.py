"""What goes over a link: it comes back as it was, and garbage is refused and nothing worse."""

from __future__ import annotations

import contextlib
from typing import Any
from uuid import uuid4

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.membership import wire
from runtime.membership.claim import Claim, State
from runtime.membership.messages import Gossip, Life, Ping, Said, Sync
from runtime.membership.wire import (
    CLAIMS,
    KINDS,
    MESSAGE_BYTES,
    Garbled,
    UnknownKind,
    decode,
    encode,
    from_wire,
    to_wire,
)
from tests.runtime.membership.parts import any_claim, any_message, claim

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=20) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(-1, 12), inner, max_size=6),
    max_leaves=12,
)


@given(any_message)
def test_a_message_comes_back_as_it_was(message: Said) -> None:
    assert decode(encode(message)) == message


@given(any_claim)
def test_age_comes_back_and_sizes_are_upper_bounds(one: Claim) -> None:
    message = decode(encode(Gossip(Life(1, 1), (one,))))
    assert isinstance(message, Gossip)
    assert message.rumours[0].age == one.age
    bare = len(encode(Gossip(Life(1, 1), ())))
    assert len(encode(Gossip(Life(1, 1), (one,)))) - bare <= one.size


@given(any_message, st.dictionaries(st.integers(50, 60), plain, max_size=3))
def test_fields_of_later_versions_are_ignored(message: Said, more: dict[int, Any]) -> None:
    wire = to_wire(message) | more | {0: 7}
    for one in wire.get(5, []):
        one.update(more)
    assert from_wire(cbor2.loads(cbor2.dumps(wire))) == message


@given(st.binary(max_size=300))
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    try:
        message = decode(data)
    except Garbled:
        return
    assert isinstance(message, KINDS)


@given(any_message, st.data())
def test_a_message_with_a_changed_byte_is_one_or_is_refused(message: Said, data: st.DataObject) -> None:
    raw = bytearray(encode(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for changed in (bytes(raw), bytes(raw[:cut])):
        with contextlib.suppress(Garbled):
            assert isinstance(decode(changed), KINDS)


@given(any_message, st.integers(0, 10), plain)
def test_a_wrong_field_is_refused_or_harmless(message: Said, key: int, value: object) -> None:
    try:
        assert isinstance(from_wire(to_wire(message) | {key: value}), KINDS)
    except Garbled as error:
        assert ":" in str(error)


@given(any_claim, st.integers(0, 9), plain)
def test_a_wrong_field_of_a_claim_is_refused_or_harmless(one: Claim, key: int, value: object) -> None:
    wire = to_wire(Gossip(Life(1, 1), (one,)))
    wire[5][0][key] = value
    with contextlib.suppress(Garbled):
        assert isinstance(from_wire(wire), Gossip)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x00" * (MESSAGE_BYTES + 1), "at most"),
        (b"\x81" * 60_000, "not CBOR"),
        (b"\x9b" + b"\xff" * 8, "not CBOR"),
        (b"\xd8\x1c\x81\xd8\x1d\x00", "not CBOR: a tag"),
        (cbor2.dumps({0: 1, 1: 1, 2: 1, 3: 1, 4: 1}) + b"\x00", "bytes after its end"),
        (cbor2.dumps({}) + b"\xbf\xff", "bytes after its end"),
        (cbor2.dumps({}), "version"),
        (cbor2.dumps({0: 1, 1: True, 2: 1, 3: 1}), "kind"),
        (cbor2.dumps({0: 1, 1: 1, 2: -1, 3: 1}), "generation"),
        (cbor2.dumps({0: 1, 1: 1, 2: 1, 3: 2**60}), "incarnation"),
        (cbor2.dumps({0: 1, 1: 5, 2: 1, 3: 1, 5: [{}] * (CLAIMS + 1)}), "claims"),
        (cbor2.dumps({0: 1, 1: 5, 2: 1, 3: 1, 5: [{0: b"short", 1: 1, 2: 1, 3: 0}]}), "host"),
        (cbor2.dumps({0: 1, 1: 4, 2: 1, 3: 1, 4: 1, 6: b"x" * 16, 7: "a", 8: 1e9}), "within"),
    ],
)
def test_what_is_refused_is_named(data: bytes, why: str) -> None:
    with pytest.raises(Garbled, match=why):
        decode(data)


def shared(depth: int) -> bytes:
    """Return lists of two, each of which is twice the one before: few bytes, and ``2**depth`` lists to look at."""
    twice = [b"\x82" + 2 * (b"\xd8\x1d" + cbor2.dumps(below)) for below in range(depth)]
    return bytes([0x98, depth + 1]) + b"".join(b"\xd8\x1c" + one for one in (b"\x80", *twice))


@pytest.mark.parametrize("place", ["claim", "key"])
def test_references_that_multiply_are_never_looked_at(place: str) -> None:
    """One more level doubles the time: this would not end."""
    bare, hundred = {0: 1, 1: 5, 2: 1, 3: 1}, shared(100)
    if place == "key":
        said = b"\xa5" + cbor2.dumps(bare)[1:] + hundred + b"\x00"
    else:
        inner = cbor2.dumps({0: b"x" * 16, 1: 1, 2: 1, 3: 0})
        said = b"\xa5" + cbor2.dumps(bare)[1:] + b"\x05\x81\xa5" + inner[1:] + cbor2.dumps(50) + hundred
    for _ in range(2):
        with pytest.raises(Garbled, match="a tag"):
            decode(said)


@pytest.mark.parametrize("more", [{50: "x" * 40_000}, {6: b"x" * 40_000}, {5: ["x" * 40_000]}])
def test_what_is_not_known_is_not_kept(more: dict[int, object]) -> None:
    """Of thousands of hosts it would be gigabytes."""
    kept = len(wire._last_read)
    claimed = {0: uuid4().bytes, 1: 1, 2: 1, 3: 0} | more
    message = decode(cbor2.dumps({0: 1, 1: 5, 2: 1, 3: 1, 5: [claimed]}))
    assert isinstance(message, Gossip)
    assert len(message.rumours) == 1
    assert claimed[0] not in wire._last_read
    assert len(wire._last_read) == kept


def test_unknown_kinds_and_states_can_be_told_apart_and_passed_over() -> None:
    with pytest.raises(UnknownKind, match="99"):
        from_wire(to_wire(Ping(Life(1, 1), 1)) | {1: 99})
    wire = to_wire(Sync(Life(1, 1), (claim(1), claim(2))))
    wire[5][0][3] = State.LEFT + 1
    assert from_wire(wire) == Sync(Life(1, 1), (claim(2),))
