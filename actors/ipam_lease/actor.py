"""Lets rested addresses go, and answers how full this host's pools are."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from actors.ipam_lease.messages import Expire, Expired, ExpireFailed, Usage
from actors.ipam_lease.store import LeaseStore, PoolUsage
from actors.model.errors import Problem, Unavailable
from runtime import Actor, Message, Reply

#: The actor's name on every host.
NAME = "ipam-lease"
#: Seconds between sweeps; a rest is a minute, so an address waits little longer than that.
INTERVAL = 30.0
#: Seconds that a sweep or a count may take.
DEADLINE = 10.0
#: Counts that may be under way at once.
MOST_COUNTS = 16


@dataclass(frozen=True, slots=True)
class _Counted(Message):
    slot: Reply
    usage: tuple[PoolUsage, ...] = ()
    error: Exception | None = None


class IpamLease(Actor):
    """Addresses are leased in the transaction that makes a placement, so that none is ever held for nothing.

    What is left to do beside that is time: a released address rests before it is used again.
    """

    def __init__(self, store: LeaseStore, node_id: UUID) -> None:
        self._store = store
        self._node_id = node_id
        self._sweeping = False
        self._counting = 0

    async def init(self) -> None:
        """Sweep at intervals."""
        self.ctx.every(INTERVAL, Expire())

    async def receive(self, message: Message) -> None:
        """Start a sweep or a count, or learn how one went."""
        match message:
            case Expire():
                if not self._sweeping:
                    self._sweeping = True
                    self.ctx.effect(
                        self._store.expire_rested,
                        self._node_id,
                        name="expire",
                        deadline=DEADLINE,
                        then=Expired,
                        failed=ExpireFailed,
                    )
            case Expired(count=count):
                self._sweeping = False
                if count:
                    self.ctx.log.info("addresses have rested", count=count)
            case ExpireFailed(error=error):
                self._sweeping = False
                self.ctx.log.warning("rested addresses not released", error=str(error))
            case Usage():
                self._count()
            case _Counted(slot=slot, usage=usage, error=error):
                self._counting -= 1
                if error is None:
                    slot.reply(usage)
                else:
                    slot.fail(error if isinstance(error, Problem) else Unavailable(f"pools not counted: {error}"))
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _count(self) -> None:
        if self._counting >= MOST_COUNTS:
            self.ctx.fail(Unavailable("too many ask how full the pools are", fix="ask again later"))
            return
        self._counting += 1
        slot = self.ctx.reply_slot()
        self.ctx.effect(
            self._store.usage,
            self._node_id,
            name="usage",
            deadline=DEADLINE,
            then=lambda usage: _Counted(slot, usage),
            failed=lambda error: _Counted(slot, error=error),
        )
