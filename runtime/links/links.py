"""The actor that keeps a host's links: it listens, dials, and sees to it that one connection per peer is left."""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, WebSocketConnection

from runtime.actor import Actor
from runtime.failure import sift
from runtime.links.board import Board, Peer, Replaced
from runtime.links.connection import Connection
from runtime.links.door import Door
from runtime.links.errors import FrameError, WrongPeer
from runtime.links.frames import BULK_LIMIT, CONTROL_LIMIT, Hello, Purpose
from runtime.links.messages import Admit, Follow, Forget, Introduce, Learn, NoIntroduction, Want
from runtime.links.registry import Registry
from runtime.links.room import Place, Room
from runtime.links.rules import Rules
from runtime.links.session import LINGERED, PARTED, End, Left, Receiver, Session
from runtime.links.sockets import Sockets, WebSockets
from runtime.links.transport import Address, Proof, Secured, Transport, Untrusted
from runtime.message import Exit, Message
from runtime.spec import Spec

#: Name of the one actor of this kind in a process.
NAME = "links"
_HARMLESS = ("done", "stopping", LINGERED, *PARTED)
LIMITS: dict[Purpose, int] = {"control": CONTROL_LIMIT, "bulk": BULK_LIMIT}
#: How an attempt ends when the machine answers that nobody listens.
REFUSED = "connection-refused"
_PATHS: dict[str, Purpose] = {"/link": "control", "/bulk": "bulk"}


