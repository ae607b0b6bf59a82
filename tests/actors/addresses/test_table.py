"""Which address is whose, and which one is primary: examples, and indifference to order and repetition."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

from hypothesis import given
from hypothesis import strategies as st

from actors.addresses.table import Table
from actors.addresses.wire import AF_INET, AF_INET6, Default, Held, Link, Said
from actors.model.network import OwnAddresses

ETH0, ETH1, BRIDGE = Link(2, "eth0", True), Link(3, "eth1", True), Link(4, "br0", True)


def held(index: int, address: str, *, spare: bool = False, present: bool = True) -> Held:
    return Held(index, ip_interface(address), spare, present)


def default(family: int, index: int, metric: int = 0, source: str | None = None, **more: bool) -> Default:
    values = {"present": True, **more}
    return Default(family, index, metric, b"gw", ip_address(source) if source else None, **values)


def own(*said: Said) -> OwnAddresses:
    table = Table()
    for one in said:
        table.apply(one)
    return table.own()


def main(*said: Said) -> str | None:
    found = own(*said).main
    return str(found.address.ip) if found else None


def test_nothing_is_nothing() -> None:
    assert own() == OwnAddresses()
    assert own(ETH0, default(AF_INET, 2)) == OwnAddresses()


def test_the_default_route_with_the_lowest_metric_decides() -> None:
    both = (ETH0, ETH1, held(2, "10.0.0.2/8"), held(3, "192.0.2.3/24"))
    assert main(*both, default(AF_INET, 2, 100), default(AF_INET, 3, 50)) == "192.0.2.3"
    assert main(*both, default(AF_INET, 2, 10), default(AF_INET, 3, 50)) == "10.0.0.2"
    assert main(*both, default(AF_INET, 2, 10, source="192.0.2.3"), default(AF_INET, 3, 50)) == "192.0.2.3"


def test_a_public_ipv6_address_comes_first_and_a_local_one_last() -> None:
    four = (ETH0, held(2, "10.0.0.2/8"), default(AF_INET, 2), default(AF_INET6, 2, 1024))
    assert main(*four, held(2, "2001:db8::2/64")) == "2001:db8::2"
    assert main(*four, held(2, "fd00::2/64")) == "10.0.0.2"
    assert main(ETH0, held(2, "fd00::2/64"), default(AF_INET6, 2)) == "fd00::2"


def test_each_family_has_its_primary_and_they_are_listed_first() -> None:
    found = own(
        BRIDGE, ETH0, ETH1, held(2, "10.0.0.1/8"), held(4, "172.17.0.1/16"), held(2, "2001:db8::1/64", spare=True),
        held(2, "2001:db8::2/64"), held(3, "10.9.0.1/24"), default(AF_INET, 3), default(AF_INET6, 2),
    )  # fmt: skip
    assert [(str(item.address), item.interface, item.primary) for item in found.items] == [
        ("2001:db8::2/64", "eth0", True),
        ("10.9.0.1/24", "eth1", True),
        ("10.0.0.1/8", "eth0", False),
        ("2001:db8::1/64", "eth0", False),
        ("172.17.0.1/16", "br0", False),
    ]


def test_without_a_way_out_the_first_device_counts() -> None:
    assert main(BRIDGE, ETH0, held(4, "172.17.0.1/16"), held(2, "10.0.0.2/8")) == "10.0.0.2"


def test_the_loopback_device_is_the_last_resort() -> None:
    # Where a host keeps an address of its guests' prefix for itself.
    inside = (Link(1, "lo", True, inner=True), held(1, "fd00:1::1/128"))
    assert main(*inside, ETH0, held(2, "10.0.0.2/8")) == "10.0.0.2"
    assert main(*inside, ETH0, held(2, "10.0.0.2/8"), default(AF_INET, 2)) == "10.0.0.2"
    assert main(*inside) == "fd00:1::1"


def test_what_is_down_or_gone_does_not_count() -> None:
    up = (ETH0, ETH1, held(2, "10.0.0.2/8"), held(3, "10.1.0.2/16"), default(AF_INET, 2), default(AF_INET, 3, 9))
    assert main(*up) == "10.0.0.2"
    assert main(*up, Link(2, "eth0", False)) == "10.1.0.2"
    assert main(*up, Link(2, "eth0", None)) == "10.1.0.2"
    assert main(*up, default(AF_INET, 2, present=False)) == "10.1.0.2"
    assert main(*up, held(2, "10.0.0.2/8", present=False)) == "10.1.0.2"


def test_a_replaced_route_is_gone() -> None:
    both = (ETH0, ETH1, held(2, "10.0.0.2/8"), held(3, "10.1.0.2/16"))
    assert main(*both, default(AF_INET, 2), default(AF_INET, 3, replaces=True)) == "10.1.0.2"


def test_devices_of_no_interest_change_nothing() -> None:
    table = Table()
    for one in (ETH0, held(2, "10.0.0.2/8")):
        table.apply(one)
    for up in (True, False, None):
        said = Link(77, "zwabc", up)
        assert not table.loses_routes(said)
        assert not table.apply(said)
    assert not table.apply(ETH0)
    assert table.loses_routes(Link(2, "eth0", False))
    assert table.loses_routes(held(2, "10.0.0.2/8", present=False))
    assert not table.loses_routes(held(2, "10.0.0.9/8", present=False))
    assert table.apply(Link(2, "eth0", False))


said = st.one_of(
    st.builds(Link, st.integers(1, 4), st.just("eth"), st.just(True)),
    st.builds(
        Held,
        st.integers(1, 4),
        st.sampled_from([ip_interface("10.0.0.1/8"), ip_interface("2001:db8::1/64"), ip_interface("fd00::1/64")]),
        st.just(False),
        st.just(True),
    ),
    st.builds(
        Default, st.sampled_from([AF_INET, AF_INET6]), st.integers(1, 4), st.integers(0, 2), st.just(b""),
        st.none(), st.just(True),
    ),
)  # fmt: skip


@given(st.lists(said, max_size=20), st.randoms())
def test_order_and_repetition_do_not_matter(messages: list[Said], random: st.random.Random) -> None:  # type: ignore[name-defined]
    table, other = Table(), Table()
    for one in messages:
        table.apply(one)
    shuffled = messages * 2
    random.shuffle(shuffled)
    for one in shuffled:
        other.apply(one)
    assert table.own() == other.own()


@given(st.lists(said, max_size=12))
def test_a_change_of_what_is_told_is_announced(messages: list[Said]) -> None:
    table = Table()
    for one in messages:
        before = table.own()
        changed = table.apply(one)
        assert changed or table.own() == before
