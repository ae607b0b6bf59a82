"""Deletions of snapshots whose end could not be told: what was accepted is carried out."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

import trio
from trio.testing import MockClock

from actors.host.actor import SLOW_TIMER, Host
from actors.model.errors import Unavailable
from actors.model.records import Placement, SnapshotMade
from actors.vm.messages import Leftover
from runtime import SimulatedEnvironment, Spec, System

NODE, SNAPSHOT = UUID(int=1), UUID(int=2)


class Here:
    """Files and the database of a host that has one snapshot and nothing else; what is said is lost ``away`` times."""

    def __init__(self, away: int) -> None:
        self.files = {SNAPSHOT}
        self.away = away
        self.deleted = trio.Event()

    async def scan(self, known: Collection[UUID] = ()) -> tuple[UUID, ...]:
        return tuple(self.files)

    async def destroy(self, snapshot: UUID) -> None:
        self.files.discard(snapshot)

    async def deleting(self, node_id: UUID, snapshot_ids: Collection[UUID]) -> set[UUID]:
        return set() if self.deleted.is_set() else {SNAPSHOT}

    async def removed(self, snapshot_id: UUID) -> None:
        self.away -= 1
        if self.away >= 0:
            raise Unavailable("the database is away")
        self.deleted.set()

    async def taken(self, snapshot_id: UUID, made: SnapshotMade) -> bool:
        raise AssertionError

    async def failed(self, snapshot_id: UUID, reason: str) -> None:
        raise AssertionError


class Nothing:
    """Neither placements nor what is left of any."""

    async def scan(self, known: Collection[UUID]) -> tuple[Leftover, ...]:
        return ()

    async def strangers(self, known: Collection[UUID]) -> tuple[str, ...]:
        return ()

    async def destroy(self, leftover: Leftover) -> None:
        raise AssertionError

    async def prune(self) -> int:
        return 0

    async def placements(self, node_id: UUID) -> list[Placement]:
        return []

    async def observe(self, *_: object) -> bool:
        raise AssertionError

    async def tombstones(self, node_id: UUID, placement_ids: Collection[UUID]) -> set[UUID]:
        raise AssertionError


async def test_that_the_only_snapshot_is_gone_is_told_until_it_is_heard(autojump_clock: MockClock) -> None:
    here, nothing = Here(away=2), Nothing()

    def never(*_: object) -> Spec:
        raise AssertionError

    async with System(SimulatedEnvironment()) as system:
        await system.start(Spec("host", lambda: Host(NODE, "c", nothing, here, nothing, never, never, here)))
        with trio.fail_after(4 * SLOW_TIMER):
            await here.deleted.wait()
    assert here.files == set()
