"""The TAP of one placement: made, watched and removed on request. The device outlives the actor, as its VM does."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from uuid import UUID

from actors.model.errors import Problem, Unavailable
from actors.model.ids import short_id
from actors.model.network import Lease, guest_mac
from actors.tap.messages import TapDevice, TapDown, TapUp
from actors.tap.network import NetworkHost
from actors.tap.wanted import tap_name
from runtime import Actor, Message, Reply

#: Seconds that making or removing may take; both usually take twenty milliseconds.
DEADLINE = 30.0
#: Seconds between looks at rules and device.
CHECK_EVERY = 30.0
#: Requests that may wait for their turn.
QUEUE = 32


@dataclass(frozen=True, slots=True)
class _Tick(Message):
    """Time to look whether all is as it should be."""


@dataclass(frozen=True, slots=True)
class _Ended(Message):
    """The work at the head of the queue ended, with ``error`` or without."""

    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Watched(Message):
    """A look ended."""

    error: Exception | None = None


def actor_name(placement_id: UUID) -> str:
    """Return the name of a placement's TAP actor."""
    return f"tap/{short_id(placement_id)}"


class TapActor(Actor):
    """One piece of work at a time, in the order asked for. ``uid`` is who may attach to the device (None: root)."""

    def __init__(self, placement_id: UUID, lease: Lease, network: NetworkHost, *, uid: int | None = None) -> None:
        self._placement_id = placement_id
        self._lease = lease
        self._network = network
        self._uid = uid
        self._queue: deque[tuple[TapUp | TapDown, Reply]] = deque()
        self._working = False
        self._watching = False
        self._is_up = False

    async def init(self) -> None:
        """Touch nothing: a device that is there stays as it is until somebody asks."""
        self.ctx.every(CHECK_EVERY, _Tick())

    async def receive(self, message: Message) -> None:
        """Queue what is asked, answer when it is done."""
        match message:
            case TapUp() | TapDown():
                if len(self._queue) >= QUEUE:
                    self.ctx.fail(Unavailable("the TAP has too much to do", fix="try again later"))
                    return
                self._queue.append((message, self.ctx.reply_slot()))
                self._work()
            case _Ended(error=error):
                self._finish(error)
            case _Tick():
                self._watch()
            case _Watched(error=error):
                self._watching = False
                if error is not None:
                    self.ctx.log.warning("tap could not be checked", error=str(error))
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _work(self) -> None:
        if self._working or not self._queue:
            return
        self._working = True
        request, _ = self._queue[0]
        up = isinstance(request, TapUp)
        self.ctx.effect(
            self._make if up else self._remove,
            name="up" if up else "down",
            deadline=DEADLINE,
            then=lambda _: _Ended(),
            failed=_Ended,
        )

    def _finish(self, error: Exception | None) -> None:
        self._working = False
        request, slot = self._queue.popleft()
        up = isinstance(request, TapUp)
        if error is not None:
            self.ctx.log.warning("tap failed", wanted="up" if up else "down", error=str(error))
            words = f"the TAP could not be {'made' if up else 'removed'}: {error}"
            slot.fail(error if isinstance(error, Problem) else Unavailable(words))
        else:
            self._is_up = up
            slot.reply(TapDevice(tap_name(self._placement_id), guest_mac(self._lease)) if up else None)
        self._work()

    def _watch(self) -> None:
        if not self._is_up or self._working or self._watching:
            return
        self._watching = True
        self.ctx.effect(self._look, name="check", deadline=DEADLINE, then=lambda _: _Watched(), failed=_Watched)

    async def _make(self) -> None:
        began = self.ctx.env.monotonic()
        steps = await self._network.up(self._placement_id, self._lease, uid=self._uid)
        if steps:
            taken = round((self.ctx.env.monotonic() - began) * 1000, 1)
            self.ctx.log.info("tap up", device=tap_name(self._placement_id), steps=len(steps), ms=taken)

    async def _remove(self) -> None:
        await self._network.down(self._placement_id, self._lease)
        self.ctx.log.info("tap removed", device=tap_name(self._placement_id))

    async def _look(self) -> None:
        device = (await self._network.check()).get(self._placement_id)
        if device is None:
            # Making a new one would not help: the VMM holds the old one's file descriptor.
            self.ctx.log.error("somebody removed the tap under its vm", device=tap_name(self._placement_id))
        elif not device.up:
            await self._make()
