"""The client's side of exec: a websocket over the host's unix socket, standard streams at this end.

It always reads what the host sends, however slow our own reader is, so that pings are answered: the host sends no
more output than it was granted.
"""

from __future__ import annotations

import json
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from actors.model.errors import Failed, Problem, Unavailable
from actors.vm.agent.wire import INITIAL_CREDIT
from zeitwork.cli import terminal

#: Bytes of output that may be under way to us.
CREDIT = 1 << 20
#: Seconds for the host to accept, and for the end to be said by both sides.
_HANDSHAKE_S, _CLOSE_S = 30.0, 2.0
#: Bytes of input sent at once, and of one message that is taken.
_PIECE, _MESSAGE = 32 * 1024, 1 << 20
STDOUT, STDERR = 1, 2

Write = Callable[[int, bytes], Awaitable[None]]


class Left(Exception):
    """The signal ``number`` ended this side before the command had ended."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


async def run(socket: Path, path: str, request: dict[str, Any], *, stdin: int | None, write: Write) -> int:
    """Run the command in ``request`` and return its exit status, or 128 and the number of the signal that ended it.

    ``stdin`` is read for it when not None. If ``request`` has ``tty``, the terminal at ``stdin`` is raw meanwhile.
    ``write(stream, data)`` puts out what comes, ``stream`` `STDOUT` or `STDERR`. Raises `Problem` with what the host
    says, `Left` when this process is told to end, and what ``write`` raises.
    """
    try:
        stream = await trio.open_unix_socket(str(socket))
    except OSError as error:
        raise Unavailable(
            f"no host answers at {socket}: {error.strerror or error}", fix="start one with: zeitwork run"
        ) from None
    status = 0
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(_HANDSHAKE_S):
                connection = await wrap_client_stream(
                    nursery, stream, "localhost", path, max_message_size=_MESSAGE, receive_buffer_size=65536
                )
            try:
                status = await _Attachment(connection, request, stdin, write).run()
            finally:
                with trio.move_on_after(_CLOSE_S, shield=True):
                    await connection.aclose()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _first(group) from None
    finally:
        await trio.aclose_forcefully(stream)
    return status


class _Attachment:
    """One accepted websocket."""

    def __init__(
        self, connection: WebSocketConnection, request: dict[str, Any], stdin: int | None, write: Write
    ) -> None:
        self._connection = connection
        self._request = request
        self._stdin = stdin
        self._write = write
        self._terminal = stdin if request.get("tty") else None
        self._credit = INITIAL_CREDIT
        self._output: deque[tuple[int, bytes]] = deque()
        self._started = False
        self._ended = False
        self._changed = trio.Event()

    async def run(self) -> int:
        """Return the command's status once all that it wrote is put out."""
        heeded = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH)
        # The stack is left last: whatever happens, the terminal is as it was before anybody says anything about it.
        with ExitStack() as stack, trio.open_signal_receiver(*heeded) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed, signals)
                await self._say(self._request | {"credit": CREDIT})
                async with trio.open_nursery() as output:
                    output.start_soon(self._put_out)
                    status = await self._receive(nursery, stack)
                nursery.cancel_scope.cancel()
        return status

    async def _receive(self, nursery: trio.Nursery, stack: ExitStack) -> int:
        while True:
            message = await self._connection.get_message()
            if isinstance(message, bytes):
                self._output.append((message[0], message[1:]))
            else:
                said = json.loads(message)
                if "error" in said:
                    raise _problem(said["error"])
                if "exit" in said:
                    self._ended = True
                    self._wake()
                    ended = said["exit"]
                    return int(128 + ended["signal"] if ended.get("signal") else ended["status"])
                if "started" in said:
                    self._started = True
                    stack.enter_context(terminal.raw(self._terminal))
                    nursery.start_soon(self._feed)
                self._credit += said.get("credit", 0)
            self._wake()

    async def _put_out(self) -> None:
        """Write what came, and grant the host as much more."""
        taken = 0
        while True:
            while not self._output:
                if self._ended:
                    return
                await self._changed.wait()
            stream, data = self._output.popleft()
            await self._write(stream, data)
            taken += len(data)
            if taken >= CREDIT // 4 and not self._ended:
                await self._say({"credit": taken})
                taken = 0

    async def _feed(self) -> None:
        """Send our standard input and its end. A terminal that we do not read has no end."""
        if self._stdin is None:
            if not self._request.get("tty"):
                await self._say({"eof": True})
            return
        try:
            async for data in _read(self._stdin):
                at = 0
                while at < len(data):
                    while not self._credit:
                        await self._changed.wait()
                    piece = data[at : at + self._credit]
                    self._credit -= len(piece)
                    await self._connection.send_message(piece)
                    at += len(piece)
            await self._say({"eof": True})
        except ConnectionClosed:
            pass  # the receiver says what happened

    async def _heed(self, signals: AsyncIterator[int]) -> None:
        interrupted = False
        async for number in signals:
            if number == signal.SIGWINCH:
                if self._started and self._terminal is not None:
                    await self._say({"resize": terminal.size(self._terminal)})
            elif number == signal.SIGINT and self._started and not interrupted:
                # The command may have its own way to end; whoever insists leaves it to the hang-up.
                interrupted = True
                await self._say({"signal": "INT"})
            else:
                raise Left(number)

    async def _say(self, value: Any) -> None:
        with suppress(ConnectionClosed):  # the receiver says what happened
            await self._connection.send_message(json.dumps(value))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def _read(fd: int) -> AsyncIterator[bytes]:
    """Yield what can be read from a file descriptor, to its end."""
    while True:
        try:
            await trio.lowlevel.wait_readable(fd)
            data = os.read(fd, _PIECE)
        except PermissionError:
            # A plain file can't be waited for, and need not be.
            data = await trio.to_thread.run_sync(os.read, fd, _PIECE, abandon_on_cancel=True)
        except BlockingIOError:
            continue
        except OSError:
            return  # its terminal is gone, or it was never open
        if not data:
            return
        yield data


def _problem(body: dict[str, Any]) -> Problem:
    return Failed(
        str(body.get("detail") or "the host refused"),
        field=body.get("field"),
        fix=body.get("fix"),
        code=body.get("code"),
        status=body.get("status"),
    )


def _first(group: BaseException) -> BaseException:
    """Return what matters most of everything that went wrong at once, in words."""
    leaves = list(_leaves(group))
    for kind in (KeyboardInterrupt, Left, ConnectionRejected, Problem, OSError, ConnectionClosed, trio.TooSlowError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return _in_words(leaf)
    return leaves[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


def _in_words(error: BaseException) -> BaseException:
    if isinstance(error, ConnectionRejected):
        try:
            return _problem(json.loads(error.body or b""))
        except ValueError:
            return Failed(f"the host refused with status {error.status_code}", fix="see its log")
    if isinstance(error, ConnectionClosed):
        return Unavailable("the host broke off before the command had ended", fix="see the host's log; try again")
    if isinstance(error, trio.TooSlowError):
        return Unavailable("the host did not answer in time", fix="see its log")
    return error
