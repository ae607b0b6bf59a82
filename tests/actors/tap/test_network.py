"""The host's network kept as it should be: adopted, mended, shared, removed, against the real kernel."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from uuid import UUID

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.model.errors import Conflict, Failed, InvalidInput
from actors.model.network import HostNetwork, Lease
from actors.tap import links, network
from actors.tap.network import NetworkHost, remove_leftovers
from actors.tap.nft import EDITION, FAMILY, Guest, elements, parse_table
from actors.tap.nft_process import Nft
from actors.tap.wanted import tap_name
from tests.actors.tap.guest import command
from tests.actors.tap.isolated import isolated

NETWORK = HostNetwork(v6=IPv6Network("fd12:3456:789a:1::/64"), v4=IPv4Network("10.201.0.0/22"))


def placement(number: int) -> UUID:
    return UUID(int=0x7 << 76 | 0b10 << 62 | number)


def lease(number: int) -> Lease:
    return Lease(IPv6Address(f"fd12:3456:789a:1::{number:x}"), IPv4Address(0x0AC90000 + number))


@asynccontextmanager
async def host(tag: str = "", which: HostNetwork = NETWORK) -> AsyncIterator[NetworkHost]:
    with tempfile.TemporaryDirectory() as folder:
        made = NetworkHost(which, tag, Path(folder) / "sysctl.json")
        await made.start()
        yield made


def world() -> list[str]:
    """Everything that could be left behind, in words. Neither handles nor counters nor learnt neighbours.

    Nor whether a carrier is there, which the kernel says of routes sooner or later: that is the monitor's.
    """
    links = [line.split(":")[1].strip() for line in command("ip", "-o", "link").splitlines()]
    return [
        command("nft", "list", "tables"),
        *links,
        command("ip", "-o", "address").replace("scope host", ""),
        command("ip", "-4", "route", "show", "table", "all").replace(" linkdown", ""),
        # The kernel keeps a multicast route for each device, sometimes sooner, sometimes later.
        "".join(
            line.replace(" linkdown", "")
            for line in command("ip", "-6", "route", "show", "table", "all").splitlines()
            if "ff00" not in line
        ),
        command("ip", "neigh", "show", "nud", "permanent"),
    ]


@isolated
async def test_everything_goes_with_the_guests() -> None:
    before = world()
    async with host() as one:
        assert await one.up(placement(5), lease(5)) != []
        assert not await one.close()
        await one.down(placement(5), lease(5))
        await one.down(placement(5), lease(5))
        assert await one.close()
        assert await one.close()
        assert world() == before


@isolated
async def test_a_second_up_and_a_restarted_process_find_nothing_to_do() -> None:
    async with host() as one:
        await one.up(placement(5), lease(5))
        seen = world()
        assert await one.up(placement(5), lease(5)) == []
    async with host() as two:
        assert list(await two.taps()) == [placement(5)]
        assert await two.up(placement(5), lease(5)) == []
        assert world() == seen


@isolated
async def test_a_damaged_tap_is_mended_in_place() -> None:
    async with host() as one:
        await one.up(placement(5), lease(5))
        name, good = tap_name(placement(5)), world()
        index = command("ip", "-o", "link", "show", name).split(":")[0]
        for damage in (
            f"ip link set {name} down",
            f"ip link set {name} address 02:00:00:00:00:01",
            f"ip address flush dev {name}",
            f"ip route del {lease(5).v4} dev {name}",
            f"ip -6 route del {lease(5).v6} dev {name}",
            f"ip route add 10.201.0.9/32 dev {name} proto 201",
            f"ip neigh del {lease(5).v4} dev {name}",
            f"ip neigh replace {lease(5).v6} lladdr 02:00:00:00:00:09 nud permanent dev {name}",
            f"ip link set {name} alias somebody",
        ):
            command("sh", "-ec", damage)
            assert await one.up(placement(5), lease(5)) != [], damage
            assert await one.up(placement(5), lease(5)) == [], damage
            assert world() == good, (damage, [pair for pair in zip(good, world(), strict=True) if len(set(pair)) > 1])
        assert command("ip", "-o", "link", "show", name).split(":")[0] == index


@isolated
async def test_a_name_that_belongs_to_something_else_is_left_alone() -> None:
    async with host() as one:
        name = tap_name(placement(5))
        command("ip", "link", "add", name, "type", "bridge")
        with pytest.raises(Conflict, match="not a TAP"):
            await one.up(placement(5), lease(5))
        # Then there never was one of ours: an end must not wait for somebody else's device.
        await one.down(placement(5), lease(5))
        assert "bridge" in command("ip", "-d", "link", "show", name)


@isolated
async def test_an_address_that_is_routed_elsewhere_is_refused_and_nothing_else_breaks() -> None:
    async with host() as one:
        command("ip", "route", "add", f"{lease(5).v4}/32", "dev", "lo")
        with pytest.raises(Conflict, match="in use elsewhere"):
            await one.up(placement(5), lease(5))
        await one.down(placement(5), lease(5))
        command("ip", "route", "del", f"{lease(5).v4}/32", "dev", "lo")
        await one.up(placement(5), lease(5))


@isolated
async def test_without_the_tun_device_the_problem_says_what_to_do() -> None:
    links.TUN_DEVICE = Path("/dev/net/none")
    async with host() as one:
        with pytest.raises(Failed, match="can't be opened") as caught:
            await one.up(placement(5), lease(5))
        assert caught.value.fix == "modprobe tun"


@isolated
async def test_without_nft_the_problem_says_what_to_do() -> None:
    one = NetworkHost(NETWORK, "", Path("/nonexistent/sysctl.json"), Nft("/no/such/nft"))
    os.environ["PATH"] = "/nonexistent"
    with pytest.raises(Failed, match="/no/such/nft is missing") as caught:
        await one.nft.apply("")
    assert caught.value.fix == "apt-get install nftables"


@isolated
async def test_only_a_user_who_was_named_may_attach() -> None:
    async with host() as one:
        await one.up(placement(5), lease(5), uid=4242)
        assert "user 4242" in command("ip", "-d", "link", "show", tap_name(placement(5)))


@isolated
async def test_rules_that_somebody_flushed_come_back_with_every_guest_in_them() -> None:
    network.CHECK_FRESH = 0.0
    async with host() as one:
        guests = [5, 6, 7]
        for number in guests:
            await one.up(placement(number), lease(number))
        whole = content()
        for damage in (
            "flush ruleset",
            "delete table inet zeitwork",
            "flush chain inet zeitwork from_guest",
            f"delete chain inet zeitwork {EDITION}",
            "flush set inet zeitwork taps",
            f"delete element inet zeitwork guests4 {{ {lease(6).v4} }}",
        ):
            command("nft", damage)
            await one.check()
            state = parse_table(command("nft", "-j", "list", "table", FAMILY, one.table))
            assert state.current, damage
            assert content() == whole, damage
        # And a guest that comes while the table is away brings it back.
        command("nft", "flush ruleset")
        await one.up(placement(8), lease(8))
        assert content() != whole
        await one.down(placement(8), lease(8))
        assert content() == whole


def content() -> dict[str, set[str]]:
    return parse_table(command("nft", "-j", "list", "table", FAMILY, "zeitwork")).content


@isolated
async def test_a_look_is_shared() -> None:
    async with host() as one:
        await one.up(placement(5), lease(5))
        first = await one.check()
        command("ip", "link", "del", tap_name(placement(5)))
        assert await one.check() is first
        network.CHECK_FRESH = 0.0
        assert await one.check() == {}


@isolated
async def test_many_at_once_and_some_cancelled_leave_a_true_table() -> None:
    async with host() as one:
        scopes = {number: trio.CancelScope() for number in range(10, 40)}

        async def up(number: int) -> None:
            with scopes[number]:
                await one.up(placement(number), lease(number))

        async with trio.open_nursery() as nursery:
            for number in scopes:
                nursery.start_soon(up, number)
            await wait_all_tasks_blocked()
            for number in list(scopes)[::3]:
                scopes[number].cancel()
        present = set(await one.taps())
        survivors = {placement(number) for number in list(scopes) if number not in list(scopes)[::3]}
        assert survivors <= present
        for number in scopes:
            await one.up(placement(number), lease(number))
        assert len(content()["taps"]) == len(scopes)
        async with trio.open_nursery() as nursery:
            for number in scopes:
                nursery.start_soon(one.down, placement(number), lease(number))
        assert content() == elements([])
        assert await one.close()


@isolated
async def test_one_bad_change_does_not_spoil_the_others_that_share_its_transaction() -> None:
    class Picky(Nft):
        async def apply(self, script: str) -> None:
            if "10.201.0.66" in script:
                raise Failed("not that one")
            await Nft().apply(script)

    async with host() as one:
        one.nft = Picky(direct=False)
        failed = []

        async def up(number: int) -> None:
            try:
                await one.up(placement(number), lease(number))
            except Failed:
                failed.append(number)

        async with trio.open_nursery() as nursery:
            for number in (60, 66, 61, 62):
                nursery.start_soon(up, number)
        assert failed == [66]
        assert content()["taps"] == {f'"{tap_name(placement(number))}"' for number in (60, 61, 62)}
        assert {placement(number) for number in (60, 61, 62)} <= set(await one.taps())


@isolated
async def test_a_placement_of_which_only_the_name_is_known_can_be_dropped() -> None:
    async with host() as earlier:
        await earlier.up(placement(5), lease(5))
        await earlier.up(placement(6), lease(6))
    async with host() as one:
        with pytest.raises(InvalidInput):
            await one.drop(placement(5), "eth0")
        await one.drop(placement(5), tap_name(placement(5)))
        await one.drop(placement(5), tap_name(placement(5)))
        assert set(await one.taps()) == {placement(6)}
        assert content()["pairs4"] == {f'"{tap_name(placement(6))}" . {lease(6).v4}'}


@isolated
async def test_what_a_killed_process_left_is_removed_and_the_kernel_settings_put_back() -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    await trio.to_thread.run_sync(forwarding.write_text, "0")
    before = world()
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "sysctl.json"
        for tag in ("", "0a1b2c3d"):
            made = NetworkHost(NETWORK, tag, record)
            await made.start()
            await made.up(placement(5 if tag else 6), lease(5 if tag else 6))
        assert command("cat", str(forwarding)).strip() == "1"
        first = await remove_leftovers("0a1b2c3d", Path(folder) / "other" / "sysctl.json")
        assert len(first) == 2
        assert tap_name(placement(6)) in command("ip", "-o", "link")
        done = await remove_leftovers("", record)
        assert "put back net.ipv4.ip_forward" in done
        assert command("cat", str(forwarding)).strip() == "0"
        assert world() == before
        assert await remove_leftovers("", record) == []


@dataclass(frozen=True, slots=True)
class Scripted(Nft):
    """Carries nothing out, but keeps what it was told; each change waits for ``go`` and fails with ``broken`` in it."""

    told: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    go: list[trio.Event] = field(default_factory=lambda: [trio.Event()])

    async def apply(self, script: str) -> None:
        await self.go[-1].wait()
        if any(word in script for word in self.broken):
            raise Failed("refused")
        self.told.append(script)

    async def list_table(self, family: str, table: str) -> str | None:
        raise Failed(f"refused: {family} {table}")


async def test_changes_that_share_a_transaction_are_neither_lost_nor_outlive_their_askers(tmp_path: Path) -> None:
    nft = Scripted(direct=False)
    one = NetworkHost(NETWORK, "", tmp_path / "sysctl.json", nft)

    async def change(number: int) -> None:
        await one._commit(network._Change("add", Guest(tap_name(placement(number)), lease(number))))

    def told(number: int) -> int:
        return sum(tap_name(placement(number)) in script for script in nft.told)

    nft.broken.append(tap_name(placement(3)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(change, 1)
        await wait_all_tasks_blocked()  # 1 is being applied, the others wait for it
        nursery.start_soon(change, 2)
        await wait_all_tasks_blocked()
        gone = trio.CancelScope()

        async def cancelled() -> None:
            with gone:
                await change(3)

        nursery.start_soon(cancelled)
        await wait_all_tasks_blocked()
        nft.go.append(trio.Event())
        nft.go[0].set()
        await wait_all_tasks_blocked()  # 2 took 3 into its transaction, which is under way
        nursery.start_soon(change, 4)
        gone.cancel()
        await wait_all_tasks_blocked()
        nft.go[1].set()
    nft.broken.clear()
    await change(5)
    assert [told(number) for number in (1, 2, 3, 4, 5)] == [1, 1, 0, 1, 1]
    assert {tap_name(placement(number)) for number in (1, 2, 4, 5)} == set(one._guests)
