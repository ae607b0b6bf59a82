"""What waits to be sent to one peer: bounded, and what matters most first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from runtime.links.connection import Question
from runtime.links.errors import QueueFull
from runtime.links.registry import Lane

#: Frames and bytes that may wait in each lane.
LIMIT_FRAMES, LIMIT_BYTES = 2048, 2 << 20


class _Lane:
    __slots__ = ("entries", "size")

    def __init__(self) -> None:
        #: Bytes, or a question and when its asker gives up.
        self.entries: deque[tuple[bytes, Question | None, float]] = deque()
        self.size = 0


class Outbox:
    """Lanes of frames, and room in each for a pong and a ping that never wait behind anything.

    ``clock`` is the environment's monotonic one, ``limit`` the bytes of one message. ``sent`` is told of each request
    whose turn came, just before it is sent.
    """

    def __init__(
        self, name: str, clock: Callable[[], float], limit: int, sent: Callable[[int], None] = lambda _: None
    ) -> None:
        self._name = name
        self._clock = clock
        self._limit = limit
        self._sent = sent
        self._lanes: dict[Lane, _Lane] = {"system": _Lane(), "control": _Lane()}
        self._urgent: dict[str, bytes] = {}
        self._filled = trio.Event()
        self._emptied = trio.Event()
        self.closed = False

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return sum(lane.size for lane in self._lanes.values())

    def put(self, lane: Lane, frame: bytes) -> None:
        """Queue a frame; raises `QueueFull`."""
        self._put(lane, frame, None, 0.0)

    def ask(self, lane: Lane, question: Question, deadline: float) -> None:
        """Queue a request that is dropped if its turn comes after ``deadline``; raises `QueueFull`."""
        self._put(lane, question.head, question, deadline)

    def _put(self, name: Lane, frame: bytes, question: Question | None, deadline: float) -> None:
        lane = self._lanes[name]
        if len(lane.entries) >= LIMIT_FRAMES or lane.size + len(frame) > LIMIT_BYTES:
            raise QueueFull(f"{self._name} ({name})", LIMIT_FRAMES)
        lane.entries.append((frame, question, deadline))
        lane.size += len(frame)
        self._filled.set()

    def put_urgent(self, kind: str, frame: bytes) -> None:
        """Have one frame of a kind sent next, in place of an earlier one of that kind."""
        self._urgent[kind] = frame
        self._filled.set()

    async def room(self) -> None:
        """Wait until less waits than one message holds: the way of a sender of bulk data."""
        while self.size >= self._limit and not self.closed:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def close(self) -> None:
        """Let go of who waits."""
        self.closed = True
        self._filled.set()
        self._emptied.set()

    async def take(self) -> bytes:
        """Return what to send next as one message, of several frames if so many wait; empty once closed."""
        while True:
            parts, size = list(self._urgent.values()), 0
            self._urgent.clear()
            size = sum(map(len, parts))
            for lane in self._lanes.values():
                while lane.entries:
                    frame, question, deadline = lane.entries[0]
                    # A request grows by its time left when it is sent.
                    if parts and size + len(frame) + 16 > self._limit:
                        break
                    lane.entries.popleft()
                    lane.size -= len(frame)
                    if question is not None:
                        left = deadline - self._clock()
                        if left <= 0:
                            continue
                        frame = question.frame(left)
                        self._sent(question.number)
                    parts.append(frame)
                    size += len(frame)
                else:
                    continue
                break
            if self.size < self._limit:
                self._emptied.set()
            if parts:
                return parts[0] if len(parts) == 1 else b"".join(parts)
            if self.closed:
                return b""
            self._filled = trio.Event()
            await self._filled.wait()
