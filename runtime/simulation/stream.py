"""Connections over the simulated network, as trio's streams: with FIN, reset, and an end without a word."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from runtime.simulation.network import Network, Pipe

#: Bytes that may be on their way in one direction; a sender waits until they were taken.
WINDOW = 65536
#: Bytes taken at the other end before it says so: less than the window, so that a sender who waits always hears of it.
ACKNOWLEDGED_AT_ONCE = WINDOW // 4


class SimulatedStream(trio.abc.HalfCloseableStream):
    """One end of a connection. Made by `connect`, `dial` and listeners."""

    def __init__(self, network: Network, local: str, remote: str) -> None:
        self.local = local
        self.remote = remote
        self._network = network
        self._out = network.pipe(local, remote, self._lost)
        self._peer: SimulatedStream
        self._buffer = bytearray()
        self._changed = trio.Event()
        self._ended = False  # their FIN has come
        self._finished = False  # our FIN is sent
        self._broken = ""
        self._closed = False
        self._gone = False  # this end's machine crashed: it hears nothing and says nothing
        self._flying = 0
        self._taken = 0  # of what came, not acknowledged yet
        self._busy: dict[str, None] = {}

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; wait while too many are on their way. Raises as trio's streams do."""
        with self._alone("send"):
            await self._send(data)

    async def _send(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(bytes(data))
        while True:
            self._check_sender()
            if not rest:
                return
            room = WINDOW - self._flying
            if room <= 0:
                await self._change()
                continue
            part, rest = bytes(rest[:room]), rest[room:]
            self._flying += len(part)
            self._out.send(lambda part=part: self._peer._receive(part))  # type: ignore[misc]

    def send_at_once(self, data: bytes) -> bool:
        """Send bytes if there is room for all of them; tell whether. Raises as `send_all` does, and never waits."""
        self._check_sender()
        if "send" in self._busy or self._flying + len(data) > WINDOW:
            return False
        self._flying += len(data)
        self._out.send(lambda: self._peer._receive(data))
        return True

    def take_at_once(self) -> bytes:
        """Return what has come and was not taken yet, b"" for nothing."""
        data = bytes(self._buffer)
        if data:
            self._buffer.clear()
            self._acknowledge(len(data))
        return data

    def _check_sender(self) -> None:
        if self._closed or self._finished:
            raise trio.ClosedResourceError
        if self._broken:
            raise trio.BrokenResourceError(self._broken)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a byte could be sent."""
        with self._alone("send"):
            await trio.lowlevel.checkpoint()
            while not self._closed and not self._broken and self._flying >= WINDOW:
                await self._change()
        if self._closed:
            raise trio.ClosedResourceError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come, b"" after a FIN. Raises as trio's streams do."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be positive")
        with self._alone("receive"):
            return await self._receive_some(max_bytes)

    async def _receive_some(self, max_bytes: int | None) -> bytes:
        if self._buffer or self._ended or self._broken or self._closed:
            await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            if self._buffer:
                size = len(self._buffer) if max_bytes is None else max_bytes
                data = bytes(self._buffer[:size])
                del self._buffer[:size]
                self._acknowledge(len(data))
                return data
            if self._broken:
                raise trio.BrokenResourceError(self._broken)
            if self._ended:
                return b""
            await self._change()

    async def send_eof(self) -> None:
        """Send a FIN: nothing more comes from this end."""
        with self._alone("send"):
            await trio.lowlevel.checkpoint()
            if self._finished and not self._closed:
                return
            self._check_sender()
            self._finish()

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """Refuse a second task that wants to do the same at once, as trio's own streams do."""
        if what in self._busy:
            raise trio.BusyResourceError(f"another task wants to {what} just now")
        self._busy[what] = None
        try:
            yield
        finally:
            del self._busy[what]

    async def aclose(self) -> None:
        """See `close`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close this end, as a kernel does when its process ends: a FIN after what was sent.

        The other end is reset if it sends anything more, or has sent what was not read here.
        """
        if not self._closed and self._buffer:
            self.reset()
        elif not self._closed:
            self._finish()
            self._closed = True
            self._notify()

    @property
    def over(self) -> bool:
        """Whether this end was closed, or is broken."""
        return self._closed or bool(self._broken)

    def reset(self) -> None:
        """Close this end with an RST: whatever the other end has not read is lost to it."""
        if not self._closed:
            self._closed = True
            self._notify()
            self._out.send(lambda: self._peer._break("connection reset by peer"))

    def vanish(self) -> None:
        """Forget the connection without a word, as a machine does that crashes: the other end learns it when it sends.

        To this end's own tasks it looks broken.
        """
        self._gone = True
        self._broken = self._broken or "its machine crashed"
        self._buffer.clear()
        self._out.close()
        self._notify()

    # --- from the network

    def _receive(self, data: bytes) -> None:
        if self._gone or self._closed:
            # Nobody here knows the connection, and the word of that goes back. A pipe of its own: ours may be closed.
            answer = self._network.pipe(self.local, self.remote)

            def told() -> None:
                answer.close()
                self._peer._break("connection reset by peer")

            answer.send(told)
            return
        self._buffer += data
        self._notify()

    def _acknowledge(self, count: int) -> None:
        self._taken += count
        if self._taken >= ACKNOWLEDGED_AT_ONCE:
            taken, self._taken = self._taken, 0
            self._out.send(lambda: self._peer._acknowledged(taken))

    def _acknowledged(self, count: int) -> None:
        self._flying -= count
        self._notify()

    def _break(self, why: str) -> None:
        if not self._broken and not self._gone:
            self._broken = why
            self._buffer.clear()
            self._out.close()
            self._notify()

    def _lost(self) -> None:
        self._break("connection timed out")

    def _finish(self) -> None:
        if not self._finished and not self._broken and not self._gone:
            self._finished = True
            self._out.send(self._peer._end)

    def _end(self) -> None:
        self._ended = True
        self._notify()
        if self._finished and self._peer._ended:
            self._out.close()
            self._peer._out.close()

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _change(self) -> None:
        await self._changed.wait()


def connect(network: Network, one: str, other: str) -> tuple[SimulatedStream, SimulatedStream]:
    """Return both ends of a connection that stands already, the first at ``one``."""
    here, there = SimulatedStream(network, one, other), SimulatedStream(network, other, one)
    here._peer, there._peer = there, here
    return here, there


class Listeners:
    """Who listens where, of one network."""

    def __init__(self) -> None:
        self.by_address: dict[tuple[str, int], SimulatedListener] = {}
        #: Hosts whose machine is off: nothing there refuses a connection.
        self.dark: dict[str, None] = {}


class SimulatedListener(trio.abc.Listener[SimulatedStream]):
    """Takes connections at a port of a host. At most ``backlog`` wait to be accepted; others are refused."""

    def __init__(self, listeners: Listeners, host: str, port: int, backlog: int) -> None:
        self.host, self.port = host, port
        self._listeners = listeners
        self._backlog = backlog
        self._waiting: deque[SimulatedStream] = deque()
        self._changed = trio.Event()
        self._closed = False

    def offer(self, stream: SimulatedStream) -> bool:
        """Queue a connection; False when there is no room."""
        if self._closed or len(self._waiting) >= self._backlog:
            return False
        self._waiting.append(stream)
        self._changed.set()
        return True

    async def accept(self) -> SimulatedStream:
        """Return the next connection."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._closed:
                raise trio.ClosedResourceError
            self._changed = trio.Event()
            await self._changed.wait()
        return self._waiting.popleft()

    def abandon(self) -> None:
        """Listen no more, since the process has ended: its tasks, as long as they unwind, hear nothing of that."""
        if self._listeners.by_address.get((self.host, self.port)) is self:
            del self._listeners.by_address[self.host, self.port]
        for stream in self._waiting:
            stream.reset()
        self._waiting.clear()

    async def aclose(self) -> None:
        """Stop listening; what was not accepted is reset."""
        if not self._closed:
            self._closed = True
            self._changed.set()
            self.abandon()
        await trio.lowlevel.checkpoint()


def listen(listeners: Listeners, host: str, port: int, *, backlog: int = 64) -> SimulatedListener:
    """Listen at a port. Raises `OSError` when somebody does."""
    if (host, port) in listeners.by_address:
        raise OSError(f"{host}:{port} is in use")
    listener = listeners.by_address[host, port] = SimulatedListener(listeners, host, port, backlog)
    return listener


async def dial(
    network: Network, listeners: Listeners, source: str, host: str, port: int, *, timeout: float = 3.0
) -> SimulatedStream:
    """Connect to a port. Raises `ConnectionRefusedError`, or `TimeoutError` after so many seconds without an answer.

    A machine that is up refuses at once when nobody listens; one that is dark, or cut off, is silent.
    """
    here, there = connect(network, source, host)
    answered = trio.Event()
    accepted = False

    def reply(verdict: bool) -> Callable[[], None]:
        def told() -> None:
            nonlocal accepted
            accepted = verdict
            answered.set()

        return told

    def knock() -> None:
        if host in listeners.dark:
            return
        listener = listeners.by_address.get((host, port))
        back.send(reply(listener is not None and listener.offer(there)))

    back: Pipe = there._out
    here._out.send(knock)
    with trio.move_on_after(timeout):
        await answered.wait()
    if accepted:
        return here
    refused = answered.is_set()
    here.vanish()
    there.vanish()
    if refused:
        raise ConnectionRefusedError(f"{host}:{port} refused the connection")
    raise TimeoutError(f"{host}:{port} does not answer")
