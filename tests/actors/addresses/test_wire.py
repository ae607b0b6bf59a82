from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.addresses.mirror import Mirror
from actors.addresses.wire import AF_INET6, GET_ROUTES, End, Held, Link, ask, parse


def message(kind: int, body: bytes, *, number: int = 0, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, number, 0) + body + bytes(-len(body) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def link(index: int, name: str) -> bytes:
    return message(16, struct.pack("=BxHiII", 0, 1, index, 1, 0) + attribute(3, name.encode() + b"\0"))


def address(kind: int, packed: bytes, flags: int = 0x80) -> bytes:
    body = struct.pack("=BBBBi", 2 if len(packed) == 4 else 10, 24, flags & 0xFF, 0, 2)
    return message(kind, body + attribute(1, packed) + attribute(8, struct.pack("=I", flags)))


def done(number: int, code: int = 0, flags: int = 2) -> bytes:
    return message(3, struct.pack("=i", code), number=number, flags=flags)


def test_what_is_no_message_is_refused() -> None:
    for data in (
        b"abc",
        struct.pack("=IHHII", 99, 16, 0, 0, 0),
        struct.pack("=IHHII", 4, 16, 0, 0, 0),
        message(16, b"x"),
    ):
        with pytest.raises(ValueError):
            list(parse(data))
    with pytest.raises(ValueError):
        list(parse(message(16, struct.pack("=BxHiII", 0, 1, 2, 1, 0) + struct.pack("=HH", 99, 3))))


@given(st.binary(max_size=200))
def test_rubbish_never_does_anything_else(data: bytes) -> None:
    for whole in (data, *(message(kind, data) for kind in (2, 3, 16, 17, 20, 21, 24, 25, 99))):
        try:
            list(parse(whole))
        except ValueError:
            continue


def test_tentative_and_link_local_addresses_are_none() -> None:
    assert list(parse(address(20, bytes([169, 254, 0, 1])))) == []
    assert list(parse(address(20, bytes([127, 0, 0, 1])))) == []
    (tentative,) = parse(address(20, bytes([32, 1, *[0] * 13, 9]), 0x80 | 0x40))
    assert isinstance(tentative, Held)
    assert not tentative.present
    (spare,) = parse(address(20, bytes([10, 0, 0, 1]), 0x81))
    assert isinstance(spare, Held)
    assert (spare.present, spare.spare) == (True, True)


def test_several_messages_in_one_datagram() -> None:
    assert list(parse(link(2, "eth0") + done(7, -errno.EPERM, 0x12))) == [
        Link(2, "eth0", True),
        End(7, errno.EPERM, True),
    ]


def complete(mirror: Mirror, number: int) -> bytes | None:
    """Answer four questions, the first of which has the number, with what there is; return what is asked then."""
    answers = (link(2, "eth0"), address(20, bytes([10, 0, 0, 1])), b"", b"")
    send = None
    for offset, answer in enumerate(answers):
        if answer:
            assert mirror.feed(answer) is None
        send = mirror.feed(done(number + offset))
    return send


def test_nothing_is_known_before_everything_was_answered() -> None:
    mirror = Mirror()
    assert mirror.begin() is not None
    assert mirror.begin() is None  # on its way
    assert mirror.own is None
    # It was asked for again meanwhile, so it is asked again.
    assert complete(mirror, 1) is not None
    assert mirror.own is not None
    assert mirror.own.main is not None
    assert mirror.own.main.interface == "eth0"
    assert complete(mirror, 5) is None


def test_a_lost_address_makes_it_ask_for_the_routes_again() -> None:
    mirror = Mirror()
    mirror.begin()
    assert complete(mirror, 1) is None
    assert mirror.feed(address(21, bytes([10, 0, 0, 1]))) is not None
    assert mirror.own is not None
    assert mirror.own.items == ()


def test_a_torn_answer_is_asked_again_but_not_for_ever() -> None:
    mirror = Mirror()
    mirror.begin()
    rounds, number = 0, 1
    send: bytes | None = b""
    while send is not None:
        rounds += 1
        assert rounds < 10
        for _ in range(4):
            send = mirror.feed(done(number, flags=0x12))
            number += 1
    assert mirror.own is not None


def test_a_kernel_without_ipv6_is_fine_and_a_refusal_is_not() -> None:
    mirror = Mirror()
    mirror.begin()
    for number in (1, 2):
        mirror.feed(done(number))
    assert mirror.feed(done(3)) == ask(GET_ROUTES, AF_INET6, 4)
    mirror.feed(message(2, struct.pack("=i", -errno.EOPNOTSUPP), number=4))
    assert mirror.own is not None
    refused = Mirror()
    refused.begin()
    with pytest.raises(OSError, match="permitted"):
        refused.feed(message(2, struct.pack("=i", -errno.EPERM), number=1))
