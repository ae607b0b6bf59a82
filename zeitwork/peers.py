"""Which other hosts this one keeps links to: what the database says, and while it is away what gossip does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import structlog

from runtime.actor import Actor
from runtime.links.messages import Admit, Forget, Want
from runtime.links.transport import Address
from runtime.message import Message
from runtime.ref import Ref

#: Name of the one actor of this kind.
NAME = "peers"
#: Links kept for good; what else is needed is made on demand.
MOST = 12
#: Seconds between looks, and for one of them.
EVERY, DEADLINE = 10.0, 10.0

_log = structlog.get_logger().bind(part="peers")


class PeerStore(Protocol):
    """Where hosts write how they are reached."""

    async def others(self, node: UUID) -> dict[UUID, str]:
        """Return all other hosts and their addresses."""

    async def removed(self) -> frozenset[UUID]:
        """Return hosts that were removed from the cluster."""


@dataclass(frozen=True, slots=True)
class Look(Message):
    """Read again who there is."""


@dataclass(frozen=True, slots=True)
class _Seen(Message):
    others: dict[UUID, str]
    removed: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class _NotSeen(Message):
    error: Exception


def choose(own: UUID, others: Mapping[UUID, str], most: int = MOST) -> dict[UUID, Address]:
    """Return the hosts to keep links to: few enough, the same ones each time, and seen from all hosts any to any.

    Each host chooses by a hash of both ids, which is the same from either side: of two hosts that choose each other
    one connection stays. Addresses that are none are left out.
    """

    def rank(other: UUID) -> bytes:
        low, high = sorted((own.bytes, other.bytes))
        return hashlib.sha256(low + high).digest()

    chosen: dict[UUID, Address] = {}
    for other in sorted(others, key=rank):
        if len(chosen) >= most:
            break
        try:
            chosen[other] = Address.parse(others[other])
        except ValueError:
            _log.warning("a host's address can't be used", host=str(other), address=others[other][:100])
    return chosen


class Peers(Actor):
    """``links`` is the actor that keeps them, which is told.

    ``alive`` says where hosts are reached that gossip holds alive. ``dropped`` is told of all hosts that were removed
    from the cluster. Neither may wait or raise.
    """

    def __init__(
        self,
        own: UUID,
        store: PeerStore,
        links: Ref,
        alive: Callable[[], Mapping[UUID, str]] = dict,
        dropped: Callable[[frozenset[UUID]], None] | None = None,
    ) -> None:
        self._own = own
        self._store = store
        self._links = links
        self._alive = alive
        self._dropped = dropped
        self._others: Mapping[UUID, str] = {}
        self._looking = False
        self._removed: frozenset[UUID] = frozenset()
        self._refused: frozenset[UUID] | None = None

    async def init(self) -> None:
        """Look at once, then now and then."""
        self.ctx.every(EVERY, Look())
        self.ctx.ref.tell(Look())

    async def receive(self, message: Message) -> None:
        """Read, and tell the links."""
        match message:
            case Look():
                if not self._looking:
                    self._looking = True
                    self.ctx.effect(self._read, name="read", deadline=DEADLINE, then=lambda seen: seen, failed=_NotSeen)
            case _Seen(others, removed):
                self._looking = False
                self._others = others
                self._links.tell(Want(choose(self._own, others)))
                # One that was removed and has registered anew is let in again. What an earlier life of this actor had
                # refused, it does not know: at first, it may be any.
                back = (frozenset(others) if self._refused is None else self._refused & others.keys()) - removed
                if back:
                    self._links.tell(Admit(back))
                self._refused = ((self._refused or frozenset()) - back) | removed
                for host in removed - self._removed:
                    self._links.tell(Forget(host, refuse=True))
                if removed != self._removed:
                    self._removed = removed
                    if self._dropped is not None:
                        self._dropped(removed)
            case _NotSeen(error):
                # Links that stand need no database. Who has come since, or moved, is known to the others.
                self._looking = False
                self.ctx.log.debug("other hosts not read", error=str(error))
                heard = {host: address for host, address in self._alive().items() if host not in self._removed}
                if heard:
                    self._links.tell(Want(choose(self._own, {**self._others, **heard})))
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    async def _read(self) -> _Seen:
        return _Seen(await self._store.others(self._own), await self._store.removed())
