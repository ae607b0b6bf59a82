"""A guest's agent in a few lines, whose every word a test decides, at the other end of a real socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from unittest.mock import patch

import trio

from actors.vm.agent import link as module
from actors.vm.agent.link import AgentLink
from actors.vm.agent.wire import Decoder, Frame, Kind
from runtime.environment import Environment, RealEnvironment


class Peer:
    """The guest's end of one connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        self.raw = b""

    async def next(self) -> Frame:
        """Return the host's next frame."""
        while not self._frames:
            data = bytes(await self.stream.receive_some(65536))
            if not data:
                raise EOFError
            if len(self.raw) < 64 * 1024:
                self.raw += data
            self._frames = self._decoder.feed(data)
        return self._frames.pop(0)

    async def say(self, kind: int, payload: bytes = b"", session: int = 0) -> None:
        """Send a frame."""
        await self.stream.send_all(Frame(kind, session, payload).encode())

    async def greet(self, flags: int = 0, version: int = 1) -> None:
        """Take HELLO and answer it."""
        frame = await self.next()
        assert frame.kind == Kind.HELLO
        payload = frame.payload[:16] + version.to_bytes(2, "little") + flags.to_bytes(2, "little")
        await self.say(Kind.HELLO_BACK, payload)

    async def serve(self) -> None:
        """Answer like a guest in good health, until the host leaves; a command is a `cat` that exits with 7."""
        while True:
            try:
                frame = await self.next()
            except (EOFError, trio.BrokenResourceError):
                return
            if frame.kind == Kind.PING:
                await self.say(Kind.PONG, frame.payload + bytes(8))
            elif frame.kind == Kind.STATISTICS:
                await self.say(Kind.STATISTICS_BACK, b"uptime_ms=5\0new=1\0oom_kills=x\0")
            elif frame.kind == Kind.OPEN:
                await self.say(Kind.STARTED, (42).to_bytes(4, "little"), frame.session)
            elif frame.kind == Kind.DATA:
                await self.say(Kind.CREDIT_BACK, len(frame.payload).to_bytes(4, "little"), frame.session)
                await self.say(Kind.OUTPUT, frame.payload, frame.session)
            elif frame.kind in (Kind.EOF, Kind.CLOSE):
                await self.say(Kind.EXIT, bytes((0, 7)), frame.session)
            elif frame.session == 0:
                await self.say(Kind.OK, bytes((frame.kind,)))


class Guest:
    """Hands out connections to peers, as a monitor's socket does."""

    def __init__(self) -> None:
        self._peers_in, self._peers = trio.open_memory_channel[Peer](100)
        self.away: Exception | None = None
        self.tries = 0

    async def connect(self) -> trio.SocketStream:
        """What a link is given to connect with."""
        await trio.lowlevel.checkpoint()
        self.tries += 1
        if self.away is not None:
            raise self.away
        ours, theirs = socket.socketpair()
        self._peers_in.send_nowait(Peer(trio.SocketStream(trio.socket.from_stdlib_socket(theirs))))
        return trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    async def peer(self) -> Peer:
        """Return the next connection's other end."""
        with trio.fail_after(90):
            return await self._peers.receive()


@contextmanager
def patient() -> Iterator[None]:
    """Have links wait for HELLO however long a busy machine takes for it: else they connect anew in between."""
    with patch.multiple(module, HELLO_FIRST_S=90.0, HELLO_S=90.0):
        yield


@asynccontextmanager
async def linked(
    guest: Guest, *, lasting: bool = False, env: Environment | None = None, changes: list[bool] | None = None
) -> AsyncIterator[AgentLink]:
    """Run a link to ``guest``; ``changes`` collects what `AgentLink.connected` was at each change."""

    def changed() -> None:
        if changes is not None:
            changes.append(link.connected)

    link = AgentLink(guest.connect, lasting=lasting, env=env or RealEnvironment(), changed=changed, name="test")
    with patient():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            yield link
            nursery.cancel_scope.cancel()


async def until_connected(link: AgentLink) -> None:
    """Return once the link is up."""
    with trio.fail_after(90):
        while not link.connected:  # noqa: ASYNC110 - there is no event for a test to wait for
            await trio.sleep(0.005)
