from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
import trio

from actors.ipam_lease import actor
from actors.ipam_lease.actor import NAME, IpamLease
from actors.ipam_lease.messages import Expire, Usage
from actors.ipam_lease.store import PoolUsage
from actors.model.errors import Unavailable
from runtime import Ref, Spec, System

NODE = UUID(int=7)
POOLS = (PoolUsage(4, "10.201.0.0/22", 1022, 3, 1), PoolUsage(6, "fd00::/64", 1 << 62, 3, 1))


class Store:
    """Leases whose rest is over, in numbers."""

    def __init__(self) -> None:
        self.rested = 0
        self.sweeps = 0
        self.error: Exception | None = None
        self.gate: trio.Event | None = None
        self.swept = trio.Event()

    async def usage(self, node_id: UUID) -> tuple[PoolUsage, ...]:
        assert node_id == NODE
        await self._wait()
        return POOLS

    async def expire_rested(self, node_id: UUID) -> int:
        assert node_id == NODE
        self.sweeps += 1
        swept, self.swept = self.swept, trio.Event()
        swept.set()
        await self._wait()
        found, self.rested = self.rested, 0
        return found

    async def _wait(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def store() -> Store:
    return Store()


@asynccontextmanager
async def running(store: Store) -> AsyncIterator[Ref]:
    async with System() as system:
        yield await system.start(Spec(NAME, lambda: IpamLease(store, NODE)))


async def test_addresses_that_have_rested_go_again_and_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "INTERVAL", 0.02)
    store.rested = 5
    async with running(store):
        with trio.fail_after(90):
            for _ in range(3):
                await store.swept.wait()
    assert store.rested == 0


async def test_a_sweep_that_fails_is_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "INTERVAL", 0.02)
    store.rested, store.error = 5, Unavailable("the database is away")
    async with running(store):
        with trio.fail_after(90):
            for _ in range(3):
                await store.swept.wait()
            store.error = None
            await store.swept.wait()
            await store.swept.wait()
    assert store.rested == 0


async def test_one_sweep_at_a_time(store: Store) -> None:
    store.gate = trio.Event()
    swept = store.swept
    async with running(store) as ref:
        for _ in range(20):
            ref.tell(Expire())
        with trio.fail_after(90):
            await swept.wait()
        # A request that came after all of them is answered, so all of them were handled.
        store.gate.set()
        await ref.ask(Usage(), timeout=90)
        assert store.sweeps < 20


async def test_usage_is_answered_even_while_a_sweep_hangs(store: Store) -> None:
    class Hanging(Store):
        async def expire_rested(self, node_id: UUID) -> int:
            await trio.sleep_forever()
            raise AssertionError

    async with running(Hanging()) as ref:
        ref.tell(Expire())
        assert await ref.ask(Usage(), timeout=90) == POOLS


async def test_while_the_database_is_away_who_asks_is_told_so(store: Store) -> None:
    store.error = Unavailable("the database is away", fix="wait")
    async with running(store) as ref:
        with pytest.raises(Unavailable, match="away") as caught:
            await ref.ask(Usage(), timeout=90)
        assert caught.value.fix == "wait"
        store.error = OSError("cut")
        with pytest.raises(Unavailable):
            await ref.ask(Usage(), timeout=90)
        store.error = None
        assert await ref.ask(Usage(), timeout=90) == POOLS


async def test_too_many_who_ask_are_refused_not_hoarded(store: Store) -> None:
    gate = store.gate = trio.Event()
    refused = 0

    async with running(store) as ref, trio.open_nursery() as nursery:

        async def ask() -> None:
            nonlocal refused
            try:
                await ref.ask(Usage(), timeout=90)
            except Unavailable:
                refused += 1
                gate.set()

        for _ in range(actor.MOST_COUNTS + 2):
            nursery.start_soon(ask)
    assert refused == 2
