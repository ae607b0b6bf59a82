"""Keeps the database's idea of this host's own addresses true while interfaces, addresses and routes change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from actors.addresses.follow import follow
from actors.addresses.messages import Follow, Record, Recorded, RecordingFailed, Seen, Unfollowed
from actors.addresses.store import AddressStore
from actors.model.network import OwnAddresses
from runtime import Actor, Message

#: Seconds that the database's answer may take.
DEADLINE = 10.0
#: First and largest wait in seconds after a failure.
BACKOFF_FIRST, BACKOFF_MAX = 0.5, 15.0

Follower = Callable[[Callable[[OwnAddresses], Awaitable[None]]], Awaitable[None]]


class Addresses(Actor):
    """One write under way at a time; what changes meanwhile is written next, the last state only."""

    def __init__(self, store: AddressStore, node_id: UUID, *, follower: Follower = follow) -> None:
        self._store = store
        self._node_id = node_id
        self._follower = follower
        self._seen: OwnAddresses | None = None
        self._recorded: OwnAddresses | None = None
        self._recording = False
        self._failures = 0  # of the database, in a row
        self._ends = 0  # of the follower, in a row

    async def init(self) -> None:
        """Begin to follow."""
        self.ctx.ref.tell(Follow())

    async def receive(self, message: Message) -> None:
        """Take what was seen, and have it written."""
        match message:
            case Follow():
                self.ctx.effect(
                    self._follower, self._report, name="follow netlink", deadline=None,
                    then=lambda _: Unfollowed(), failed=Unfollowed,
                )  # fmt: skip
            case Seen(own=own):
                self._ends = 0
                self._seen = own
                self._record()
            case Unfollowed(error=error):
                wait = self._pause(self._ends)
                self._ends += 1
                self.ctx.log.warning("own addresses not followed", error=str(error), retry_in=round(wait, 2))
                self.ctx.after(wait, Follow())
            case Record():
                self._record()
            case Recorded(own=own):
                self._recording, self._failures, self._recorded = False, 0, own
                main = own.main
                self.ctx.log.info(
                    "own addresses recorded", count=len(own.items), main=str(main.address.ip) if main else None
                )
                self._record()
            case RecordingFailed(error=error):
                self._recording = False
                wait = self._pause(self._failures)
                if not self._failures:
                    self.ctx.log.warning("own addresses not recorded", error=str(error), retry_in=round(wait, 2))
                self._failures += 1
                self.ctx.after(wait, Record())
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    async def _report(self, own: OwnAddresses) -> None:
        await self.ctx.ref.send(Seen(own))

    def _pause(self, failures: int) -> float:
        ceiling = min(BACKOFF_MAX, BACKOFF_FIRST * 2.0 ** min(failures, 10))
        return self.ctx.env.random.uniform(ceiling / 2, ceiling)

    def _record(self) -> None:
        own = self._seen
        if self._recording or own is None or own == self._recorded:
            return
        self._recording = True
        self.ctx.effect(
            self._store.record_addresses, self._node_id, own, name="record", deadline=DEADLINE,
            then=lambda _: Recorded(own), failed=RecordingFailed,
        )  # fmt: skip
