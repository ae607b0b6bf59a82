from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
import trio

from actors.model.errors import Failed, Problem
from actors.model.network import Lease
from actors.tap import actor, links, network
from actors.tap.actor import TapActor, actor_name
from actors.tap.messages import TapDevice, TapDown, TapUp
from actors.tap.network import NetworkHost
from actors.tap.wanted import Step, tap_name
from runtime import Ref, Spec, System
from tests.actors.tap.guest import command
from tests.actors.tap.isolated import isolated
from tests.actors.tap.test_network import NETWORK, content, lease, placement

ME, MINE = placement(5), lease(5)
DEVICE = TapDevice(tap_name(ME), "06:00:0a:c9:00:05")


@asynccontextmanager
async def running() -> AsyncIterator[tuple[NetworkHost, System]]:
    with tempfile.TemporaryDirectory() as folder:
        host = NetworkHost(NETWORK, "", Path(folder) / "sysctl.json")
        await host.start()
        async with System() as system:
            yield host, system


async def start(host: NetworkHost, system: System) -> Ref:
    return await system.start(Spec(actor_name(ME), lambda: TapActor(ME, MINE, host)))


@isolated
async def test_up_and_down_as_often_as_asked() -> None:
    async with running() as (host, system):
        tap = await start(host, system)
        for _ in range(2):
            assert await tap.ask(TapUp(), timeout=90) == DEVICE
        assert DEVICE.name in command("ip", "-o", "link")
        for _ in range(2):
            await tap.ask(TapDown(), timeout=90)
        assert DEVICE.name not in command("ip", "-o", "link")
        assert content()["taps"] == set()


@isolated
async def test_requests_are_done_in_the_order_they_came() -> None:
    async with running() as (host, system):
        tap = await start(host, system)
        answers: list[str] = []

        async def ask(request: TapUp | TapDown) -> None:
            await tap.ask(request, timeout=90)
            answers.append(type(request).__name__)

        async with trio.open_nursery() as nursery:
            for request in (TapUp(), TapDown(), TapUp(), TapUp(), TapDown()):
                nursery.start_soon(ask, request)
                await trio.lowlevel.checkpoint()
        assert len(answers) == 5
        # Whatever the order of arrival was, rules and device agree at the end.
        assert (DEVICE.name in command("ip", "-o", "link")) == (f'"{DEVICE.name}"' in content()["taps"])


@isolated
async def test_the_device_outlives_the_actor_and_is_adopted_by_the_next() -> None:
    async with running() as (host, system):
        await (await start(host, system)).ask(TapUp(), timeout=90)
        before = command("ip", "-o", "link", "show", DEVICE.name)
    async with running() as (host, system):
        assert command("ip", "-o", "link", "show", DEVICE.name) == before
        tap = await start(host, system)
        assert await tap.ask(TapUp(), timeout=90) == DEVICE
        assert command("ip", "-o", "link", "show", DEVICE.name) == before


@isolated
async def test_a_refusal_reaches_the_asker_as_it_is_and_the_next_request_is_served() -> None:
    there = links.TUN_DEVICE
    async with running() as (host, system):
        tap = await start(host, system)
        links.TUN_DEVICE = Path("/dev/net/none")
        with pytest.raises(Failed) as caught:
            await tap.ask(TapUp(), timeout=90)
        assert caught.value.fix == "modprobe tun"
        links.TUN_DEVICE = there
        assert await tap.ask(TapUp(), timeout=90) == DEVICE


@isolated
async def test_too_many_requests_are_refused_not_hoarded() -> None:
    gate = trio.Event()

    class Slow(NetworkHost):
        async def up(self, placement_id: UUID, lease: Lease, *, uid: int | None = None) -> list[Step]:
            await gate.wait()
            return []

    async with running() as (host, system):
        host = Slow(host.network, host.tag, host.record)
        tap = await start(host, system)
        refused: list[Problem] = []

        async def ask() -> None:
            try:
                await tap.ask(TapUp(), timeout=90)
            except Problem as problem:
                refused.append(problem)
                if len(refused) == 3:
                    gate.set()

        async with trio.open_nursery() as nursery:
            for _ in range(actor.QUEUE + 3):
                nursery.start_soon(ask)
        assert [problem.code for problem in refused] == ["unavailable"] * 3


@isolated
async def test_rules_and_a_device_that_somebody_damaged_are_mended_without_being_asked() -> None:
    network.CHECK_FRESH, actor.CHECK_EVERY = 0.0, 0.05
    async with running() as (host, system):
        tap = await start(host, system)
        await tap.ask(TapUp(), timeout=90)
        whole = content()
        for damage in (("nft", "flush", "ruleset"), ("ip", "link", "set", DEVICE.name, "down")):
            command(*damage)
            with trio.fail_after(120):
                while not await mended(host, whole):  # noqa: ASYNC110 - the kernel tells nobody
                    await trio.sleep(0.05)


async def mended(host: NetworkHost, whole: dict[str, set[str]]) -> bool:
    listing = await host.nft.list_table("inet", host.table)
    up = "UP" in command("ip", "-o", "link", "show", DEVICE.name).split("<")[1].split(">")[0].split(",")
    return up and listing is not None and content() == whole
