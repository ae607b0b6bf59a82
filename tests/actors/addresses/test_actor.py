from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_interface
from uuid import UUID

import pytest
import trio
import trio.testing

from actors.addresses import actor
from actors.addresses.actor import Addresses
from actors.model.errors import Unavailable
from actors.model.network import OwnAddress, OwnAddresses
from runtime import Spec, System

NODE = UUID(int=7)


def having(address: str) -> OwnAddresses:
    item = OwnAddress("eth0", ip_interface(address), primary=True)
    return OwnAddresses((item,), item)


ONE, TWO, THREE = having("192.0.2.1/24"), having("192.0.2.2/24"), having("2001:db8::3/64")


class Store:
    """Remembers what was written; refuses while ``away``, waits while ``slow``."""

    def __init__(self) -> None:
        self.written: list[OwnAddresses] = []
        self.tries = 0
        self.away = False
        self.slow: trio.Event | None = None
        self.send, self.tried = trio.open_memory_channel[OwnAddresses](100)

    async def record_addresses(self, node_id: UUID, own: OwnAddresses) -> None:
        assert node_id == NODE
        self.tries += 1
        self.send.send_nowait(own)
        if self.slow is not None:
            await self.slow.wait()
        if self.away:
            raise Unavailable("the database is away")
        self.written.append(own)


class Kernel:
    """Says what the test says; ends with an error when it is told so."""

    def __init__(self) -> None:
        self.starts = 0
        self.say, self._said = trio.open_memory_channel[OwnAddresses | None](10)

    async def follow(self, report: Callable[[OwnAddresses], Awaitable[None]]) -> None:
        self.starts += 1
        async for said in self._said:
            if said is None:
                raise OSError(1, "no netlink here")
            await report(said)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(actor, "BACKOFF_FIRST", 0.01)
    return Kernel()


@asynccontextmanager
async def addresses(store: Store, kernel: Kernel) -> AsyncIterator[None]:
    async with System() as system:
        await system.start(Spec("addresses", lambda: Addresses(store, NODE, follower=kernel.follow)))
        with trio.fail_after(90):
            yield


async def test_what_is_seen_is_written_once(store: Store, kernel: Kernel) -> None:
    async with addresses(store, kernel):
        for own in (ONE, ONE, TWO):
            await kernel.say.send(own)
        assert await store.tried.receive() == ONE
        assert await store.tried.receive() == TWO
    assert store.written == [ONE, TWO]


async def test_only_the_last_state_is_written_after_a_slow_answer(store: Store, kernel: Kernel) -> None:
    store.slow = trio.Event()
    async with addresses(store, kernel):
        await kernel.say.send(ONE)
        assert await store.tried.receive() == ONE
        for own in (TWO, THREE):
            await kernel.say.send(own)
        await trio.testing.wait_all_tasks_blocked()
        store.slow.set()
        assert await store.tried.receive() == THREE
    assert store.written == [ONE, THREE]


async def test_a_database_that_is_away_is_asked_again(store: Store, kernel: Kernel) -> None:
    store.away = True
    async with addresses(store, kernel):
        await kernel.say.send(ONE)
        for _ in range(3):
            await store.tried.receive()
        store.away = False
        while not store.written:
            await store.tried.receive()
    assert store.written == [ONE]


async def test_following_begins_again_when_it_ends(store: Store, kernel: Kernel) -> None:
    async with addresses(store, kernel):
        await kernel.say.send(ONE)
        assert await store.tried.receive() == ONE
        for _ in range(2):
            await kernel.say.send(None)
        await kernel.say.send(TWO)
        assert await store.tried.receive() == TWO
    assert kernel.starts == 3
