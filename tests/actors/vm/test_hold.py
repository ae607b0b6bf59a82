"""Guests held still and let go on, told by what a monitor and an agent that fail now and then were asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog

from actors.model.errors import Failed, Unavailable
from actors.model.records import SnapshotMade
from actors.vm import hold
from actors.vm.keeper import SnapshotKeeper
from runtime import SimulatedEnvironment

RUN = Path("/run/x")
ONE = UUID(int=1)


class Guest:
    """Monitor and agent of one guest. ``broken`` are requests that fail once; ``silent`` ones whose answer is lost."""

    def __init__(self, *, broken: tuple[str, ...] = (), silent: tuple[str, ...] = (), still: bool = False) -> None:
        self.asked: list[str] = []
        self.still = still
        self.frozen = False
        self.connected = True
        self.resets = 0
        self._broken, self._silent = list(broken), list(silent)

    def _did(self, what: str) -> None:
        self.asked.append(what)
        if what in self._broken:
            self._broken.remove(what)
            raise Failed(f"{what} refused")

    def _answer(self, what: str) -> None:
        if what in self._silent:
            self._silent.remove(what)
            raise Unavailable("the connection to the guest broke off")

    # --- the monitor

    async def paused(self, run: Path) -> bool:
        return self.still

    async def pause(self, run: Path) -> None:
        self._did("pause")
        self.still = True

    async def resume(self, run: Path) -> None:
        self._did("resume")
        self.still = False

    # --- the agent

    async def wait_connected(self, deadline: float) -> None:
        if not self.connected:
            raise Unavailable("nobody there")

    def reset(self) -> None:
        self.resets += 1

    async def freeze(self, deadline: float) -> None:
        assert not self.still, "one that is held still hears nothing"
        self._did("freeze")
        self.frozen = True
        self._answer("freeze")

    async def thaw(self, epoch: float, deadline: float) -> None:
        assert not self.still, "one that is held still hears nothing"
        self._did(f"thaw at {epoch:.0f}")
        self.frozen = False
        self._answer("thaw")


def parts(guest: Guest) -> Any:
    return guest


async def test_a_guest_is_frozen_first_and_thawed_last() -> None:
    guest = Guest()
    assert await hold.hold(parts(guest), RUN, parts(guest))
    await hold.release(parts(guest), RUN, parts(guest), 1000.0)
    assert guest.asked == ["freeze", "pause", "resume", "thaw at 1000"]


async def test_one_that_is_held_still_is_not_asked_again() -> None:
    guest = Guest(still=True)
    await hold.hold(parts(guest), RUN, parts(guest))
    assert guest.asked == []


async def test_a_pause_does_not_need_the_agent() -> None:
    guest = Guest()
    assert not await hold.hold(parts(guest), RUN, None)
    await hold.release(parts(guest), RUN, None, 1.0)
    assert guest.asked == ["pause", "resume"]
    refusing = Guest(broken=("freeze",))
    assert not await hold.hold(parts(refusing), RUN, parts(refusing))
    assert refusing.still


async def test_a_snapshot_does_and_lets_one_that_was_only_paused_go_on_for_it() -> None:
    guest = Guest(still=True)
    await hold.hold_frozen(parts(guest), RUN, parts(guest))
    assert guest.asked == ["resume", "freeze", "pause"]
    refusing = Guest(broken=("freeze",))
    with pytest.raises(Failed, match="freeze refused"):
        await hold.hold_frozen(parts(refusing), RUN, parts(refusing))
    assert not refusing.still


async def test_what_was_lost_on_the_way_is_asked_again_over_a_new_connection() -> None:
    guest = Guest(silent=("freeze", "thaw"))
    await hold.hold_frozen(parts(guest), RUN, parts(guest))
    await hold.release(parts(guest), RUN, parts(guest), 7.0)
    assert guest.asked == ["freeze", "freeze", "pause", "resume", "thaw at 7", "thaw at 7"]
    assert guest.resets == 2
    assert not guest.frozen


async def test_one_whose_agent_is_gone_is_told_so(autojump_clock: object) -> None:
    guest = Guest(still=True)
    guest.connected = False
    with pytest.raises(Unavailable, match="nobody there"):
        await hold.release(parts(guest), RUN, parts(guest), 1.0)
    assert not guest.still, "its CPUs go on all the same"


class Files:
    """Snapshots' files and the database's view of them."""

    def __init__(self, *, wanted: bool = True, full: bool = False, away: int = 0) -> None:
        self.wanted, self.full, self.away = wanted, full, away
        self.kept: list[UUID] = []
        self.destroyed: list[UUID] = []
        self.told: list[str] = []

    async def keep_snapshot(self, snapshot: UUID, intent: object) -> SnapshotMade:
        if self.full:
            raise OSError(28, "No space left on device")
        self.kept.append(snapshot)
        return SnapshotMade(1, "qemu", "7.2", "6.1", "cpu")

    async def destroy_snapshot(self, snapshot: UUID) -> None:
        self.destroyed.append(snapshot)

    async def taken(self, snapshot: UUID, made: SnapshotMade) -> bool:
        self._reach()
        self.told.append("ready")
        return self.wanted

    async def failed(self, snapshot: UUID, reason: str) -> None:
        self._reach()
        self.told.append(reason)

    def _reach(self) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("the database is away")


def keeper(files: Any) -> SnapshotKeeper:
    return SnapshotKeeper(files, files, SimulatedEnvironment(1), structlog.get_logger())


async def test_a_snapshot_is_kept_and_told_however_long_the_database_is_away(autojump_clock: object) -> None:
    files = Files(away=5)
    await keeper(files).keep(ONE, parts(None))
    assert (files.kept, files.told, files.destroyed) == ([ONE], ["ready"], [])


async def test_one_that_nobody_wants_any_more_leaves_nothing() -> None:
    files = Files(wanted=False)
    await keeper(files).keep(ONE, parts(None))
    assert files.destroyed == [ONE]


async def test_one_that_can_not_be_kept_is_failed_with_the_reason() -> None:
    files = Files(full=True)
    await keeper(files).keep(ONE, parts(None))
    assert files.destroyed == [ONE]
    assert files.told == ["it could not be kept: No space left on device"]
