"""One client connection: hypercorn speaks HTTP on it, we see that it can neither hang nor take the server with it."""

from __future__ import annotations

import math

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from zeitwork.api.websocket import CONNECTION

#: A client that takes nothing of its answer for this many seconds is dropped: hypercorn shields its sends.
SEND_STALL_S = 30.0
#: Seconds that a request may go on after its connection was closed.
_AFTERLIFE_S = 10.0

log = structlog.get_logger()


class GuardedStream:
    """A socket stream whose sends have a deadline, and whose closing ends the connection's tasks soon after."""

    def __init__(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        self._stream = stream
        self._scope = scope
        self.socket = stream.socket
        self._silence = math.inf
        self._listening: trio.CancelScope | None = None

    async def send_all(self, data: bytes) -> None:
        """Send all of ``data``.

        Raises `trio.BrokenResourceError` when the client takes none of it for too long, or is being let go.
        """
        try:
            with trio.fail_after(SEND_STALL_S):
                await self._stream.send_all(data)
        except trio.BrokenResourceError:
            # Nobody may be waiting for the client's next word, and so nobody learn that it left.
            self._end_soon()
            raise
        except trio.BusyResourceError:
            # Hypercorn sends one thing at a time: what is under way is the end, since the client has left.
            raise trio.BrokenResourceError("the connection is being closed") from None
        except trio.TooSlowError:
            self.abort()
            raise trio.BrokenResourceError("the client takes nothing") from None

    async def receive_some(self, limit: int) -> bytes:
        """Return some bytes, none at the end or when the client said nothing for longer than was to be expected."""
        with trio.move_on_after(self._silence) as self._listening:
            return bytes(await self._stream.receive_some(limit))
        log.info("a client said nothing any more", seconds=self._silence)
        self._end_soon()
        return b""

    def expect_signs(self, seconds: float) -> None:
        """From now on, take a client for dead that says nothing for so long, though it is asked (pinged)."""
        self._silence = seconds
        if self._listening is not None:
            self._listening.deadline = trio.current_time() + seconds

    async def send_eof(self) -> None:
        """Tell the client that nothing more will come."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close; what still works on this connection's request gets a little time."""
        self._end_soon()
        await self._stream.aclose()

    def abort(self) -> None:
        """Close now and end the connection's tasks."""
        self._scope.cancel()
        self.socket.close()

    def _end_soon(self) -> None:
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + _AFTERLIFE_S)


class _Server(TCPServer):
    """Hypercorn's, but a connection ends with its client: it would keep its place for the whole keep-alive time."""

    _over = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._over = True
        await self.idle_task.stop()

    async def _idle_timeout(self) -> None:
        if not self._over:
            await super()._idle_timeout()


class Connections:
    """All open connections of a server."""

    def __init__(self, app: ASGIWrapper, config: Config, most: int) -> None:
        self._app = app
        self._config = config
        self._context = WorkerContext(None)
        self._most = most
        self._open: set[GuardedStream] = set()
        self._empty = trio.Event()
        self._closing = False

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it ends. Cancelling the caller's scope does not end it: `drain` does."""
        if len(self._open) >= self._most:
            log.warning("a connection was refused, too many are open", most=self._most)
            await trio.aclose_forcefully(stream)
            return
        with trio.CancelScope(shield=True) as scope:
            guarded = GuardedStream(stream, scope)
            self._open.add(guarded)
            try:
                # What is in the state comes with every request's scope.
                state = ConnectionState({CONNECTION: guarded})
                await _Server(self._app, self._config, self._context, state, guarded)  # type: ignore[arg-type]
            except Exception:
                log.exception("a connection failed")
            finally:
                self._open.discard(guarded)
                if self._closing and not self._open:
                    self._empty.set()
                stream.socket.close()

    async def drain(self, seconds: float) -> None:
        """Let requests end for up to ``seconds``, then cut what is left. Idle connections close at once."""
        self._closing = True
        await self._context.terminated.set()
        if not self._open:
            return
        with trio.move_on_after(seconds, shield=True):
            await self._empty.wait()
        for guarded in list(self._open):
            guarded.abort()
