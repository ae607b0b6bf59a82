"""Who is linked with whom: the peers of this host, the best connection to each, and who waits for one."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import trio

from runtime.errors import ActorError, AskTimeout
from runtime.links.errors import StaleIdentity, Unreachable, WrongPeer
from runtime.links.frames import BULK_CHUNK, Identity
from runtime.links.session import End, Session
from runtime.links.transport import Address
from runtime.message import Message, Request
from runtime.ref import Ref

#: Removed hosts that are remembered.
MOST_REFUSED = 10_000
#: Hosts that anything is known of; of more, those are forgotten that were heard of first and never linked with.
MOST_PEERS = 20_000


@dataclass(frozen=True, slots=True)
class LinkUp(Message):
    """There is a link to the host now."""

    peer: Identity
    capabilities: frozenset[str]


@dataclass(frozen=True, slots=True)
class LinkDown(Message):
    """There is no link to the host any more; this says nothing about the host."""

    peer: Identity
    reason: End


class Replaced(WrongPeer):
    """Both hosts dialled each other, and the other connection stays."""

    code = "duplicate"


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """One link, for people. ``round_trip`` in seconds; ``since`` on the environment's monotonic clock."""

    peer: Identity
    dialled: bool
    wanted: bool
    version: int
    round_trip: float | None
    since: float
    received: int


class Peer:
    """What is known of one other host."""

    __slots__ = (
        "address",
        "bulk",
        "bulk_failure",
        "changed",
        "demand",
        "dialling",
        "dialling_bulk",
        "failure",
        "highest",
        "host",
        "refused",
        "session",
        "used",
        "wanted",
    )

    def __init__(self, host: UUID) -> None:
        self.host = host
        self.address: Address | None = None
        #: Whether a link is kept for good, how many wait for one, and whether a task makes one.
        self.wanted = False
        self.demand = 0
        self.dialling = False
        self.session: Session | None = None
        self.bulk: Session | None = None
        #: The highest generation that has greeted, and when anything was last said to it.
        self.highest = 0
        self.used = 0.0
        #: Why there is no link, or no connection for bulk data.
        self.failure: str | None = None
        self.refused = False
        self.bulk_failure: str | None = None
        self.dialling_bulk = False
        self.changed = trio.Event()

    def is_linked(self) -> bool:
        """Tell whether messages can be queued for it."""
        return self.session is not None and self.session.open

    def is_hearsay(self) -> bool:
        """Tell whether it never greeted, and nobody wants or waits for anything of it."""
        busy = self.wanted or self.demand or self.dialling or self.dialling_bulk
        return not (busy or self.highest or self.session is not None or self.bulk is not None)

    def notify(self) -> None:
        """Wake everybody who waits for a change."""
        changed, self.changed = self.changed, trio.Event()
        changed.set()


