"""Membership's messages over links: on one that stands, else on one that is made for them."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from runtime.actor import Actor
from runtime.errors import ActorError
from runtime.links.board import Board, LinkDown, LinkUp
from runtime.links.errors import QueueFull, Unreachable
from runtime.links.frames import Identity
from runtime.links.messages import Follow, Introduce
from runtime.links.receiver import SystemReceiver
from runtime.links.registry import Registry
from runtime.links.session import LINGERED, PARTED
from runtime.links.transport import Address
from runtime.membership.driver import NAME as MEMBERSHIP
from runtime.membership.driver import Arrived, Failed
from runtime.membership.events import Peer
from runtime.message import Message
from runtime.ref import Ref

#: Name of the one actor of this kind in a process.
NAME = "membership-links"
#: Messages that wait for a link to one host, and hosts that links are made to at once.
WAITING, MAKING = 8, 64
#: Seconds to make one: a message of membership is of no use any more after that.
MAKE = 5.0
#: Ends of links that say nothing about the host at the other end.
_HARMLESS = PARTED | {LINGERED, "stale"}


@dataclass(frozen=True, slots=True)
class Datagram(Message):
    """What membership says to another host, opaque here."""

    data: bytes


def register(registry: Registry) -> None:
    """Enter what travels between the memberships of two hosts."""
    registry.add(Datagram, "membership.datagram", lane="system", to=[MEMBERSHIP])


class LinkReceiver(SystemReceiver):
    """Hands what other memberships say to this one's, with the host that has said it; all else as usual."""

    def __init__(self, board: Board, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._board = board

    def tell(self, peer: Identity, to: str, message: Message) -> None:
        """See `runtime.links.session.Receiver.tell`."""
        if isinstance(message, Datagram):
            known = self._board.peers.get(peer.host)
            address = str(known.address) if known is not None and known.address is not None else ""
            self._find(to, message).tell(Arrived(Peer(peer.host, address), message.data))
        else:
            super().tell(peer, to, message)


@dataclass(frozen=True, slots=True)
class _Send(Message):
    peer: Peer
    data: bytes


@dataclass(frozen=True, slots=True)
class _Made(Message):
    peer: Peer
    host: UUID


@dataclass(frozen=True, slots=True)
class _NotMade(Message):
    peer: Peer
    refused: bool


class LinkTransport:
    """`runtime.membership.driver.Transport`. ``courier`` is the actor that makes links (see `Courier`)."""

    def __init__(self, board: Board, courier: Ref) -> None:
        self._board = board
        self._courier = courier

    def send(self, peer: Peer, data: bytes) -> None:
        """Queue on the link that stands, else leave it to the courier; what finds no room is lost.

        As is what is for a host that was removed from the cluster: it is not to hear of anything any more.
        """
        if peer.host in self._board.refused:
            return
        if peer.host is not None and say(self._board, peer.host, data):
            return
        if peer.address:
            with suppress(ActorError):
                self._courier.tell(_Send(peer, data))


def say(board: Board, host: UUID, data: bytes) -> bool:
    """Queue a message on the link to a host; tell whether there is one. Without room the message is lost."""
    session = board.session(host, None, MEMBERSHIP)
    if session is None:
        return False
    try:
        session.tell(MEMBERSHIP, Datagram(data))
    except QueueFull:
        return True
    except Unreachable:
        return False
    return True


class Courier(Actor):
    """Makes links that membership needs, sends what has waited for them, and tells it of those that fail."""

    def __init__(self, board: Board, links: Ref, membership: Ref) -> None:
        self._board = board
        self._links = links
        self._membership = membership
        #: What waits for a link, by the host's id or, where only that is known, its address.
        self._waiting: dict[UUID | str, deque[bytes]] = {}
        #: Who was found at an address that was given, as few as there are of those. The host may call itself by
        #: another address: asked for by this one again and again, it needs no connection for each time.
        self._found: dict[str, UUID] = {}

    async def init(self) -> None:
        """Follow the links."""
        self._links.tell(Follow(self.ctx.ref))

    async def receive(self, message: Message) -> None:
        """Carry."""
        match message:
            case _Send(peer, data):
                self._send(peer, data)
            case _Made(peer, host):
                if peer.host is None:
                    self._found[peer.address] = host
                for data in self._waiting.pop(_key(peer), ()):
                    say(self._board, host, data)
            case _NotMade(peer, refused):
                self._waiting.pop(_key(peer), None)
                self._tell(Failed(peer, refused))
            case LinkDown(who, reason):
                if reason.code not in _HARMLESS:
                    known = self._board.peers.get(who.host)
                    address = str(known.address) if known is not None and known.address is not None else ""
                    self._tell(Failed(Peer(who.host, address)))
            case LinkUp():
                pass
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _send(self, peer: Peer, data: bytes) -> None:
        key = _key(peer)
        if peer.host is None and (found := self._found.get(peer.address)) is not None and say(self._board, found, data):
            return
        if key in self._waiting:
            self._waiting[key].append(data)
            return
        try:
            address = Address.parse(peer.address)
        except ValueError:
            self._tell(Failed(peer))
            return
        if len(self._waiting) >= MAKING:
            return
        self._waiting[key] = deque([data], WAITING)
        if peer.host is not None:
            self._board.learn(peer.host, address)
        self.ctx.effect(
            self._make,
            peer,
            address,
            name=f"link {peer.address}",
            deadline=MAKE,
            then=lambda host: _Made(peer, host),
            failed=lambda error: _NotMade(peer, getattr(error, "refused", False)),
        )

    async def _make(self, peer: Peer, address: Address) -> UUID:
        if peer.host is None:
            return await self._links.ask(Introduce(address), timeout=MAKE)
        await self._board.linked_to(peer.host, None, MEMBERSHIP)
        return peer.host

    def _tell(self, message: Message) -> None:
        # Membership notices by itself what it was not told.
        with suppress(ActorError):
            self._membership.tell(message)


def _key(peer: Peer) -> UUID | str:
    return peer.address if peer.host is None else peer.host
