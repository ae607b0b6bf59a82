from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from actors.model.network import GATEWAY_MAC, Lease
from actors.tap.wanted import (
    BringUp,
    Change,
    Facts,
    SetAlias,
    SetMac,
    Step,
    alias,
    mend,
    read_alias,
    tap_name,
    wanted_facts,
)

PLACEMENT = UUID("01934d2b-7f3a-7c11-9d52-0a1b2c3d4e5f")
LEASE = Lease(IPv6Address("fd00::5"), IPv4Address("10.201.0.5"))
BARE = Facts(
    mac="02:00:00:00:00:01", alias="", up=False, addresses=frozenset(), routes=frozenset(), neighbours=frozenset()
)

v4 = st.integers(1, 6).map(lambda n: IPv4Address(0x0AC90000 + n))
v6 = st.integers(1, 6).map(lambda n: IPv6Address(f"fd00::{n}"))
macs = st.sampled_from([GATEWAY_MAC, "06:00:0a:c9:00:05", "06:00:00:00:00:09"])
leases = st.builds(Lease, st.none() | v6, v4)
facts = st.builds(
    Facts,
    mac=macs,
    alias=st.sampled_from(["", "zeitwork:x:y"]),
    up=st.booleans(),
    addresses=st.frozensets(v4.map(lambda a: IPv4Interface((a, 32))) | v6.map(lambda a: IPv6Interface((a, 64)))),
    routes=st.frozensets(v4.map(IPv4Network) | v6.map(IPv6Network)),
    neighbours=st.dictionaries(v4 | v6, macs).map(lambda pairs: frozenset(pairs.items())),
)


def carry_out(found: Facts, steps: list[Step]) -> Facts:
    """Do what the kernel would do, and refuse what it would refuse."""
    for step in steps:
        match step:
            case SetMac(mac=mac):
                # As the kernel does, and even when the address is the one it had.
                found = replace(found, mac=mac, neighbours=frozenset())
            case SetAlias(alias=note):
                found = replace(found, alias=note)
            case BringUp():
                assert not found.up
                found = replace(found, up=True)
            case Change(verb=verb, item=item):
                if isinstance(item, tuple):
                    name, old = "neighbours", found.neighbours
                    assert verb == "del" or item[0] not in {address for address, _ in old}, "EEXIST"
                elif isinstance(item, IPv4Interface | IPv6Interface):
                    name, old = "addresses", found.addresses
                else:
                    name, old = "routes", found.routes
                    assert verb == "del" or found.up, "ENETDOWN"
                assert (item in old) == (verb == "del"), step
                found = replace(found, **{name: old - {item} if verb == "del" else old | {item}})
    return found


@given(facts, leases)
def test_mending_leads_from_anything_to_what_is_wanted_and_then_stops(found: Facts, lease: Lease) -> None:
    wanted = wanted_facts("main", PLACEMENT, lease)
    after = carry_out(found, mend(found, wanted))
    assert after == wanted
    assert mend(after, wanted) == []


def test_what_a_guest_with_both_families_gets() -> None:
    wanted = wanted_facts("", PLACEMENT, LEASE)
    assert {str(address) for address in wanted.addresses} == {"169.254.0.1/32", "fe80::1/64"}
    assert {str(route) for route in wanted.routes} == {"10.201.0.5/32", "fd00::5/128"}
    assert {(str(address), mac) for address, mac in wanted.neighbours} == {
        ("10.201.0.5", "06:00:0a:c9:00:05"),
        ("fd00::5", "06:00:0a:c9:00:05"),
    }


def test_without_an_ipv6_lease_nothing_of_ipv6_is_touched() -> None:
    wanted = wanted_facts("", PLACEMENT, Lease(None, LEASE.v4))
    assert {item.version for item in wanted.addresses | wanted.routes} == {4}


def test_a_new_device_is_up_only_after_it_has_its_addresses() -> None:
    steps = mend(BARE, wanted_facts("", PLACEMENT, LEASE))
    up = steps.index(BringUp())
    adds = [isinstance(step, Change) and isinstance(step.item, IPv4Interface | IPv6Interface) for step in steps]
    assert all(index < up for index, is_address in enumerate(adds) if is_address)


def test_names_fit_an_interface_and_notes_are_read_back() -> None:
    assert len(tap_name(PLACEMENT)) == 12
    assert read_alias(alias("0a1b2c3d", PLACEMENT)) == ("0a1b2c3d", PLACEMENT)
    assert read_alias(alias("", PLACEMENT)) == ("", PLACEMENT)


@given(st.none() | st.text() | st.sampled_from(["zeitwork:x", "zeitwork:x:not-a-uuid", f"other:x:{PLACEMENT}"]))
def test_other_notes_are_not_ours(text: str | None) -> None:
    assert read_alias(text) is None