class Board:
    """Shared by the actor that makes links and by all refs to actors elsewhere; outlives that actor's lives."""

    def __init__(self, host: UUID, monotonic: Callable[[], float]) -> None:
        self.host = host
        self.peers: dict[UUID, Peer] = {}
        self.followers: list[Ref] = []
        #: Hosts that were removed from the cluster, whose certificates have not ended yet.
        self.refused: dict[UUID, None] = {}
        self._monotonic = monotonic
        #: Start a task that dials a peer; set while the actor lives.
        self.dial: Callable[[Peer], None] | None = None
        self.dial_bulk: Callable[[Peer], None] | None = None

    # ---- who there is

    def peer(self, host: UUID) -> Peer:
        """Return what is known of a host, which may be nothing."""
        if host not in self.peers:
            if len(self.peers) >= MOST_PEERS:
                # Others can name hosts without end, and where those listen. Nothing is lost but that.
                heard_of = next((one for one in self.peers.values() if one.is_hearsay()), None)
                if heard_of is not None:
                    del self.peers[heard_of.host]
            self.peers[host] = Peer(host)
        return self.peers[host]

    def learn(self, host: UUID, address: Address) -> None:
        """Note where a host listens."""
        if host == self.host:
            return
        peer = self.peer(host)
        if peer.address != address:
            peer.address = address
            peer.notify()

    def want(self, hosts: Mapping[UUID, Address]) -> None:
        """Keep links to these hosts and to no others; those to others stay while there is room."""
        for host, address in hosts.items():
            self.learn(host, address)
        for peer in self.peers.values():
            wanted = peer.host in hosts
            if wanted != peer.wanted:
                peer.wanted = wanted
                peer.notify()
            if wanted:
                self._need(peer)

    def forget(self, host: UUID, *, refuse: bool = False) -> None:
        """The host is gone: dial it no more, close what is open, let nobody wait. ``refuse``: nor let it in again."""
        if refuse:
            self.refused[host] = None
            while len(self.refused) > MOST_REFUSED:
                del self.refused[next(iter(self.refused))]
        peer = self.peers.pop(host, None)
        if peer is not None:
            peer.wanted, peer.address, peer.failure = False, None, "the host is gone"
            for session in (peer.session, peer.bulk):
                if session is not None:
                    session.close("gone", "the host is gone")
            peer.notify()

    def admit(self, hosts: frozenset[UUID]) -> None:
        """Let these hosts in again if they were refused."""
        for host in [host for host in self.refused if host in hosts]:
            del self.refused[host]

    def linked(self) -> list[LinkInfo]:
        """Return the links that stand."""
        found = []
        for peer in self.peers.values():
            if (one := peer.session) is not None and one.open:
                info = LinkInfo(
                    one.peer, one.dialled, peer.wanted, one.version, one.round_trip, one.since, one.received
                )
                found.append(info)
        return found

    def _need(self, peer: Peer) -> None:
        if self.dial is not None and not peer.dialling and peer.address is not None:
            self.dial(peer)

    # ---- which connection

    def check(self, who: Identity) -> None:
        """Raise `WrongPeer` for one that no connection may be kept with."""
        if who.host in self.refused:
            raise WrongPeer(f"host {who.host} was removed from the cluster")
        known = self.peers.get(who.host)
        if known is not None and who.generation < known.highest:
            raise WrongPeer(f"an earlier life of host {who.host}: {who.generation}, known is {known.highest}")

    def enter(self, session: Session) -> Peer:
        """Take a connection that has greeted; raises `WrongPeer` or `Replaced` when it must go.

        Of two connections between the same lives, one dialled by either, the one that the lower host id has dialled
        stays; of two dialled by the same host the newer: that host has given up the older.
        """
        who = session.peer
        self.check(who)
        peer = self.peer(who.host)
        now = peer.session
        if now is not None and now.open and now.peer.generation == who.generation:
            mine_is_lower = self.host < who.host
            if session.dialled != now.dialled and session.dialled != mine_is_lower:
                raise Replaced("another connection between the two hosts stays")
            now.retire("duplicate", "another connection between the two hosts stays")
        elif now is not None and now.peer.generation != who.generation:
            now.close("stale", f"host {who.host} has been started anew")
        peer.highest = who.generation
        peer.session, peer.failure, peer.used = session, None, self._monotonic()
        peer.notify()
        if now is None or now.peer != who:
            self._announce(LinkUp(who, session.capabilities))
        return peer

    def leave(self, session: Session, end: End) -> None:
        """A connection that was entered has ended."""
        peer = self.peers.get(session.peer.host)
        if peer is None:
            self._announce(LinkDown(session.peer, end))
        elif peer.session is session:
            peer.session = None
            peer.notify()
            self._announce(LinkDown(session.peer, end))

    def enter_bulk(self, session: Session) -> None:
        """Take a connection for bulk data; raises `WrongPeer`."""
        self.check(session.peer)
        peer = self.peer(session.peer.host)
        if session.dialled:
            peer.bulk = session
            peer.notify()

    def leave_bulk(self, session: Session, end: End) -> None:
        """A connection for bulk data has ended."""
        peer = self.peers.get(session.peer.host)
        if peer is not None and peer.bulk is session:
            peer.bulk, peer.bulk_failure = None, str(end)
            peer.notify()

    def surplus(self, most: int) -> list[Session]:
        """Return the connections this host has made on demand beyond ``most``, the least recently used."""
        made = [
            peer
            for peer in self.peers.values()
            if peer.session is not None and peer.session.dialled and peer.session.open and not peer.wanted
        ]
        idle = sorted((peer for peer in made if not peer.demand), key=lambda peer: peer.used)
        return [peer.session for peer in idle[: max(0, len(made) - most)] if peer.session is not None]

    def _announce(self, message: Message) -> None:
        for ref in self.followers:
            with suppress(ActorError):
                ref.tell(message)

    # ---- talking

    def session(self, host: UUID, generation: int | None, name: str) -> Session | None:
        """Return the link to a host, or None while there is none. Raises `StaleIdentity`."""
        peer = self.peers.get(host)
        if peer is None:
            return None
        if generation is not None and peer.highest > generation:
            raise StaleIdentity(name, f"host {host} has been started anew since")
        if peer.session is None or not peer.session.open:
            return None
        peer.used = self._monotonic()
        return peer.session

    def tell(self, host: UUID, to: str, message: Message, generation: int | None, name: str) -> None:
        """Queue a message on the link to a host. Without one raises `Unreachable`, and one is made."""
        session = self.session(host, generation, name)
        if session is None:
            peer = self.peer(host)
            self._need(peer)
            raise Unreachable(str(host), peer.failure or "there is no link to it now", sent=False)
        session.tell(to, message)

    async def linked_to(self, host: UUID, generation: int | None, name: str) -> Session:
        """Return the link to a host once there is one; the caller sets the deadline.

        Raises `Unreachable` when one attempt to make it has failed, or nobody knows where the host listens.
        """
        session = self.session(host, generation, name)
        if session is not None:
            return session
        peer = self.peer(host)
        peer.demand += 1
        try:
            while True:
                if peer.address is None or self.dial is None:
                    why = "this host stops" if self.dial is None else peer.failure or "its address is not known"
                    raise Unreachable(str(host), why, sent=False)
                self._need(peer)
                await peer.changed.wait()
                session = self.session(host, generation, name)
                if session is not None:
                    return session
                if peer.failure is not None:
                    raise Unreachable(str(host), peer.failure, sent=False, refused=peer.refused)
        finally:
            peer.demand -= 1

    async def ask(
        self, host: UUID, to: str, request: Request[Any], generation: int | None, name: str, timeout: float
    ) -> Any:
        """Ask an actor on another host; see `RemoteRef.ask`."""
        ends = trio.current_time() + timeout
        while True:
            session = await self._by(host, generation, name, ends)
            try:
                return await session.ask(to, request, timeout=_left(ends, name, request), name=name)
            except Unreachable as error:
                # Where the peer gave that connection up (its certificate is renewed, say) just as this came, another
                # one carries it.
                if error.sent or not session.parted:
                    raise

    async def _by(self, host: UUID, generation: int | None, name: str, ends: float) -> Session:
        """Return the link to a host, made by ``ends`` if need be. Raises as `linked_to` does, also after that."""
        session = self.session(host, generation, name)
        if session is None:
            began = trio.current_time()
            with trio.move_on_at(ends):
                session = await self.linked_to(host, generation, name)
            if session is None:
                why = self.peer(host).failure or f"no link within {max(0.0, ends - began):g} s"
                raise Unreachable(str(host), why, sent=False)
        return session

    async def send_bulk(self, host: UUID, transfer: str, pieces: AsyncIterable[bytes]) -> int:
        """Send a transfer over the connection for bulk data; return its bytes. What was sent need not have arrived.

        Pieces of any size; waits while the peer does not take them. The caller sets the deadline. Raises `Unreachable`.
        """
        session = await self._bulk_to(host)
        offset = 0
        async for piece in pieces:
            for start in range(0, len(piece), BULK_CHUNK):
                part = piece[start : start + BULK_CHUNK]
                await session.send_bulk(transfer, offset, part, last=False)
                offset += len(part)
        await session.send_bulk(transfer, offset, b"", last=True)
        return offset

    async def _bulk_to(self, host: UUID) -> Session:
        peer = self.peer(host)
        while True:
            if peer.bulk is not None and peer.bulk.open:
                return peer.bulk
            if peer.address is None or self.dial_bulk is None:
                why = "its address is not known" if self.dial_bulk is not None else "this host has no links"
                raise Unreachable(str(host), why, sent=False)
            if not peer.dialling_bulk:
                self.dial_bulk(peer)
            await peer.changed.wait()
            if peer.bulk is None and not peer.dialling_bulk:
                raise Unreachable(str(host), peer.bulk_failure or "no connection", sent=False)


def _left(ends: float, name: str, request: Request[Any]) -> float:
    """Return the seconds until ``ends``. Raises `AskTimeout` when there are none."""
    if (left := ends - trio.current_time()) <= 0:
        raise AskTimeout(name, type(request).__name__, left)
    return left
