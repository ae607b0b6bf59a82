from __future__ import annotations

import json
import subprocess
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from actors.model.network import Lease
from actors.tap.nft import (
    EDITION,
    SETS,
    Guest,
    elements,
    of_taps,
    parse_table,
    render_delete,
    render_elements,
    render_table,
    table_name,
)
from tests.actors.tap.guest import command
from tests.actors.tap.isolated import isolated

GOLDEN = Path(__file__).with_name("golden.nft")
GUESTS = [
    Guest("zwaaaaaaaaaa", Lease(IPv6Address("fd00::5"), IPv4Address("10.201.0.5"))),
    Guest("zwbbbbbbbbbb", Lease(None, IPv4Address("10.201.0.6"))),
]

guests = st.lists(
    st.builds(
        Guest,
        st.text("abcdefghij234567", min_size=10, max_size=10).map(lambda text: f"zw{text}"),
        st.builds(Lease, st.none() | st.ip_addresses(v=6), st.ip_addresses(v=4)),
    ),
    unique_by=(lambda guest: guest.tap, lambda guest: guest.lease.v4, lambda guest: guest.lease.v6 or guest.tap),
    max_size=5,
)


def test_the_table_is_the_one_that_was_reviewed() -> None:
    """Rules are security: a change must be seen. After a review: copy what this prints to golden.nft."""
    assert render_table("zeitwork", elements(GUESTS)) == GOLDEN.read_text()


@pytest.mark.parametrize("tag", ["x y", "A", "a;b", "ä", "a" * 80])
def test_a_tag_that_is_not_a_name_never_gets_into_a_script(tag: str) -> None:
    with pytest.raises(ValueError):
        table_name(tag)


@pytest.mark.parametrize("name", ["", "a b", 'a"', "a" * 16, "a}"])
def test_neither_does_a_device_name(name: str) -> None:
    with pytest.raises(ValueError):
        Guest(name, GUESTS[0].lease)


def test_two_host_processes_have_two_tables() -> None:
    assert table_name("") == "zeitwork"
    assert table_name("0a1b2c3d") == "zeitwork_0a1b2c3d"


@given(guests, st.data())
def test_what_belongs_to_some_taps_leaves_exactly_the_others(known: list[Guest], data: st.DataObject) -> None:
    gone = set(data.draw(st.lists(st.sampled_from([guest.tap for guest in known])))) if known else set()
    content = elements(known)
    found = of_taps(content, gone.__contains__)
    left = {name: content[name] - found[name] for name in SETS}
    assert left == elements(guest for guest in known if guest.tap not in gone)


def test_an_address_that_another_pair_holds_stays() -> None:
    content = {"taps": {'"zwa"', '"zwb"'}, "pairs4": {'"zwa" . 10.0.0.1', '"zwb" . 10.0.0.1'}, "guests4": {"10.0.0.1"}}
    assert of_taps(content, lambda tap: tap == "zwa")["guests4"] == set()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nftables": 1}'])
def test_a_listing_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_table(text)


def run(script: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=script, text=True, capture_output=True, timeout=90)
    assert done.returncode == 0, (script, done.stderr)


def look(table: str = "zeitwork") -> str:
    return command("nft", "-j", "list", "table", "inet", table)


@isolated
def test_the_kernel_takes_what_is_rendered_and_says_it_back() -> None:
    @settings(max_examples=8, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
    @given(guests, guests)
    def check(first: list[Guest], second: list[Guest]) -> None:
        run(render_table("zeitwork", elements(first)))
        state = parse_table(look())
        assert state.current
        assert state.content == elements(first)
        names = {guest.tap for guest in first}
        clash = {guest.lease.v4 for guest in first} | {guest.lease.v6 for guest in first}
        more = [g for g in second if g.tap not in names and not {g.lease.v4, g.lease.v6} & clash]
        for _ in range(2):
            if more:
                run(render_elements("add", "zeitwork", elements(more)))
            assert parse_table(look()).content == elements(first + more)
        if first:
            run(render_elements("delete", "zeitwork", elements(first)))
        assert parse_table(look()).content == elements(more)

    check()
    run(render_delete("zeitwork"))
    run(render_delete("zeitwork"))
    assert command("nft", "list", "tables") == ""


@isolated
def test_every_way_to_damage_the_table_is_noticed() -> None:
    chains = [item["chain"]["name"] for item in listing(elements(GUESTS)) if "chain" in item]
    assert EDITION in chains
    for chain in chains:
        run(render_table("zeitwork", elements(GUESTS)))
        if chain != EDITION:
            run(f"flush chain inet zeitwork {chain}\n")
            assert not parse_table(look()).current, chain
            rules = [item["rule"] for item in listing(elements(GUESTS)) if "rule" in item]
            handle = next(rule["handle"] for rule in rules if rule["chain"] == chain)
            run(f"delete rule inet zeitwork {chain} handle {handle}\n")
        else:
            run(f"delete chain inet zeitwork {chain}\n")
        assert not parse_table(look()).current, chain


def listing(content: dict[str, set[str]]) -> list[dict[str, dict[str, object]]]:
    run(render_table("zeitwork", content))
    found: list[dict[str, dict[str, object]]] = json.loads(look())["nftables"]
    return found
