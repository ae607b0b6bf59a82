"""What packets may do: real guests' IP stacks on real TAPs, a real world outside, the real rules."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from uuid import UUID

from actors.model.network import HostNetwork, Lease
from actors.tap.network import NetworkHost
from actors.tap.nft import EDITION
from actors.tap.wanted import tap_name
from tests.actors.tap.guest import Guest, Outside, command, tcp_client, tcp_server, udp_sink, udp_spray
from tests.actors.tap.isolated import isolated

NETWORK = HostNetwork(v6=IPv6Network("fd12:3456:789a:1::/64"), v4=IPv4Network("10.201.0.0/22"))
PLACEMENTS = [UUID(int=0x7 << 76 | 0b10 << 62 | n) for n in (1, 2)]
LEASES = [Lease(IPv6Address(f"fd12:3456:789a:1::{n:x}"), IPv4Address(f"10.201.0.{n}")) for n in (5, 6)]
TAPS = [tap_name(placement) for placement in PLACEMENTS]
REFUSED, SILENCE = "refused", "silence"


@asynccontextmanager
async def network(which: HostNetwork = NETWORK, tag: str = "") -> AsyncIterator[NetworkHost]:
    with tempfile.TemporaryDirectory() as folder:
        host = NetworkHost(which, tag, Path(folder) / "sysctls.json")
        await host.start()
        yield host


@asynccontextmanager
async def two_guests() -> AsyncIterator[tuple[Guest, Guest]]:
    async with network() as host, AsyncExitStack():
        for placement, lease in zip(PLACEMENTS, LEASES, strict=True):
            await host.up(placement, lease)
        with Guest(TAPS[0], LEASES[0]) as first, Guest(TAPS[1], LEASES[1]) as second:
            yield first, second


def here(program: str) -> str:
    return command(sys.executable, "-I", "-S", "-c", program).strip()


def start_here(program: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-I", "-S", "-u", "-c", program]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def dropped(comment: str) -> int:
    """Return how many packets the rule with this comment dropped."""
    listing = command("nft", "list", "ruleset")
    lines = [line for line in listing.splitlines() if f'comment "{comment}"' in line]
    assert lines, listing
    return sum(int(line.split("counter packets ")[1].split()[0]) for line in lines)


def until_dropped(comment: str, count: int) -> None:
    """Wait until the rule with this comment has dropped so many: who sent them may have given up sooner."""
    end = time.monotonic() + 90
    while dropped(comment) < count:
        assert time.monotonic() < end, dropped(comment)
        time.sleep(0.05)


@isolated
async def test_host_reaches_guest_and_guest_sees_the_hosts_own_addresses() -> None:
    async with two_guests() as (guest, _):
        guest.start(tcp_server(80))
        assert here(tcp_client(str(LEASES[0].v4), 80)) == "169.254.0.1"
        assert here(tcp_client(str(LEASES[0].v6), 80)) == "fd12:3456:789a:1::1"
        command("busybox", "ping", "-c1", "-W3", str(LEASES[0].v4))


@isolated
async def test_guest_does_not_reach_the_host() -> None:
    with Outside():
        async with two_guests() as (guest, _):
            server = start_here(tcp_server(8080))
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            for address in ("169.254.0.1", "192.0.2.2", "2001:db8::2", "fd12:3456:789a:1::1"):
                assert guest.python(tcp_client(address, 8080, timeout=0.5)) == SILENCE, address
            assert guest.run("busybox", "ping", "-c1", "-W1", "169.254.0.1", check=False).returncode != 0
            until_dropped("guest to host", 5)


@isolated
async def test_guest_does_not_reach_another_guest() -> None:
    async with two_guests() as (first, second):
        second.start(tcp_server(80))
        for address in (LEASES[1].v4, LEASES[1].v6):
            assert first.python(tcp_client(str(address), 80, timeout=0.5)) == SILENCE
        until_dropped("guest to guest", 2)
        # And the proof that it was the rules: the host reaches that very server.
        assert here(tcp_client(str(LEASES[1].v4), 80)) == "169.254.0.1"


@isolated
async def test_guests_of_two_host_processes_do_not_reach_each_other() -> None:
    other = HostNetwork(IPv6Network("fd99:1:1:1::/64"), IPv4Network("10.202.0.0/22"))
    lease = Lease(IPv6Address("fd99:1:1:1::5"), IPv4Address("10.202.0.5"))
    async with network() as one, network(other, "0a1b2c3d") as two:
        await one.up(PLACEMENTS[0], LEASES[0])
        await two.up(PLACEMENTS[1], lease)
        with Guest(TAPS[0], LEASES[0]) as mine, Guest(TAPS[1], lease) as theirs:
            for target, source, address in (
                (theirs, mine, lease.v4), (theirs, mine, lease.v6),
                (mine, theirs, LEASES[0].v4), (mine, theirs, LEASES[0].v6),
            ):  # fmt: skip
                port = 8000 + int(address) % 1000
                target.start(tcp_server(port))
                assert source.python(tcp_client(str(address), port, timeout=0.5)) == SILENCE
                assert here(tcp_client(str(address), port)) != SILENCE
        # Each process takes its own away and leaves the other's.
        await one.down(PLACEMENTS[0], LEASES[0])
        assert await one.close()
        assert await two.taps()
        assert "zeitwork_0a1b2c3d" in tables()
        assert "table inet zeitwork\n" not in tables()


def tables() -> str:
    return command("nft", "list", "tables")


@isolated
async def test_guest_reaches_outside_under_the_hosts_addresses() -> None:
    with Outside() as outside:
        outside.start(tcp_server(443))
        async with two_guests() as (guest, _):
            assert guest.python(tcp_client("192.0.2.1", 443)) == "192.0.2.2"
            # Nobody outside could answer a private prefix, so it leaves under the host's address too.
            assert guest.python(tcp_client("2001:db8::1", 443)) == "2001:db8::2"


@isolated
async def test_a_public_prefix_is_not_translated_and_is_reached_from_outside() -> None:
    public = HostNetwork(IPv6Network("2001:db8:5:1::/64"), NETWORK.v4)
    lease = Lease(IPv6Address("2001:db8:5:1::7"), LEASES[0].v4)
    with Outside() as outside:
        outside.start(tcp_server(443))
        outside.run("ip", "route", "add", "2001:db8:5::/48", "via", "2001:db8::2")
        outside.run("ip", "route", "add", "10.201.0.0/22", "via", "192.0.2.2")
        async with network(public) as host:
            await host.up(PLACEMENTS[0], lease)
            with Guest(TAPS[0], lease) as guest:
                guest.start(tcp_server(80))
                assert guest.python(tcp_client("2001:db8::1", 443)) == "2001:db8:5:1::7"
                assert outside.python(tcp_client(str(lease.v6), 80)) == "2001:db8::1"
                # IPv4 of a guest is for this host alone, even to who knows the way.
                assert outside.python(tcp_client(str(lease.v4), 80, timeout=0.5)) == SILENCE
                until_dropped("outside to guest", 1)
                # An address that nobody has ends at the host, it does not travel in circles.
                assert outside.python(tcp_client("2001:db8:5:1::8", 80)) == REFUSED


@isolated
async def test_cloud_credentials_are_out_of_reach() -> None:
    with Outside() as outside:
        outside.run("ip", "address", "add", "169.254.169.254/32", "dev", "eth0")
        outside.start(tcp_server(80))
        async with two_guests() as (guest, _):
            command("ip", "route", "add", "169.254.169.254/32", "dev", "uplink")
            assert here(tcp_client("169.254.169.254", 80)) == "192.0.2.2"
            assert guest.python(tcp_client("169.254.169.254", 80, timeout=0.5)) == SILENCE
            until_dropped("link-local, cloud metadata", 1)


@isolated
async def test_spoofed_packets_go_nowhere() -> None:
    """The neighbour's address, the host's, a stranger's: only the leased one passes, to the host and to outside."""
    with Outside() as outside:
        async with two_guests() as (guest, _):
            sink = outside.start(udp_sink(9000))
            sources = [str(LEASES[1].v4), "192.0.2.2", "198.51.100.7", "127.0.0.9", str(LEASES[0].v4)]
            sources += [str(LEASES[1].v6), "2001:db8::2", "2001:db8:bad::1", str(LEASES[0].v6)]
            for source in sources:
                family = "-6" if ":" in source else "-4"
                guest.run("ip", family, "address", "replace", source, "dev", "eth0", *(["nodad"] * (family == "-6")))
            before = dropped("not this guest's address")
            for source in sources:
                target = "2001:db8::1" if ":" in source else "192.0.2.1"
                guest.python(udp_spray(source, target, 9000, source))
            assert sink.stdout is not None
            # In order of sending, so the two that pass prove that the others did not.
            assert [sink.stdout.readline().strip() for _ in range(2)] == [str(LEASES[0].v4), str(LEASES[0].v6)]
            until_dropped("not this guest's address", before + len(sources) - 3)  # 127/8 may not even leave


