"""A running host, as a process of its own, learns of addresses that come and go on this very machine."""

from __future__ import annotations

import subprocess
from uuid import uuid4

from tests.e2e.process import HostProcess, until

ADDRESS = "198.51.100.77"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10)


def listed(host: HostProcess) -> dict[str, str]:
    (node,) = host.get("/api/v1/nodes")["items"]
    return {item["address"]: item["interface"] for item in node["addresses"]}


def test_an_address_that_comes_and_goes(host: HostProcess) -> None:
    name = f"zt{uuid4().hex[:8]}"
    ip("link", "add", "name", name, "type", "veth", "peer", "name", f"{name}p")
    try:
        ip("link", "set", name, "up")
        ip("address", "add", f"{ADDRESS}/32", "dev", name)
        until(lambda: listed(host).get(ADDRESS) == name, "the address is known")
    finally:
        ip("link", "del", name)
    until(lambda: ADDRESS not in listed(host), "the address is forgotten")
    told = [event for event in host.get("/api/v1/events?limit=500")["items"] if event["what"] == "node.addresses"]
    assert len(told) >= 2
