"""Links over the simulated network: all of them is real but for TCP, TLS and the websocket's framing and masks.

Those cost a simulation most of its time, and are tested on real sockets (``tests/runtime/links``).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import trio
from trio_websocket import CloseReason, ConnectionClosed, ConnectionRejected

from runtime.links.transport import Address, Secured
from runtime.simulation import Listeners, Network, SimulatedListener, SimulatedStream, dial, listen

#: Seconds until a machine that does not answer is given up on.
DIAL_TIMEOUT = 3.0
_HEAD = struct.Struct("!I")
_OVERSIZE = 1009


class Stack:
    """What the kernel of one host holds for one process: its connections and where it listens.

    They end with the process, at once, whatever its tasks go on to do while they unwind.
    """

    def __init__(self, network: Network, listeners: Listeners, host: str) -> None:
        self.network = network
        self.listeners = listeners
        self.host = host
        self.ended = False
        # Ordered, so that they end in one order.
        self._streams: dict[SimulatedStream, None] = {}
        self._listening: list[SimulatedListener] = []

    def hold(self, stream: SimulatedStream) -> SimulatedStream:
        """Have a connection end with the process."""
        if self.ended:
            stream.reset()
        self._streams = {one: None for one in (*self._streams, stream) if not one.over}
        return stream

    def listening(self, port: int) -> SimulatedListener:
        """Listen at a port. Raises `OSError`."""
        if self.ended:
            raise OSError("this process has ended")
        listener = listen(self.listeners, self.host, port)
        self._listening.append(listener)
        return listener

    def end(self, *, silently: bool = False) -> None:
        """The process ends: its kernel tells its peers, or nobody does when its machine ends ``silently``."""
        self.ended = True
        for listener in self._listening:
            listener.abandon()
        for stream in self._streams:
            if silently:
                stream.vanish()
            else:
                stream.close()
        self._streams.clear()


class SimulatedTransport:
    """`runtime.links.transport.Transport` of one process. Hosts of the network are known by name."""

    proves = False

    def __init__(self, stack: Stack, port: int) -> None:
        self._stack = stack
        self._port = port

    async def listen(self) -> Sequence[trio.abc.Listener[Any]]:
        """See `Transport.listen`."""
        await trio.lowlevel.checkpoint()
        return [self._stack.listening(self._port)]

    async def admit(self, stream: Any) -> Secured:
        """Return it as it is."""
        await trio.lowlevel.checkpoint()
        return Secured(self._stack.hold(stream))

    async def dial(self, address: Address) -> Secured:
        """See `Transport.dial`."""
        stack = self._stack
        if stack.ended:
            raise OSError("this process has ended")
        stream = await dial(
            stack.network, stack.listeners, stack.host, address.host, address.port, timeout=DIAL_TIMEOUT
        )
        return Secured(stack.hold(stream))


class SimulatedSockets:
    """`runtime.links.sockets.Sockets`: each message with its length before it, the path as the first of them."""

    async def open(self, nursery: trio.Nursery, stream: Any, host: str, path: str, *, limit: int) -> Any:  # noqa: ARG002
        """See `Sockets.open`."""
        socket = Socket(stream, limit)
        await socket.send_message(path.encode())
        if await socket.get_message() != b"\x01":
            raise ConnectionRejected(404, (), None)
        return socket

    async def requested(self, nursery: trio.Nursery, stream: Any, *, limit: int) -> Any:  # noqa: ARG002
        """See `Sockets.requested`."""
        socket = Socket(stream, limit)
        return Request(socket, (await socket.get_message()).decode(errors="replace"))


class Socket:
    """As much of a ``WebSocketConnection`` as links use."""

    def __init__(self, stream: SimulatedStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._came = bytearray()

    async def send_message(self, message: bytes) -> None:
        """Send; raises `ConnectionClosed`."""
        data = _HEAD.pack(len(message)) + message
        try:
            # Each checkpoint would cost a turn of trio's loop, most of what a message costs here.
            if not self._stream.send_at_once(data):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosed(None) from error

    async def get_message(self) -> bytes:
        """Return the next message; raises `ConnectionClosed`."""
        came = self._came
        while True:
            if len(came) >= _HEAD.size:
                end = _HEAD.size + int(_HEAD.unpack_from(came)[0])
                if end - _HEAD.size > self._limit:
                    raise ConnectionClosed(CloseReason(_OVERSIZE, None))
                if len(came) >= end:
                    message = bytes(came[_HEAD.size : end])
                    del came[:end]
                    return message
            try:
                part = self._stream.take_at_once() or await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosed(None) from error
            if not part:
                raise ConnectionClosed(CloseReason(1000, None))
            came += part

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:  # noqa: ARG002
        """Close it; what was sent before still arrives."""
        await self._stream.aclose()


class Request:
    """As much of a ``WebSocketRequest`` as links use."""

    def __init__(self, socket: Socket, path: str) -> None:
        self._socket = socket
        self.path = path

    async def accept(self) -> Any:
        """Return the connection, which stands now."""
        await self._socket.send_message(b"\x01")
        return self._socket

    async def reject(self, status: int) -> None:  # noqa: ARG002
        """Refuse it."""
        await self._socket.send_message(b"\x00")
