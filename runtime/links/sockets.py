"""What makes messages of a stream's bytes: websockets."""

from __future__ import annotations

from typing import Any, Protocol

import trio
from trio_websocket import WebSocketConnection, WebSocketRequest, wrap_client_stream, wrap_server_stream

#: Bytes read at once.
READ = 64 * 1024


class Sockets(Protocol):
    """Both ends of a connection as links need them. Tasks that they take run in ``nursery``."""

    async def open(
        self, nursery: trio.Nursery, stream: trio.abc.Stream, host: str, path: str, *, limit: int
    ) -> WebSocketConnection:
        """Ask for a path and return the connection once it was accepted; messages have at most ``limit`` bytes.

        Raises trio-websocket's errors.
        """

    async def requested(self, nursery: trio.Nursery, stream: trio.abc.Stream, *, limit: int) -> WebSocketRequest:
        """Return what the other end asks for, to be accepted or rejected. Raises trio-websocket's errors."""


class WebSockets:
    """`Sockets` of trio-websocket. One message waits at most: what is not read waits in the stream."""

    async def open(
        self, nursery: trio.Nursery, stream: Any, host: str, path: str, *, limit: int
    ) -> WebSocketConnection:
        """See `Sockets.open`."""
        return await wrap_client_stream(
            nursery, stream, host, path, message_queue_size=1, max_message_size=limit, receive_buffer_size=READ
        )

    async def requested(self, nursery: trio.Nursery, stream: Any, *, limit: int) -> WebSocketRequest:
        """See `Sockets.requested`."""
        return await wrap_server_stream(
            nursery, stream, message_queue_size=1, max_message_size=limit, receive_buffer_size=READ
        )
