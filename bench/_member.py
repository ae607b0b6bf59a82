"""A process that is a member: ``python -m bench._member NUMBER PORT SEED_PORT TRUST_DIRECTORY``.

Real membership over real links with mutual TLS on loopback. On each line of standard output: what it heard, about whom,
and when (seconds of the clock that all processes of a machine share); on each line of its input it says how many bytes
its sockets have sent so far.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
import trio

from bench._links import CLUSTER
from runtime import RealEnvironment, Spec, System
from runtime.links.board import Board
from runtime.links.frames import Hello, Identity
from runtime.links.links import Links, links
from runtime.links.transport import Address, Secured, TlsTransport
from runtime.membership import over_links
from runtime.membership.driver import NAME, Announce, Membership, membership
from runtime.membership.events import Notice, Superseded
from zeitwork.trust import certificates
from zeitwork.trust.files import TrustFiles
from zeitwork.wire import wire_registry

#: Each host's metadata, and how often it changes (bytes, seconds).
META_BYTES, META_EVERY = 64, 30.0


class _Counted(trio.abc.HalfCloseableStream):
    """A connection whose bytes are counted: with TLS and websockets around them, without TCP/IP."""

    def __init__(self, stream: trio.SocketStream, count: Callable[[int], None]) -> None:
        self._stream = stream
        self._count = count

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        self._count(len(data))
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See `trio.abc.ReceiveStream`."""
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """See `trio.abc.HalfCloseableStream`."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        await self._stream.aclose()


class _Transport(TlsTransport):
    """Counts what is sent."""

    sent = 0

    async def admit(self, stream: trio.abc.Stream) -> Secured:
        """See `TlsTransport.admit`."""
        assert isinstance(stream, trio.SocketStream)
        return await super().admit(_Counted(stream, self._count))

    async def dial(self, address: Address) -> Secured:
        """See `TlsTransport.dial`."""
        stream = await trio.open_tcp_stream(address.host, address.port)
        return await self._shake(trio.SSLStream(_Counted(stream, self._count), self._contexts().client))

    def _count(self, size: int) -> None:
        self.sent += size


async def _main(number: int, port: int, seed: int, directory: Path) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    files = TrustFiles(directory)
    transport = _Transport("127.0.0.1", port, files.contexts, lambda shown: certificates.prove(shown, CLUSTER))
    registry, own = wire_registry(), UUID(int=number)

    def heard(notice: Notice | Superseded) -> None:
        if isinstance(notice, Notice) and notice.kind != "changed":
            print("heard", notice.kind, notice.member.host.int, time.monotonic(), flush=True)

    async with System(RealEnvironment()) as system:
        board = Board(own, system.env.monotonic)
        receiver = over_links.LinkReceiver(board, system, registry)
        local = Hello(CLUSTER, Identity(own, 1))
        await system.start(links(lambda: Links(board, transport, local, registry, receiver)))
        members, made = system.name(NAME), system.name("links")
        await system.start(Spec(over_links.NAME, lambda: over_links.Courier(board, made, members)))
        way = over_links.LinkTransport(board, system.name(over_links.NAME))
        seeds = [] if seed == port else [f"127.0.0.1:{seed}"]
        await system.start(membership(lambda: Membership(own, 1, f"127.0.0.1:{port}", way, heard, seeds=seeds)))
        print("stands", time.monotonic(), flush=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_talk, members, system.env.random)
            async for _ in trio.lowlevel.FdStream(0):
                print("sent", transport.sent, flush=True)
            nursery.cancel_scope.cancel()


async def _talk(members: Any, chance: Any) -> None:
    while True:
        await trio.sleep(META_EVERY * (0.5 + chance.random() / 2))
        members.tell(Announce(chance.randbytes(META_BYTES)))


if __name__ == "__main__":
    trio.run(_main, int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
