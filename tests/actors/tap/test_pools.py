from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model.errors import Conflict
from actors.tap.pools import choose_region_pool, ipv6_usable, look_at_network
from tests.actors.tap.guest import command
from tests.actors.tap.isolated import isolated

networks = st.builds(
    lambda base, length: IPv4Network((base, length), strict=False), st.integers(0, (1 << 32) - 1), st.integers(6, 32)
)
tens = st.builds(
    lambda second, length: IPv4Network((10 << 24 | second << 16, length), strict=False),
    st.integers(195, 255), st.integers(9, 24),
)  # fmt: skip


@given(st.lists(networks | tens, max_size=30))
def test_what_is_chosen_overlaps_nothing_and_is_the_first_that_could_be(taken: list[IPv4Network]) -> None:
    try:
        chosen = choose_region_pool(taken)
    except Conflict as conflict:
        assert conflict.field == "ipv4_pool"
        tried = [IPv4Network(f"10.{second}.0.0/16") for second in range(201, 255)]
        assert all(any(pool.overlaps(network) for network in taken) for pool in tried)
        return
    assert chosen.prefixlen == 16
    assert not any(chosen.overlaps(network) for network in taken)
    for second in range(201, chosen.network_address.packed[1]):
        assert any(IPv4Network(f"10.{second}.0.0/16").overlaps(network) for network in taken)


def test_a_machine_with_nothing_gets_the_default() -> None:
    assert choose_region_pool([]) == IPv4Network("10.201.0.0/16")


@isolated
def test_routes_and_addresses_of_this_machine_are_taken() -> None:
    assert look_at_network().taken == ()
    for line in (
        "ip link add one type bridge",
        "ip link set one up",
        "ip address add 10.201.7.1/24 dev one",
        "ip route add 10.202.0.0/15 dev one",
        "ip route add unreachable 10.204.1.0/24",
        "ip route add 10.205.0.0/16 dev one table 77",
        "ip route add default dev one",
    ):
        command(*line.split())
    facts = look_at_network()
    assert choose_region_pool(facts.taken) == IPv4Network("10.206.0.0/16")
    assert not any(network.prefixlen == 0 for network in facts.taken)


@pytest.mark.parametrize(
    ("everyone", "newcomers", "usable"),
    [("0", "0", True), ("1", "0", False), ("0", "1", False), (None, None, False)],
)
def test_whether_ipv6_can_be_used(tmp_path: Path, everyone: str | None, newcomers: str | None, usable: bool) -> None:
    for scope, value in (("all", everyone), ("default", newcomers)):
        if value is not None:
            file = tmp_path / "sys/net/ipv6/conf" / scope / "disable_ipv6"
            file.parent.mkdir(parents=True)
            file.write_text(value + "\n")
    assert ipv6_usable(tmp_path) is usable
