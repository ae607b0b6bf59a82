"""The way to a Postgres that listens on a unix socket of another host: bytes both ways, inside the cluster's TLS.

The host that has the database opens a door for hosts with a certificate of the cluster. Every other host listens on a
unix socket of its own, in a directory that only it may enter, and carries each connection over.
"""

from __future__ import annotations

import socket as sockets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, WebSocketConnection, wrap_client_stream

from runtime.failure import sift
from runtime.links.door import Door
from runtime.links.errors import FrameError
from runtime.links.transport import Address, Contexts, Proof, TlsTransport
from zeitwork.trust import certificates
from zeitwork.trust.reach import said

#: The door's path.
PATH = "/postgres"
#: Bytes carried at once, and seconds to connect.
CHUNK, CONNECT = 64 * 1024, 5.0
#: Connections that one host carries at once.
MOST = 64

_log = structlog.get_logger().bind(part="tunnel")


def door(path: Path) -> Door:
    """Return the door to the server that listens at ``path``."""

    async def handle(websocket: WebSocketConnection, remote: str) -> None:
        try:
            server = await trio.open_unix_socket(str(path))
        except OSError as error:
            _log.warning("the database is not there", remote=remote, error=str(error))
            await websocket.aclose(1011, "the database is not there")
            return
        await carry(websocket, server)

    return Door(handle, proof=True, deadline=None)


async def carry(websocket: WebSocketConnection, stream: trio.abc.Stream) -> None:
    """Carry bytes both ways until either side ends; both are closed then."""
    async with trio.open_nursery() as nursery:

        async def out() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, ConnectionClosed):
                while data := await stream.receive_some(CHUNK):
                    await websocket.send_message(bytes(data))
            nursery.cancel_scope.cancel()

        async def back() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, ConnectionClosed):
                while True:
                    message = await websocket.get_message()
                    if isinstance(message, str):
                        break
                    await stream.send_all(message)
            nursery.cancel_scope.cancel()

        nursery.start_soon(out)
        nursery.start_soon(back)
    with trio.move_on_after(1.0, shield=True):
        await trio.aclose_forcefully(stream)
        await websocket.aclose(1000, None)


class Tunnel:
    """Listens at ``path``. ``addresses`` are those of hosts that may have the database, tried in order.

    ``refused`` is called when all of them let this host through no more: it was removed from the cluster.
    """

    def __init__(
        self,
        path: Path,
        addresses: Callable[[], Sequence[Address]],
        contexts: Callable[[], Contexts],
        cluster: UUID,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._addresses = addresses

        def identify(shown: Mapping[str, Any]) -> Proof:
            return certificates.prove(shown, cluster)

        self._transport = TlsTransport("127.0.0.1", 0, contexts, identify)
        self._busy = 0
        self._reached = True
        self._refused = refused
        #: Whether the last host that was asked lets this one through no more.
        self._shut = False
        #: Where and why the database is not reached, as far as the last try has come; None when it was.
        self.unreached: str | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Carry connections for as long as this lasts. Raises `OSError` when the socket can't be made."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.parent.chmod(0o700)
        self._path.unlink(missing_ok=True)
        listening = trio.socket.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        try:
            await listening.bind(str(self._path))
            listening.listen(MOST)
            async with trio.open_nursery() as nursery:
                # What is cancelled meanwhile still has things to write on its way out.
                inner = trio.CancelScope(shield=True)

                async def serve() -> None:
                    with inner:
                        await trio.serve_listeners(self._serve, [trio.SocketListener(listening)])

                nursery.start_soon(serve)
                try:
                    yield
                finally:
                    inner.cancel()
        finally:
            listening.close()
            self._path.unlink(missing_ok=True)
            with suppress(OSError):
                self._path.parent.rmdir()

    async def _serve(self, local: trio.SocketStream) -> None:
        if self._busy >= MOST:
            await trio.aclose_forcefully(local)
            return
        self._busy += 1
        try:
            shut = []
            for address in self._addresses():
                if await self._over(address, local):
                    return
                shut.append(self._shut)
            if shut and all(shut):
                self._refused()
        except BaseException as error:
            failure, fatal = sift(error)
            if fatal is not None:
                raise
            _log.warning("a connection to the database broke", error=repr(failure))
        finally:
            self._busy -= 1
            await trio.aclose_forcefully(local)

    async def _over(self, address: Address, local: trio.SocketStream) -> bool:
        """Carry one connection over a host; False when it does not let us through."""
        stream: Any = None
        # Who waits for a connection may give up before this does.
        self.unreached = f"{address}: no answer"
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(CONNECT):
                    secured = await self._transport.dial(address)
                    stream = secured.stream
                    websocket = await wrap_client_stream(
                        nursery, stream, str(address), PATH, message_queue_size=1, max_message_size=4 * CHUNK
                    )
                self._reached, self._shut, self.unreached = True, False, None
                await carry(websocket, local)
                nursery.cancel_scope.cancel()
        except* (OSError, FrameError, HandshakeError, trio.BrokenResourceError, trio.TooSlowError) as group:
            first = group.exceptions[0]
            self._shut = isinstance(first, ConnectionRejected) and first.status_code == 403
            self.unreached = f"{address}: {_why(first)}"
            # Once: whoever needs the database tries again and again.
            log = _log.warning if self._reached else _log.debug
            log("the database is not reached", address=str(address), error=_why(first))
            self._reached = False
            return_value = False
        else:
            return_value = True
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)
        return return_value


def _why(error: BaseException) -> str:
    """Return why a host does not let this one through, for a person."""
    if isinstance(error, OSError):
        return said(error)
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {CONNECT:g} s"
    if isinstance(error, ConnectionRejected):
        if error.status_code == 404:
            return "that host has no database"
        return f"refused ({error.status_code})"
    return f"{type(error).__name__}: {error}".removesuffix(": ")