@isolated
async def test_a_guest_can_not_take_over_another_ones_address_with_arp_or_ndp() -> None:
    async with two_guests() as (first, second):
        second.start(tcp_server(80))
        first.run("ip", "address", "add", f"{LEASES[1].v4}/32", "dev", "eth0")
        first.run("ip", "address", "add", f"{LEASES[1].v6}/128", "dev", "eth0", "nodad")
        first.run("busybox", "arping", "-c2", "-U", "-I", "eth0", str(LEASES[1].v4), check=False)
        first.start(tcp_server(80))
        for address in (LEASES[1].v4, LEASES[1].v6):
            found = command("ip", "route", "get", str(address))
            assert f"dev {TAPS[1]}" in found
            assert here(tcp_client(str(address), 80)) != SILENCE
        neighbours = command("ip", "neigh")
        assert [line for line in neighbours.splitlines() if str(LEASES[1].v4) in line and "PERMANENT" in line]


@isolated
async def test_ipv4_alone() -> None:
    command("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
    command("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
    lease = Lease(None, LEASES[0].v4)
    async with network(HostNetwork(None, NETWORK.v4)) as host:
        await host.up(PLACEMENTS[0], lease)
        with Guest(TAPS[0], lease) as guest:
            guest.start(tcp_server(80, host="0.0.0.0"))
            assert here(tcp_client(str(lease.v4), 80)) == "169.254.0.1"
        await host.down(PLACEMENTS[0], lease)
        assert await host.close()


@isolated
async def test_ipv6_everywhere_but_on_loopback() -> None:
    command("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6")
    async with network() as host:
        await host.up(PLACEMENTS[0], LEASES[0])
        with Guest(TAPS[0], LEASES[0]) as guest:
            guest.start(tcp_server(80))
            assert here(tcp_client(str(LEASES[0].v6), 80)).startswith("fe80::1")
        await host.down(PLACEMENTS[0], LEASES[0])
        assert await host.close()


@isolated
async def test_a_connection_outlives_the_host_process_and_new_rules() -> None:
    """What an upgrade does: another process, other rules, the same guests, no packet lost to us."""
    async with two_guests() as (guest, _):
        guest.start(tcp_server(80, answers=2))
        client = start_here(tcp_client(str(LEASES[0].v4), 80, answers=2))
        assert client.stdout is not None
        assert client.stdin is not None
        assert client.stdout.readline().strip() == "169.254.0.1"
        command("nft", "delete", "chain", "inet", "zeitwork", EDITION)
        async with network():
            client.stdin.write("next\n")
            client.stdin.flush()
            assert client.stdout.readline().strip() == "169.254.0.1"
            # Nobody told the successor of the guests yet, and still they are held to their addresses.
            assert guest.python(tcp_client("169.254.0.1", 8080, timeout=0.5)) == SILENCE
        client.wait(90)
        # Of a device that is gone nothing stays in the rules of the next process.
        command("ip", "link", "del", TAPS[1])
        async with network():
            assert TAPS[0] in command("nft", "list", "table", "inet", "zeitwork")
            assert TAPS[1] not in command("nft", "list", "table", "inet", "zeitwork")
            assert str(LEASES[1].v4) not in command("nft", "list", "table", "inet", "zeitwork")
