"""What waits to be written to a guest: written whole and in order, however its writers are cancelled."""

from __future__ import annotations

from collections import deque

import trio

#: Bytes after which writers wait. Frames that end or grant something do not wait: there are few for each session.
ROOM = 256 * 1024
#: Bytes written at once.
_WRITE = 64 * 1024


class Outbox:
    """Frames on their way to one stream."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._changed = trio.Event()
        self._closed = False

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return self._size

    def put(self, data: bytes) -> None:
        """Add bytes now; none when it is closed."""
        if data and not self._closed:
            self._frames.append(data)
            self._size += len(data)
            self._wake()

    async def room(self) -> None:
        """Return when there is room for more, or when nothing will be written any more."""
        while self._size >= ROOM and not self._closed:
            await self._changed.wait()

    async def write_to(self, stream: trio.SocketStream) -> None:
        """Write what comes, until cancelled. Raises what the stream raises."""
        while True:
            while not self._frames:
                await self._changed.wait()
            chunk = bytearray()
            while self._frames and len(chunk) < _WRITE:
                chunk += self._frames.popleft()
            await stream.send_all(chunk)
            self._size -= len(chunk)
            self._wake()

    def close(self) -> None:
        """Nothing more is written: nobody needs to wait for room."""
        self._closed = True
        self._frames.clear()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
