"""What a new TAP gets in one request: bytes, and what the real kernel makes of them."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model.network import Lease
from actors.tap import batch, links
from actors.tap.netlink import netlink
from actors.tap.wanted import BringUp, Change, SetAlias, SetMac, Step, mend, tap_name, wanted_facts
from tests.actors.tap.isolated import isolated

MAC = "06:00:0a:80:00:01"
ADDED: list[Step] = [
    SetMac(MAC),
    SetAlias("zeitwork:a:b"),
    Change("add", IPv4Interface("169.254.0.1/32")),
    Change("add", IPv6Interface("fe80::1/64")),
    BringUp(),
    Change("add", IPv4Network("10.128.0.1/32")),
    Change("add", IPv6Network("fd00::5/128")),
    Change("add", (IPv4Address("10.128.0.1"), MAC)),
    Change("add", (IPv6Address("fd00::5"), MAC)),
]


@pytest.mark.parametrize("step", ADDED, ids=str)
def test_each_request_is_whole_and_aligned(step: Step) -> None:
    message = batch.encode(7, step, 3)
    assert message is not None
    assert int.from_bytes(message[:4], "little") == len(message)
    assert len(message) % 4 == 0
    assert int.from_bytes(message[8:12], "little") == 3


@pytest.mark.parametrize("step", [step for step in ADDED if isinstance(step, Change)], ids=str)
def test_nothing_is_taken_away_here(step: Change) -> None:
    assert batch.encode(7, Change("del", step.item), 1) is None
    assert not batch.apply(1, [Change("del", step.item)])


@given(st.binary(max_size=200))
def test_whatever_is_answered(data: bytes) -> None:
    assert all(isinstance(number, int) for number in batch.errors(data))


@isolated
def test_the_kernel_does_all_of_it() -> None:
    lease = Lease(v4=IPv4Address("10.128.0.9"), v6=IPv6Address("fd00::9"))
    name, wanted = tap_name(UUID(int=9)), wanted_facts("a", UUID(int=9), lease)
    steps = links.ensure_tap(name, wanted)
    assert len(steps) == 9
    # Looked at by other means, it is what was wanted.
    with netlink() as connection:
        (link,) = connection.link("get", ifname=name)
        assert mend(links._facts(connection, link), wanted) == []
    assert links.ensure_tap(name, wanted) == []


@isolated
def test_what_is_refused_is_said_and_the_rest_is_asked_for_one_by_one() -> None:
    assert batch.apply(socket.if_nametoindex("lo"), [])
    assert not batch.apply(4242, [BringUp()])
    # A route that is there already: the others are made all the same.
    lease = Lease(v4=IPv4Address("10.128.0.9"), v6=None)
    name, wanted = tap_name(UUID(int=9)), wanted_facts("a", UUID(int=9), lease)
    links.ensure_tap(name, wanted)
    (route,) = wanted.routes
    index = socket.if_nametoindex(name)
    extra = Change("add", IPv4Network("10.128.0.77/32"))
    assert not batch.apply(index, [Change("add", route), extra])
    with netlink() as connection:
        (link,) = connection.link("get", ifname=name)
        assert links._facts(connection, link).routes == wanted.routes | {extra.item}
