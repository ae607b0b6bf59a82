"""Hosts with real links on loopback, and peers that misbehave."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import trio
from trio_websocket import WebSocketConnection, connect_websocket

from runtime import Actor, LifeRef, Message, Spec, System
from runtime.links import links as driver
from runtime.links.board import Board, LinkDown, LinkUp
from runtime.links.frames import Bulk, Identity
from runtime.links.links import Links
from runtime.links.messages import Follow, Want
from runtime.links.receiver import SystemReceiver
from runtime.links.remote import RemoteRef
from runtime.links.rules import Rules
from runtime.links.transport import Address, PlainTransport, Transport
from tests.runtime.links.messages import Describe, Double, Gossip, Note, Part, hello, registry

#: Seconds within which anything in these tests happens.
SOON = 60.0
#: Pings and second attempts come soon; whatever else is waited for gets its time on a busy machine. Who ends does not
#: wait long for those who would hear it.
QUICK = Rules(
    ping_every=0.1,
    silence=SOON,
    parting=0.2,
    lingering=SOON,
    backoff_first=0.02,
    backoff_longest=0.2,
)
#: The same, and a last word is heard although the machine is busy.
PATIENT = replace(QUICK, parting=2.0)
#: For tests that wait for what was begun and never ends.
IMPATIENT = replace(QUICK, greeting=1.0)
#: For tests in which somebody does not answer any more.
ALERT = replace(QUICK, silence=0.8)
#: At the end of a test, when nobody listens for last words.
AT_END = 0.05


class Worker(Actor):
    """Answers what it can."""

    def __init__(self) -> None:
        self.notes: list[Message] = []
        self.doubled: list[int] = []
        #: Names that were to be described: each request that is here, answered or not.
        self.described: list[str] = []
        #: Descriptions wait for it when there is one.
        self.gate: trio.Event | None = None

    async def receive(self, message: Message) -> None:
        match message:
            case Double(number):
                if number < 0:
                    raise Refused("no negative numbers", field="number", fix="give a positive one")
                self.doubled.append(number)
                self.ctx.reply(number * 2)
            case Describe(name, after):
                slot = self.ctx.reply_slot()
                self.described.append(name)

                async def later() -> None:
                    await trio.sleep(after)
                    if self.gate is not None:
                        await self.gate.wait()
                    slot.reply(Part(name, (1, 2)))

                self.ctx.effect(later, name="later", deadline=None)
            case Note() | Gossip():
                self.notes.append(message)
            case _:
                raise AssertionError(f"not for me: {message}")


class Refused(Exception):
    code = "refused-here"
    status = 409

    def __init__(self, detail: str, **more: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field, self.fix = more["field"], more["fix"]


class Listener(Actor):
    """Writes down what happens to links."""

    def __init__(self, log: list[Message]) -> None:
        self._log = log

    async def receive(self, message: Message) -> None:
        self._log.append(message)


@dataclass
class Host:
    """One host: a system with a worker and links."""

    id: UUID
    system: System
    board: Board
    links: LifeRef
    actor: Links
    worker: Worker
    changes: list[Message]
    pieces: list[tuple[Identity, Bulk]] = field(default_factory=list)

    @property
    def address(self) -> Address:
        return self.actor.addresses[0]

    def ref(self, other: UUID, name: str = "worker", generation: int | None = None) -> RemoteRef:
        return RemoteRef(self.board, other, name, generation)

    def ups(self) -> list[LinkUp]:
        return [change for change in self.changes if isinstance(change, LinkUp)]

    def downs(self) -> list[LinkDown]:
        return [change for change in self.changes if isinstance(change, LinkDown)]


@asynccontextmanager
async def host(
    number: int,
    generation: int = 1,
    *,
    rules: Rules = PATIENT,
    transport: Transport | None = None,
    port: int = 0,
    **more: Any,
) -> AsyncIterator[Host]:
    who, made, actors = UUID(int=number), registry(), []
    pieces: list[tuple[Identity, Bulk]] = []

    async def sink(peer: Identity, piece: Bulk) -> None:
        pieces.append((peer, piece))
        await trio.lowlevel.checkpoint()

    async with System() as system:
        board, worker, changes = Board(who, system.env.monotonic), Worker(), list[Message]()
        await system.start(Spec("worker", lambda: worker))
        listener = await system.start(Spec("listener", lambda: Listener(changes)))
        doors = more.pop("doors", None)
        make = functools.partial(
            Links,
            board,
            transport or PlainTransport(port=port),
            hello(who, generation, **more),
            made,
            SystemReceiver(system, made, sink),
            rules,
            doors,
        )

        def once() -> Links:
            actors.append(make())
            return actors[-1]

        ref = await system.start(driver.links(once, rules=rules))
        ref.tell(Follow(listener))
        await until(lambda: board.dial is not None, "its links can be used")
        try:
            yield Host(who, system, board, ref, actors[0], worker, changes, pieces)
        finally:
            _hasten(board, actors)


def _hasten(board: Board, actors: list[Links]) -> None:
    """Have links end soon from now on, whoever is still to hear of it."""
    sessions = [one for peer in board.peers.values() for one in (peer.session, peer.bulk) if one is not None]
    for patient in (*actors, *sessions):
        patient._rules = replace(patient._rules, parting=min(patient._rules.parting, AT_END))


async def until(what: Callable[[], object], why: str = "") -> None:
    """Wait until something holds."""
    with trio.move_on_after(SOON):
        while not what():  # noqa: ASYNC110 - many things can make it true
            await trio.sleep(0.01)
        return
    raise AssertionError(f"never: {why or what}")


def want(one: Host, *others: Host) -> None:
    one.links.tell(Want({other.id: other.address for other in others}))


@asynccontextmanager
async def raw_socket(to: Host) -> AsyncIterator[trio.SocketStream]:
    """A TCP connection that nothing is said on."""
    stream = await trio.open_tcp_stream(to.address.host, to.address.port)
    async with stream:
        yield stream


@asynccontextmanager
async def raw_websocket(to: Host, path: str = "/link") -> AsyncIterator[WebSocketConnection]:
    """A websocket that nothing is said on."""
    async with trio.open_nursery() as nursery:
        socket = await connect_websocket(nursery, to.address.host, to.address.port, path, use_ssl=False)
        try:
            yield socket
        finally:
            # Or the other end would wait for an answer to its farewell.
            await trio.aclose_forcefully(socket._stream)
        nursery.cancel_scope.cancel()


async def ended(stream: trio.SocketStream) -> bytes:
    """Read until the other end closes; return the rest."""
    got = b""
    with trio.fail_after(SOON):
        while True:
            try:
                data = await stream.receive_some(65536)
            except trio.BrokenResourceError:
                return got
            if not data:
                return got
            got += data
