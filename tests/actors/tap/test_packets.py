"""What packets may do: real guests' IP stacks on real TAPs, a real world outside, the real rules."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from uuid import UUID

from actors.model.network import HostNetwork, Lease
from actors.tap.network import NetworkHost
from actors.tap.wanted import tap_name
from tests.actors.tap.guest import Guest, tcp_client, tcp_server
from tests.actors.tap.isolated import isolated

NETWORK = HostNetwork(v6=IPv6Network("fd12:3456:789a:1::/64"), v4=IPv4Network("10.201.3.0/24"))
PLACEMENTS = [UUID(int=n << 76 | 0x7 << 76 | 0b10 << 62 | n) for n in (1, 2)]
LEASES = [Lease(IPv6Address(f"fd12:3456:789a:1::{n + 5:x}"), IPv4Address(f"10.201.3.{n + 5}")) for n in (0, 1)]


@asynccontextmanager
async def network(which: HostNetwork = NETWORK, tag: str = "") -> AsyncIterator[NetworkHost]:
    with tempfile.TemporaryDirectory() as folder:
        host = NetworkHost(which, tag, Path(folder) / "sysctls.json")
        await host.start()
        yield host


def here(program: str) -> str:
    command = [sys.executable, "-I", "-S", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


@isolated
async def test_the_host_reaches_its_guest_by_both_families() -> None:
    async with network() as host:
        await host.up(PLACEMENTS[0], LEASES[0])
        with Guest(tap_name(PLACEMENTS[0]), LEASES[0]) as guest:
            guest.start(tcp_server(80))
            assert here(tcp_client(str(LEASES[0].v4), 80)) == "169.254.0.1"
            assert here(tcp_client(str(LEASES[0].v6), 80)) == "fd12:3456:789a:1::1"
