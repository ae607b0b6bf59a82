"""What takes commands on a host, with a host's actor that is slow, gone or stopping, and a disk that is full."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from actors.commands import receiver as module
from actors.commands.messages import NAME, CommandKind, Taken
from actors.commands.receiver import receiver
from actors.host.messages import NAME as HOST
from actors.host.messages import Attend
from actors.model.errors import Conflict, Unavailable
from runtime import Actor, AskTimeout, Message, Reply, RequestFailed, SimulatedEnvironment, Spec, System
from runtime.links.errors import StaleEpoch
from tests.actors.commands.orders import EPOCH, command

HERE = UUID(int=1)


@dataclass
class Disk:
    """The epoch on a host's disk, and what is done to it and in which order beside what the host is asked."""

    epoch: int = 0
    full: bool = False
    log: list[object] = field(default_factory=list)

    @property
    def highest(self) -> int:
        return self.epoch

    async def load(self) -> int:
        await trio.sleep(0.01)
        return self.epoch

    async def keep(self, epoch: int) -> None:
        await trio.sleep(0.01)
        if self.full:
            raise OSError("no space left on device")
        self.log.append(epoch)
        self.epoch = max(self.epoch, epoch)


class Host(Actor):
    """Answers ``says``, or keeps whoever asks waiting."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.says: str | Exception | None = "running"
        self.slow = False
        self.waiting: list[Reply] = []

    async def receive(self, message: Message) -> None:
        assert isinstance(message, Attend)
        self.disk.log.append(message)
        if self.slow:
            self.waiting.append(self.ctx.reply_slot())
        elif isinstance(self.says, Exception):
            self.ctx.fail(self.says)
        else:
            self.ctx.reply(self.says)


@asynccontextmanager
async def here(disk: Disk) -> AsyncIterator[tuple[System, Host]]:
    host = Host(disk)
    async with System(SimulatedEnvironment()) as system:
        await system.start(Spec(HOST, lambda: host))
        await system.start(receiver(HERE, disk, system.name(HOST)))
        yield system, host


async def test_a_leader_whose_successor_the_host_knows_by_the_lease_is_refused(autojump_clock: MockClock) -> None:
    """Found by a simulated world: only what commands had told was counted, so a late one was heeded."""
    disk = Disk()
    async with here(disk) as (system, _):
        ref = system.name(NAME)
        await ref.ask(command(), timeout=5)
        # As the elector does when it finds another one's lease.
        await disk.keep(EPOCH + 1)
        with pytest.raises(StaleEpoch):
            await ref.ask(command(generation=2), timeout=5)
        told = command(generation=2, epoch=EPOCH + 1)
        assert (await ref.ask(told, timeout=5)).epoch == EPOCH + 1
        assert [one for one in disk.log if isinstance(one, Attend)][1:] == [Attend(told.placement_id, starts=True)]


async def test_a_new_leaders_epoch_is_on_the_disk_before_anything_is_done_for_it(autojump_clock: MockClock) -> None:
    disk = Disk(epoch=EPOCH - 1)
    async with here(disk) as (system, _):
        ref, told = system.name(NAME), command()
        answer = await ref.ask(told, timeout=5)
        assert answer == Taken(told.placement_id, told.generation, EPOCH, "running")
        assert disk.log == [EPOCH, Attend(told.placement_id, starts=True)]
        end = command(CommandKind.DELETE)
        await ref.ask(end, timeout=5)
        assert disk.log[2:] == [Attend(end.placement_id)]
        with pytest.raises(StaleEpoch):
            await ref.ask(command(epoch=EPOCH - 1), timeout=5)
        late = await ref.ask(told, timeout=5)
        assert late == Taken(told.placement_id, told.generation, EPOCH, superseded=True)
        assert len(disk.log) == 3


async def test_the_epoch_survives_its_process(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with here(disk) as (system, _):
        await system.name(NAME).ask(command(), timeout=5)
    async with here(disk) as (system, _):
        with pytest.raises(StaleEpoch):
            await system.name(NAME).ask(command(epoch=EPOCH - 1), timeout=5)


async def test_an_epoch_that_cannot_be_kept_is_obeyed_in_nothing(autojump_clock: MockClock) -> None:
    disk = Disk(full=True)
    async with here(disk) as (system, _):
        with pytest.raises(Unavailable, match="no space left"):
            await system.name(NAME).ask(command(), timeout=5)
        assert disk.log == []
        # An earlier leader is not obeyed either: a later one has spoken.
        with pytest.raises(StaleEpoch):
            await system.name(NAME).ask(command(epoch=EPOCH - 1), timeout=5)
        disk.full = False
        await system.name(NAME).ask(command(), timeout=5)
        assert disk.log[0] == EPOCH


async def test_what_comes_too_late_is_not_carried_out(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with here(disk) as (system, _):
        for deadline in (0.0, -3.0):
            with pytest.raises(Conflict) as refused:
                await system.name(NAME).ask(command(deadline=deadline), timeout=5)
            assert refused.value.code == "expired"
        assert disk.log == []


async def test_a_host_that_does_not_answer_in_time_or_is_gone(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with here(disk) as (system, host):
        host.slow = True
        began = trio.current_time()
        with pytest.raises((RequestFailed, AskTimeout)):
            await system.name(NAME).ask(command(deadline=2.0), timeout=5)
        assert trio.current_time() - began <= 2.5
        # Whoever was kept waiting no longer counts, and what comes next does.
        for slot in host.waiting:
            slot.reply("late")
        host.slow = False
        await system.name(NAME).ask(command(), timeout=5)
        await system.stop(HOST)
        with pytest.raises(RequestFailed, match="no such actor"):
            await system.name(NAME).ask(command(), timeout=5)


async def test_what_the_host_refuses_is_refused(autojump_clock: MockClock) -> None:
    async with here(Disk()) as (system, host):
        host.says = Conflict("this host stops all of its machines", code="host-stopping")
        with pytest.raises(Conflict) as refused:
            await system.name(NAME).ask(command(), timeout=5)
        assert refused.value.code == "host-stopping"


async def test_more_than_it_can_take_is_refused_and_hurts_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_IN_WORK", 3)
    async with here(Disk()) as (system, host):
        host.slow = True
        refused: list[str] = []

        async def ask(number: int) -> None:
            try:
                await system.name(NAME).ask(replace(command(), instance_id=UUID(int=number)), timeout=3)
            except Unavailable as error:
                refused.append(error.code)
            except (RequestFailed, AskTimeout):
                refused.append("late")

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, number)
        assert sorted(refused) == ["busy"] * 7 + ["late"] * 3
        host.slow = False
        await system.name(NAME).ask(command(), timeout=5)
