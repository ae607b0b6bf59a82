"""One command that runs in a guest, as its host talks with it."""

from __future__ import annotations

from collections import deque

import trio

from actors.model.errors import Problem
from actors.vm.agent.command import Errors, Exit, Output, check_signal, check_terminal
from actors.vm.agent.conversation import Conversation
from actors.vm.agent.outbox import Outbox
from actors.vm.agent.wire import INITIAL_CREDIT, MAX_PAYLOAD

#: Bytes taken by the reader after which the guest is granted as many more.
_GRANT = INITIAL_CREDIT // 4
#: Pieces kept apart in the order they came. A guest that sends byte by byte, now output and now errors, may not make
#: us keep an object for each of them: beyond this, what can't follow its like in order is put to the last of its kind.
_PIECES = 256


class Session:
    """A running command. One task may send and another receive at the same time."""

    def __init__(self, number: int, conversation: Conversation, outbox: Outbox) -> None:
        self.number = number
        #: The command's process in the guest.
        self.pid = 0
        self._conversation = conversation
        self._outbox = outbox
        self._changed = trio.Event()
        self._pieces: deque[tuple[type[Output] | type[Errors], bytearray]] = deque()
        self._exit: Exit | None = None
        self._started = False
        self._failed: Problem | None = None
        self._taken = 0

    @property
    def is_started(self) -> bool:
        """Whether the command ran."""
        return self._started

    async def send(self, data: bytes) -> None:
        """Send standard input, waiting while the command does not read. What comes after its end is dropped.

        Raises `Unavailable` when the connection breaks.
        """
        rest = memoryview(data)
        while rest and await self._ready():
            allowed = min(self._conversation.allowance(self.number), MAX_PAYLOAD)
            if allowed:
                self._outbox.put(self._conversation.data(self.number, bytes(rest[:allowed])))
                rest = rest[allowed:]
            else:
                await self._changed.wait()

    async def send_eof(self) -> None:
        """Tell the command that its standard input is over."""
        if await self._ready():
            self._outbox.put(self._conversation.eof(self.number))

    async def resize(self, rows: int, cols: int) -> None:
        """Give its terminal another size. Raises `InvalidInput` for sizes that none can have."""
        check_terminal(rows, cols)
        if await self._ready():
            self._outbox.put(self._conversation.resize(self.number, rows, cols))

    async def signal(self, number: int) -> None:
        """Send a signal to its foreground process group. Raises `InvalidInput` for a number that is none."""
        check_signal(number)
        if await self._ready():
            self._outbox.put(self._conversation.signal(self.number, number))

    async def receive(self) -> Output | Errors | Exit:
        """Return what the command wrote next, and at last how it ended.

        What is not received is not granted to the guest again: a command that floods waits. Raises `Unavailable` when
        the connection breaks, after everything that had come.
        """
        while not self._pieces:
            if self._exit is not None:
                return self._exit
            if self._failed is not None:
                raise self._failed.with_traceback(None)
            await self._changed.wait()
        kind, data = self._pieces.popleft()
        self._taken += len(data)
        if self._taken >= _GRANT and self._exit is None and self._failed is None:
            self._outbox.put(self._conversation.grant(self.number, self._taken))
            self._taken = 0
        return kind(bytes(data))

    # From here on: what the connection says.

    def started(self, pid: int) -> None:
        """The command runs."""
        self.pid = pid
        self._started = True
        self._wake()

    async def wait_started(self) -> None:
        """Return once the command runs. Raises what kept it from it."""
        while not self._started:
            if self._failed is not None:
                raise self._failed.with_traceback(None)
            await self._changed.wait()

    def granted(self) -> None:
        """More may be sent."""
        self._wake()

    def said(self, what: Output | Errors | Exit) -> None:
        """Something came."""
        if isinstance(what, Exit):
            self._exit = what
            self._started = True
        else:
            self._keep(type(what), what.data)
        self._wake()

    def fail(self, problem: Problem) -> None:
        """Nothing more will come."""
        if self._exit is None:
            self._failed = problem
        self._wake()

    def _keep(self, kind: type[Output] | type[Errors], data: bytes) -> None:
        if self._pieces and self._pieces[-1][0] is kind:
            self._pieces[-1][1].extend(data)
        elif len(self._pieces) >= _PIECES:
            self._pieces[-2][1].extend(data)  # kinds alternate
        else:
            self._pieces.append((kind, bytearray(data)))

    async def _ready(self) -> bool:
        """Wait for room; return whether anybody takes input. Raises when that is not so because of the connection."""
        await self._outbox.room()
        if self._failed is not None:
            raise self._failed.with_traceback(None)
        return self._exit is None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