class Links(Actor):
    """``board`` outlives this life; ``local`` is said to each peer.

    ``doors`` are other websocket paths of the same port.
    """

    def __init__(
        self,
        board: Board,
        transport: Transport,
        local: Hello,
        registry: Registry,
        receiver: Receiver,
        rules: Rules = Rules(),  # noqa: B008 - frozen
        doors: Mapping[str, Door] | None = None,
        sockets: Sockets = WebSockets(),  # noqa: B008 - has no state
    ) -> None:
        self._board = board
        self._transport = transport
        self._local = local
        self._registry = registry
        self._receiver = receiver
        self._rules = rules
        self._doors = dict(doors or {})
        self._sockets = sockets
        self._room: Room | None = None
        self._tasks: trio.Nursery | None = None
        #: Connections through doors, by the host that proved who it is.
        self._inside: dict[UUID, list[trio.CancelScope]] = {}
        #: Where it listens.
        self.addresses: list[Address] = []

    @property
    def accepted(self) -> int:
        """How many connections stand that others have dialled, or are being made."""
        return 0 if self._room is None else self._room.accepted

    async def init(self) -> None:
        """Listen; a port in use makes the start fail."""
        self._room = Room(self._rules, self.ctx.env.monotonic)
        listeners = await self._transport.listen()
        self.addresses = [_address_of(listener) for listener in listeners]
        self.ctx.effect(self._serve, listeners, name="links", deadline=None)

    async def receive(self, message: Message) -> None:
        """Do as the owner says."""
        match message:
            case Want(peers):
                self._board.want(peers)
            case Learn(host, address):
                self._board.learn(host, address)
            case Forget(host, refuse):
                self._board.forget(host, refuse=refuse)
                if refuse:
                    for scope in self._inside.get(host, ()):
                        scope.cancel()
            case Admit(hosts):
                self._board.admit(hosts)
            case Follow(ref):
                self._board.followers.append(ref)
            case Introduce(address):
                self._introduce(address)
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    async def stopped(self, reason: Exit) -> None:  # noqa: ARG002
        """Nothing is left to do: the sessions have taken leave when their tasks were cancelled."""
        self._board.dial = self._board.dial_bulk = None
        for peer in self._board.peers.values():
            peer.dialling = peer.dialling_bulk = False
            peer.notify()

    def _introduce(self, address: Address) -> None:
        slot = self.ctx.reply_slot()

        def up(session: Session) -> None:
            self._board.learn(session.peer.host, address)
            if slot.open:
                slot.reply(session.peer.host)

        async def meet() -> None:
            end = await self._dial(address, None, "control", up)
            if slot.open:
                slot.fail(NoIntroduction(f"{address}: {end}", refused=end.code == REFUSED))

        if self._tasks is None:
            slot.fail(NoIntroduction("links are not running"))
        else:
            self._tasks.start_soon(meet)

    # ---- tasks

    async def _serve(self, listeners: list[trio.abc.Listener[trio.abc.Stream]]) -> None:
        async with trio.open_nursery() as nursery:
            self._tasks = nursery
            self._board.dial, self._board.dial_bulk = self._start_dialling, self._start_bulk
            for peer in tuple(self._board.peers.values()):
                if peer.wanted or peer.demand:
                    self._start_dialling(peer)
            await trio.serve_listeners(self._accept, listeners, handler_nursery=nursery)

    def _start_dialling(self, peer: Peer) -> None:
        assert self._tasks is not None
        peer.dialling = True
        self._tasks.start_soon(self._keep, peer)

    def _start_bulk(self, peer: Peer) -> None:
        assert self._tasks is not None
        peer.dialling_bulk = True
        self._tasks.start_soon(self._keep_bulk, peer)

    async def _keep_bulk(self, peer: Peer) -> None:
        """Have a connection for bulk data until it has been unused for a while."""
        try:
            if peer.address is not None:
                peer.bulk_failure = None
                peer.bulk_failure = str(await self._dial(peer.address, peer.host, "bulk"))
        finally:
            peer.dialling_bulk = False
            peer.notify()

    async def _keep(self, peer: Peer) -> None:
        """Have a link to a peer for as long as anybody wants one."""
        attempt, before = 0, ""
        try:
            while (peer.wanted or peer.demand) and peer.address is not None:
                if peer.is_linked():
                    await peer.changed.wait()
                    continue
                began, peer.failure = trio.current_time(), None
                met: list[Session] = []
                end = await self._dial(peer.address, peer.host, "control", met.append, before)
                before = end.code
                if peer.is_linked():
                    continue
                attempt = 0 if trio.current_time() - began > self._rules.settled else attempt + 1
                if (not met and end.code != "duplicate") or (end.theirs and end.code not in _HARMLESS):
                    peer.failure, peer.refused = str(end), end.code == REFUSED
                    peer.notify()
                    if not peer.wanted:
                        return
                with trio.move_on_after(self._rules.wait(attempt, self.ctx.env.random)):
                    await self._no_longer_needed(peer)
        finally:
            peer.dialling = False
            peer.notify()

    async def _no_longer_needed(self, peer: Peer) -> None:
        while (peer.wanted or peer.demand) and not peer.is_linked():
            await peer.changed.wait()

    async def _dial(
        self,
        address: Address,
        host: UUID | None,
        purpose: Purpose = "control",
        up: Callable[[Session], None] | None = None,
        before: str = "",
    ) -> End:
        """Connect and carry messages until the end of it, which is returned.

        ``before`` is how the attempt before this one ended: the same again is not worth a warning.
        """
        secured: Secured | None = None

        async def converse(nursery: trio.Nursery) -> End:
            nonlocal secured
            with trio.fail_after(self._rules.greeting):
                secured = await self._transport.dial(address)
                if secured.proof is None and self._transport.proves:
                    raise Untrusted("the peer shows no certificate")
                path = "/link" if purpose == "control" else "/bulk"
                socket = await self._sockets.open(nursery, secured.stream, str(address), path, limit=LIMITS[purpose])
                session = self._session(socket, secured, purpose, host, dialled=True)
                await self._greet(session)
            return await self._carry(session, up)

        try:
            end = await self._contained(converse)
        finally:
            if secured is not None:
                await trio.aclose_forcefully(secured.stream)
        self._log_end(end, str(address) if host is None else f"{host} at {address}", before)
        return end

    async def _accept(self, stream: trio.abc.Stream) -> None:
        remote, room = _remote_of(stream), self._room
        assert room is not None
        # Counted before anything is waited for: those that come together would all be let in otherwise.
        place = room.enter(remote.rpartition(":")[0])
        if place is None:
            if room.may_say():
                self.ctx.log.warning("link refused: too many connections", peer=remote)
            await trio.aclose_forcefully(stream)
            return
        try:
            end = await self._contained(functools.partial(self._welcome, stream, remote, place))
        finally:
            place.leave()
            await trio.aclose_forcefully(stream)
        # Strangers are to fill no log: there may be any number of them.
        if place.host is not None or not self._transport.proves or room.may_say():
            self._log_end(end, remote)

    def _log_end(self, end: End, peer: str, before: str = "") -> None:
        if end.code in ("done", before):
            self.ctx.log.debug("link ended", peer=peer, reason=str(end), code=end.code)
        elif end.code in _HARMLESS:
            self.ctx.log.info("link ended", peer=peer, reason=end.detail, code=end.code)
        else:
            self.ctx.log.warning("link ended", peer=peer, reason=str(end), code=end.code)

    async def _welcome(self, stream: trio.abc.Stream, remote: str, place: Place, nursery: trio.Nursery) -> End:
        session: Session | None = None
        with trio.fail_after(self._rules.greeting):
            secured = await self._transport.admit(stream)
            request = await self._sockets.requested(nursery, secured.stream, limit=LIMITS["bulk"])
            purpose = _PATHS.get(request.path)
            door = self._doors.get(request.path)
            if purpose is None and door is None:
                await request.reject(404)
                return End("garbage", f"asked for {request.path[:100]!r}")
            proof = door is None or door.proof
            if proof and secured.proof is None and self._transport.proves:
                await request.reject(403)
                raise Untrusted("the peer shows no certificate")
            if proof and secured.proof is not None and secured.proof.host in self._board.refused:
                await request.reject(403)
                raise Untrusted(f"host {secured.proof.host} was removed from the cluster")
            if secured.proof is not None and not place.of(secured.proof.host):
                await request.reject(503)
                return End("too-many", f"host {secured.proof.host} has {self._rules.of_one} connections here already")
            socket = await request.accept()
            if purpose is not None:
                session = self._session(socket, secured, purpose, None, dialled=False)
                await self._greet(session)
        if proof:
            # Whoever is of the cluster no longer takes the room of those who have yet to show it.
            place.greeted()
        if session is not None:
            return await self._carry(session)
        assert door is not None
        with self._through(secured.proof), trio.fail_after(math.inf if door.deadline is None else door.deadline):
            await door.handle(socket, remote)
        return End("done", "")

    @contextmanager
    def _through(self, proof: Proof | None) -> Iterator[None]:
        """What a host does behind a door ends when that host is removed."""
        if proof is None:
            yield
            return
        with trio.CancelScope() as scope:
            inside = self._inside.setdefault(proof.host, [])
            inside.append(scope)
            try:
                yield
            finally:
                inside.remove(scope)
                if not inside:
                    del self._inside[proof.host]

    def _session(
        self, socket: WebSocketConnection, secured: Secured, purpose: Purpose, host: UUID | None, *, dialled: bool
    ) -> Session:
        connection = Connection(replace(self._local, purpose=purpose), self._registry, expected=host)
        return Session(
            self.ctx.env,
            socket,
            connection,
            self._registry,
            self._receiver,
            self._rules,
            purpose=purpose,
            dialled=dialled,
            proof=secured.proof,
        )

    async def _greet(self, session: Session) -> None:
        try:
            await session.greet(self._board.check)
        except FrameError as error:
            await session.dismiss(error.code, str(error))
            raise

    async def _carry(self, session: Session, up: Callable[[Session], None] | None = None) -> End:
        """Enter a connection that has greeted, and carry messages until its end."""
        bulk = session.purpose == "bulk"
        try:
            if bulk:
                self._board.enter_bulk(session)
            else:
                self._board.enter(session)
        except WrongPeer as error:
            if up is not None and isinstance(error, Replaced):
                up(session)
            await session.dismiss(error.code, str(error))
            raise
        if up is not None:
            up(session)
        end = End("stopping", "this host closes the link")
        try:
            self.ctx.log.info("link", peer=str(session.peer), dialled=session.dialled, purpose=session.purpose)
            for spare in self._board.surplus(self._rules.on_demand):
                spare.retire("unused", "others were used since")
            end = await session.run()
        finally:
            if bulk:
                self._board.leave_bulk(session, end)
            else:
                self._board.leave(session, end)
        return end

    async def _contained(self, converse: Callable[[trio.Nursery], Awaitable[End]]) -> End:
        """Run one connection. Whatever goes wrong in it is its end and nothing else's."""
        end = End("failed", "")
        try:
            async with trio.open_nursery() as nursery:
                end = await converse(nursery)
                nursery.cancel_scope.cancel()
        except BaseException as error:
            failure, fatal = sift(error)
            if fatal is not None:
                raise
            assert failure is not None
            return self._end_of(failure)
        return end

    def _end_of(self, error: Exception) -> End:
        while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        match error:
            case Left():
                return error.end
            case FrameError():
                return End(error.code, str(error))
            case trio.TooSlowError():
                return End("silent", f"no greeting within {self._rules.greeting:g} s")
            case ConnectionRejected():
                return End("refused", f"the peer refused the websocket with status {error.status_code}")
            case ConnectionClosed() | HandshakeError() | trio.BrokenResourceError() | trio.ClosedResourceError():
                return End("lost", "the connection broke before both had greeted")
            case OSError():
                return _unreached(error)
        self.ctx.log.error("a link failed", error=repr(error), exc_info=error)
        return End("failed", f"{type(error).__name__}: {error}")


def _unreached(error: OSError) -> End:
    """Tell a machine that answered that nobody listens from one that did not answer."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup) and cause.exceptions:
        cause = cause.exceptions[0]
    first = cause if isinstance(cause, OSError) else error
    if isinstance(first, ConnectionRefusedError):
        return End(REFUSED, "the connection was refused")
    return End("unreachable", first.strerror or str(first))


def _address_of(listener: trio.abc.Listener[Any]) -> Address:
    if isinstance(listener, trio.SocketListener):
        host, port = listener.socket.getsockname()[:2]
        return Address(host, port)
    return Address(getattr(listener, "host", "?"), getattr(listener, "port", 0))


def _remote_of(stream: trio.abc.Stream) -> str:
    if isinstance(stream, trio.SocketStream):
        try:
            return str(Address(*stream.socket.getpeername()[:2]))
        except OSError:
            return "?"
    return str(getattr(stream, "remote", "?"))


def links(factory: Callable[[], Links], *, rules: Rules = Rules()) -> Spec:  # noqa: B008 - frozen
    """Return the spec of the actor: time enough at its end for its links to take leave."""
    return Spec(NAME, factory, stop_timeout=rules.parting + 2.0)
