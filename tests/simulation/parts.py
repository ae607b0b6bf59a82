"""What a host of a world has in place of what needs a real machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from actors.images.messages import EnsureRoot
from actors.model.errors import Failed
from actors.model.image import ImageConfig, RootImage
from runtime import Actor, Message
from tests.actors.vm.simulated import Life

if TYPE_CHECKING:
    from tests.simulation.host import SimulatedHost


class Epochs:
    """`runtime.lease.EpochMemory` on the machine's disk."""

    def __init__(self, host: SimulatedHost, life: Life) -> None:
        self._host, self._life = host, life

    @property
    def highest(self) -> int:
        """Return the highest epoch kept."""
        return self._host.epoch

    async def load(self) -> int:
        """Return the highest epoch kept."""
        await trio.lowlevel.checkpoint()
        return self._host.epoch

    async def keep(self, epoch: int) -> None:
        """Keep an epoch."""
        await trio.lowlevel.checkpoint()
        await self._life.going_on()
        if not self._life.dead:
            self._host.epoch = max(self._host.epoch, epoch)


class Images(Actor):
    """The images actor of a host that has every image."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def receive(self, message: Message) -> None:
        """Answer at once."""
        assert isinstance(message, EnsureRoot)
        await trio.lowlevel.checkpoint()
        if self._host.fails == "image":
            self.ctx.fail(Failed("the image can't be had"))
        else:
            self.ctx.reply(RootImage(message.digest, "/nowhere/root", ImageConfig()))
