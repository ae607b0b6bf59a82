"""Real interfaces, addresses and routes in network namespaces, seen through the real socket."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from actors.addresses import follow as module
from actors.addresses.follow import follow
from actors.model.network import OwnAddresses
from tests.actors.tap.isolated import isolated


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=90)


class Watcher:
    """What was reported last."""

    def __init__(self) -> None:
        self.own: OwnAddresses | None = None
        self.reports = 0
        self._changed = trio.Event()

    async def report(self, own: OwnAddresses) -> None:
        self.own = own
        self.reports += 1
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    @property
    def addresses(self) -> list[str]:
        return [f"{item.interface} {item.address}" for item in self.own.items] if self.own else []

    @property
    def main(self) -> str | None:
        return str(self.own.main.address.ip) if self.own and self.own.main else None

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.move_on_after(90) as scope:
            while self.own is None or not condition():
                await self._changed.wait()
        assert not scope.cancelled_caught, self.own


@asynccontextmanager
async def watching() -> AsyncIterator[Watcher]:
    watcher = Watcher()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, watcher.report)
        await watcher.until(lambda: True)
        yield watcher
        nursery.cancel_scope.cancel()


def device(name: str) -> None:
    """Make a link that is up at both of its ends, both here."""
    ip("link", "add", "name", name, "type", "veth", "peer", "name", f"{name}-peer")
    ip("link", "set", f"{name}-peer", "up")
    ip("link", "set", name, "up")


@isolated
async def test_addresses_come_and_go() -> None:
    async with watching() as seen:
        assert seen.own == OwnAddresses()
        device("one")
        ip("address", "add", "192.0.2.5/24", "dev", "one")
        await seen.until(lambda: seen.main == "192.0.2.5")
        device("two")
        ip("address", "add", "2001:db8::5/64", "dev", "two", "nodad")
        ip("-6", "route", "add", "default", "via", "2001:db8::1", "dev", "two")
        await seen.until(lambda: seen.main == "2001:db8::5")
        assert seen.addresses == ["two 2001:db8::5/64", "one 192.0.2.5/24"]
        ip("address", "del", "2001:db8::5/64", "dev", "two")
        await seen.until(lambda: seen.addresses == ["one 192.0.2.5/24"])
        ip("link", "del", "one")
        await seen.until(lambda: seen.addresses == [])
        assert seen.main is None


@isolated
async def test_what_is_there_before_is_found() -> None:
    device("one")
    device("two")
    ip("address", "add", "192.0.2.5/24", "dev", "one")
    ip("address", "add", "198.51.100.5/24", "dev", "two")
    ip("route", "add", "default", "via", "198.51.100.1")
    async with watching() as seen:
        assert seen.main == "198.51.100.5"
        assert seen.addresses == ["two 198.51.100.5/24", "one 192.0.2.5/24"]


@isolated
async def test_the_primary_follows_the_default_route() -> None:
    device("one")
    device("two")
    ip("address", "add", "192.0.2.5/24", "dev", "one")
    ip("address", "add", "192.0.2.6/24", "dev", "one")
    ip("address", "add", "198.51.100.5/24", "dev", "two")
    ip("route", "add", "default", "via", "192.0.2.1")
    async with watching() as seen:
        assert seen.main == "192.0.2.5"
        ip("route", "replace", "default", "via", "198.51.100.1")
        await seen.until(lambda: seen.main == "198.51.100.5")
        ip("route", "add", "default", "via", "192.0.2.1", "metric", "50")
        # The kernel does not say that a route goes with its device: all is asked again.
        ip("link", "set", "two", "down")
        await seen.until(lambda: seen.main == "192.0.2.5")
        ip("link", "set", "two", "up")
        await seen.until(lambda: "two 198.51.100.5/24" in seen.addresses)
        assert seen.main == "192.0.2.5"
        ip("route", "change", "default", "via", "192.0.2.1", "metric", "50", "src", "192.0.2.6")
        await seen.until(lambda: seen.main == "192.0.2.6")


@isolated
async def test_a_machine_without_a_way_out_is_not_called_by_its_loopback() -> None:
    ip("address", "add", "fd00:1::1/128", "dev", "lo")
    device("one")
    ip("address", "add", "192.0.2.5/24", "dev", "one")
    async with watching() as seen:
        assert seen.main == "192.0.2.5"
        assert "lo fd00:1::1/128" in seen.addresses


@isolated
async def test_a_renamed_device_has_its_new_name() -> None:
    device("one")
    ip("address", "add", "192.0.2.5/24", "dev", "one")
    async with watching() as seen:
        ip("link", "set", "one", "name", "uplink")
        await seen.until(lambda: seen.addresses == ["uplink 192.0.2.5/24"])


@isolated
async def test_the_links_of_vms_are_not_the_hosts_addresses() -> None:
    device("one")
    ip("address", "add", "192.0.2.5/24", "dev", "one")
    async with watching() as seen:
        for number in range(30):
            name = f"zwtest{number}"
            ip("tuntap", "add", name, "mode", "tap")
            ip("address", "add", "169.254.0.1/32", "dev", name)
            ip("address", "add", "fe80::1/64", "dev", name, "nodad")
            ip("link", "set", name, "up")
            ip("route", "add", f"10.5.0.{number}/32", "dev", name)
        ip("address", "add", "192.0.2.6/24", "dev", "one")
        await seen.until(lambda: len(seen.addresses) == 2)
        assert seen.reports == 2


@isolated
async def test_nothing_is_missed_when_there_is_more_than_fits() -> None:
    device("one")
    module._ROOM = 1  # the kernel makes it its least, some two kilobytes
    async with watching() as seen:
        for number in range(1, 101):
            ip("address", "add", f"192.0.2.{number}/32", "dev", "one")
        await seen.until(lambda: len(seen.addresses) == 100)
        ip("address", "flush", "dev", "one")
        await seen.until(lambda: seen.addresses == [])
