"""Elements of sets by the kernel's own protocol: what nft then lists is what was told."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model.network import Lease
from actors.tap import nfnetlink
from actors.tap.nft import FAMILY, Guest, elements, parse_table, render_table
from tests.actors.tap.isolated import isolated

TABLE = "zeitwork_x"


def guest(number: int) -> Guest:
    return Guest(f"zw{number:010}", Lease(v6=IPv6Address(f"fd00::{number:x}"), v4=IPv4Address(0x0AC90000 + number)))


def listed() -> dict[str, set[str]]:
    command = ["nft", "-j", "list", "table", FAMILY, TABLE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=90)
    return parse_table(done.stdout).content


def changes(verb: str, *guests: Guest) -> list[nfnetlink.Change]:
    return [(verb, name, items) for name, items in elements(guests).items()]  # type: ignore[misc]


def test_keys() -> None:
    assert nfnetlink.key("taps", '"zwabc"') == b"zwabc".ljust(16, b"\0")
    assert nfnetlink.key("guests4", "10.0.0.1") == bytes([10, 0, 0, 1])
    assert nfnetlink.key("guests6", "fd00::1") == IPv6Address("fd00::1").packed
    assert nfnetlink.key("pairs4", '"zwabc" . 10.0.0.1') == b"zwabc".ljust(16, b"\0") + bytes([10, 0, 0, 1])
    for name, element in (("guests4", "nonsense"), ("taps", f'"{"a" * 17}"'), ("pairs6", '"zwabc"')):
        with pytest.raises(ValueError, match="."):
            nfnetlink.key(name, element)


@given(st.lists(st.integers(0, 5000), max_size=20))
def test_each_message_is_whole_and_aligned(numbers: list[int]) -> None:
    messages = nfnetlink.encode(TABLE, changes("add", *(guest(number) for number in numbers)))
    assert len(messages) == 5 + 2
    for message in messages:
        assert int.from_bytes(message[:4], "little") == len(message)
        assert len(message) % 4 == 0


@isolated
def test_what_is_told_is_what_nft_lists() -> None:
    subprocess.run(["nft", "-f", "-"], input=render_table(TABLE, {}), text=True, check=True, timeout=90)
    many = [guest(number) for number in range(1, 300)]
    assert nfnetlink.apply(TABLE, changes("add", *many))
    assert listed() == elements(many)
    # What is there already may be told again.
    assert nfnetlink.apply(TABLE, [*changes("add", many[0]), *changes("delete", many[0])])
    assert listed() == elements(many[1:])


@isolated
def test_all_or_nothing() -> None:
    assert not nfnetlink.apply(TABLE, changes("add", guest(1)))  # there is no such table
    subprocess.run(["nft", "-f", "-"], input=render_table(TABLE, {}), text=True, check=True, timeout=90)
    assert not nfnetlink.apply(TABLE, [*changes("add", guest(1)), *changes("delete", guest(2))])
    assert listed() == elements([])
    assert not nfnetlink.apply(TABLE, [*changes("add", guest(1)), ("add", "nosuchset", {"10.0.0.1"})])
    assert listed() == elements([])
