"""The actor that takes commands: real memory of epochs on disk, and a host that notes what it is woken for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from actors.commands.messages import NAME, Taken
from actors.commands.receiver import receiver
from actors.host.messages import NAME as HOST
from actors.host.messages import Attend
from runtime import Actor, Message, Ref, Spec, System
from runtime.links.errors import StaleEpoch
from tests.actors.commands.orders import EPOCH, command
from zeitwork.epochs import EpochFile

HERE = UUID(int=1)


class Host(Actor):
    def __init__(self, woken: list[UUID]) -> None:
        self._woken = woken

    async def receive(self, message: Message) -> None:
        assert isinstance(message, Attend)
        self._woken.append(message.placement_id)
        self.ctx.reply("running")


@asynccontextmanager
async def receiving(epochs: EpochFile, woken: list[UUID]) -> AsyncIterator[Ref]:
    async with System() as system:
        await system.start(Spec(HOST, lambda: Host(woken)))
        await system.start(receiver(HERE, epochs, system.name(HOST)))
        yield system.name(NAME)


async def test_a_command_wakes_the_host_and_its_epoch_is_kept(tmp_path: Path) -> None:
    epochs, woken = EpochFile(tmp_path / "epoch"), list[UUID]()
    async with receiving(epochs, woken) as ref:
        one = command()
        assert await ref.ask(one, timeout=5.0) == Taken(one.placement_id, 1, EPOCH, "running")
    assert woken == [one.placement_id]
    assert await EpochFile(tmp_path / "epoch").load() == EPOCH


async def test_a_leader_whose_successor_the_host_has_learnt_of_from_the_lease_is_refused(tmp_path: Path) -> None:
    """Found by a simulated world: only what commands had told was counted, so a late one was heeded."""
    epochs, woken = EpochFile(tmp_path / "epoch"), list[UUID]()
    async with receiving(epochs, woken) as ref:
        await ref.ask(command(), timeout=5.0)
        # As the elector does, which has found another one's lease.
        await epochs.keep(EPOCH + 1)
        with pytest.raises(StaleEpoch):
            await ref.ask(command(generation=2), timeout=5.0)
        assert await ref.ask(command(generation=2, epoch=EPOCH + 1), timeout=5.0)
    assert len(woken) == 2


async def test_what_was_kept_before_the_start_counts(tmp_path: Path) -> None:
    await EpochFile(tmp_path / "epoch").keep(EPOCH + 1)
    async with receiving(EpochFile(tmp_path / "epoch"), []) as ref:
        with pytest.raises(StaleEpoch):
            await ref.ask(command(), timeout=5.0)
