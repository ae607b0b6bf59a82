"""A bounded queue of messages with one reader, and a lane for what the runtime itself delivers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import outcome
import trio

from runtime.message import Message
from runtime.reply import Reply

#: When it was queued (monotonic seconds), what, and the slot of who waits for an answer.
Entry: TypeAlias = tuple[float, Message, Reply | None]


class Mailbox:
    """Knows nothing of actors. ``queue`` is bounded by ``limit``.

    The system lane has no limit of its own because each entry in it was paid for before: one for each effect, timer
    and monitor that the reader itself asked for, and those are bounded (effects) or hold at most one entry each.
    """

    __slots__ = ("_clock", "_reader", "closed", "lane", "limit", "queue", "writers")

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit = limit
        self.queue: deque[Entry] = deque()
        self.lane: deque[Entry] | None = None
        self.closed = False
        self._clock = clock
        self._reader: trio.lowlevel.Task | None = None
        #: Senders that wait for room, in order. Made when first needed: most mailboxes never fill.
        self.writers: dict[trio.lowlevel.Task, tuple[Message, Reply | None]] | None = None

    def put(self, message: Message, slot: Reply | None) -> bool:
        """Queue a message; returns False when there is no room. The caller has checked ``closed``."""
        queue = self.queue
        if len(queue) >= self.limit:
            return False
        queue.append((self._clock(), message, slot))
        reader = self._reader
        if reader is not None:
            self._reader = None
            trio.lowlevel.reschedule(reader)
        return True

    def put_first(self, message: Message) -> None:
        """Queue a message of the runtime in the system lane, ahead of all others."""
        if self.lane is None:
            self.lane = deque()
        self.lane.append((self._clock(), message, None))
        self.wake()

    def put_first_once(self, message: Message) -> None:
        """Like ``put_first``, unless this very message is still in the lane."""
        if self.lane is None or all(entry[1] is not message for entry in self.lane):
            self.put_first(message)

    async def wait_room(self, message: Message) -> bool:
        """Wait until ``message`` was queued; returns False when the mailbox closed instead. Cancelling withdraws it."""
        if self.writers is None:
            self.writers = {}
        task = trio.lowlevel.current_task()
        self.writers[task] = (message, None)

        def withdraw(_: object) -> trio.lowlevel.Abort:
            if self.writers is not None:
                del self.writers[task]
            return trio.lowlevel.Abort.SUCCEEDED

        return bool(await trio.lowlevel.wait_task_rescheduled(withdraw))

    def refill(self) -> None:
        """Let waiting senders in, in order, as far as there is room."""
        while self.writers and len(self.queue) < self.limit:
            task = next(iter(self.writers))
            message, slot = self.writers.pop(task)
            self.queue.append((self._clock(), message, slot))
            trio.lowlevel.reschedule(task, outcome.Value(True))

    async def wait(self) -> None:
        """Sleep until something is queued or ``wake`` is called."""
        self._reader = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        """Wake the reader if it sleeps."""
        reader = self._reader
        if reader is not None:
            self._reader = None
            trio.lowlevel.reschedule(reader)

    def close(self) -> list[Entry]:
        """Accept nothing more; turn waiting senders away and return what was queued, oldest first."""
        self.closed = True
        rest = [*(self.lane or ()), *self.queue]
        self.queue.clear()
        self.lane = None
        writers, self.writers = self.writers, None
        for task in writers or ():
            trio.lowlevel.reschedule(task, outcome.Value(False))
        return rest
