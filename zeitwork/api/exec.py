"""Commands in a guest: a websocket at ``/api/v1/instances/{id}/exec``, through the unix socket only.

Whoever reaches the endpoint over TCP is any user of this machine; the socket has an owner and a group. So a handshake
over TCP is refused, as are unknown instances, those that do not run here and guests that can't be talked with: each by
an HTTP answer with a problem in it.

**Client, first**: a text message, `ExecRequest`. **Then**, in any order:

- binary: bytes of standard input;
- text ``{"eof": true}``: no more of it;
- text ``{"resize": [rows, cols]}``, of a terminal;
- text ``{"signal": 2}`` or ``{"signal": "INT"}``: to the command's foreground process group;
- text ``{"credit": n}``: n bytes more of output may be sent, see below.

**Server**: text ``{"started": pid}``, the pid in the guest, or ``{"error": problem}``. Then binary messages whose first
byte is 1 for standard output (or the terminal) and 2 for standard error, and text ``{"credit": n}``. The last message
is ``{"exit": {"status": n}}``, ``{"exit": {"signal": n}}`` or ``{"error": problem}``; then it closes. A client that
leaves before that ends its command: SIGHUP, and SIGKILL two seconds later.

**Credit.** Nothing is buffered without a bound. Of input, `INPUT_CREDIT` bytes are taken at once, and as many more as
the server grants; beyond that it does not read, not even a signal, until the command has. A client that says
``credit`` at first gets so many bytes of output at most, and as many more as it grants, so that it can always read and
answer pings, however long its own reader pauses. One that does not gets output as fast as it reads, and is dropped
when it takes nothing for 30 seconds. The server pings every 20 seconds; a client that says nothing for two minutes is
taken for dead.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

import msgspec
import structlog
import trio
from starlette.types import ASGIApp, Receive, Scope, Send

from actors.model.errors import InvalidInput, Problem, Unavailable
from actors.vm.agent.command import CommandSpec, Errors, Exit, Output
from actors.vm.agent.link import AgentLink
from actors.vm.agent.session import Session
from actors.vm.agent.wire import INITIAL_CREDIT
from zeitwork.api import problems
from zeitwork.api.call import Call
from zeitwork.api.decode import Input, decode_json
from zeitwork.api.guest import reach
from zeitwork.api.instrument import REQUEST_ID
from zeitwork.api.stream import Slots
from zeitwork.api.websocket import CONNECTION, GOING_AWAY, HANDSHAKE, NORMAL, POLICY, UNEXPECTED, Socket

#: Bytes of input that are taken before the command has read any.
INPUT_CREDIT = INITIAL_CREDIT
#: Seconds for the client's first message, and for the guest to start the command.
FIRST_S, START_S = 10.0, 15.0
#: Seconds without a word, the answers to pings included, after which a client is taken for dead.
SILENCE_S = 120.0
#: First bytes of binary messages to the client.
STDOUT, STDERR = b"\x01", b"\x02"
_PIECE = 32 * 1024
_MOST_CREDIT = 1 << 24

_Size = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Credit = Annotated[int, msgspec.Meta(ge=1, le=_MOST_CREDIT)]

log = structlog.get_logger()


class ExecRequest(Input):
    """The first message: what to run. ``env`` is over the app's, ``user`` and ``cwd`` are the app's when null.

    With ``tty`` the command has a terminal of ``rows`` and ``cols``. ``credit`` is how many bytes of output the client
    takes before it grants more; null sends as fast as it reads.
    """

    command: Annotated[list[str], msgspec.Meta(min_length=1, max_length=4096)]
    tty: bool = False
    rows: _Size = 24
    cols: _Size = 80
    env: dict[str, str] = msgspec.field(default_factory=dict)
    user: str | None = None
    cwd: str | None = None
    credit: _Credit | None = None


class Steering(Input):
    """A later text message: one of these."""

    resize: tuple[_Size, _Size] | None = None
    signal: int | str | None = None
    eof: bool | None = None
    credit: _Credit | None = None


async def exec_(call: Call) -> ASGIApp:
    """GET /api/v1/instances/{id}/exec."""
    scope = call.request.scope
    if scope.get("server") is not None:
        raise Problem(
            "exec goes through the unix socket only",
            fix="use the socket of the host (--socket); from elsewhere: ssh -L my.sock:/run/zeitwork/zeitwork.sock",
            code="socket-only",
            status=HTTPStatus.FORBIDDEN,
        )
    if not scope.get(HANDSHAKE):
        needed = Problem(
            "exec is a websocket",
            fix="use zeitwork exec, or a websocket client",
            code="upgrade-required",
            status=HTTPStatus.UPGRADE_REQUIRED,
        )
        return problems.respond(needed, scope[REQUEST_ID], {"Upgrade": "websocket", "Connection": "Upgrade"})
    placement_id, link = await reach(call)
    return _Exec(call, placement_id, link)


class _Gone(Exception):
    """The client left."""


class _Exec:
    """One accepted websocket and the command behind it."""

    def __init__(self, call: Call, placement_id: UUID, link: AgentLink) -> None:
        self._call = call
        self._link = link
        self._slots: Slots = call.request.app.state.exec_slots
        self._log = log.bind(instance=str(call.id), placement=str(placement_id))
        self._input = _Input()
        self._output: _Allowance | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it to its end."""
        key = self._slots.take()
        try:
            connection = scope.get("state", {}).get(CONNECTION)
            if connection is not None:
                connection.expect_signs(SILENCE_S)
            socket = Socket(receive, send)
            await socket.accept()
            began = trio.current_time()
            end = await self._until_end(socket)
            seconds = round(trio.current_time() - began, 3)
            self._log.info("a command in a guest is over", end=_told(end), seconds=seconds)
            if isinstance(end, Exit):
                ended = {"status": end.status} if end.signal is None else {"signal": end.signal}
                await socket.say({"exit": ended})
                await socket.close()
            elif isinstance(end, Problem):
                await socket.say({"error": problems.document(end, scope[REQUEST_ID])})
                await socket.close(_close_code(end))
        finally:
            self._slots.give_back(key)

    async def _until_end(self, socket: Socket) -> Exit | Problem | _Gone:
        """Run everything; return what ended it."""
        ends: list[Exit | Problem | _Gone] = []

        async def stop_with_server() -> None:
            await self._call.closing.wait()
            raise Unavailable("this host's process is about to stop", code="stopping", fix="try again when it is back")

        async with trio.open_nursery() as nursery:

            async def guarded(work: Callable[[], Awaitable[Exit | None]]) -> None:
                try:
                    end: Exit | Problem | _Gone | None = await work()
                except (Problem, _Gone) as problem:
                    end = problem
                if end is not None:
                    ends.append(end)
                    nursery.cancel_scope.cancel()

            async def run() -> Exit | None:
                spec = await self._first(socket)
                async with self._link.open(spec, START_S) as session:
                    await socket.say({"started": session.pid})
                    async with trio.open_nursery() as inner:
                        inner.start_soon(guarded, lambda: self._listen(socket, session))
                        inner.start_soon(guarded, lambda: self._feed(socket, session))
                        await guarded(lambda: self._pump(socket, session))
                return None

            nursery.start_soon(guarded, stop_with_server)
            await guarded(run)
        return ends[0]

    async def _first(self, socket: Socket) -> CommandSpec:
        try:
            with trio.fail_after(FIRST_S):
                message = await socket.receive()
        except trio.TooSlowError:
            raise Problem(
                f"the first message did not come within {FIRST_S:g} s", code="request-timeout", status=408
            ) from None
        if message is None:
            raise _Gone
        if isinstance(message, bytes):
            raise InvalidInput("the first message must be text", field="command", fix='send {"command": [...]}')
        request = decode_json(message.encode(), ExecRequest)
        if request.credit is not None:
            self._output = _Allowance(request.credit)
        self._log = self._log.bind(program=request.command[0][:200], tty=request.tty, user=request.user)
        self._log.info("a command is started in a guest")
        return CommandSpec(
            tuple(request.command),
            request.env,
            request.cwd,
            request.user,
            (request.rows, request.cols) if request.tty else None,
        )

    async def _listen(self, socket: Socket, session: Session) -> None:
        """Take what the client says, for as long as it does. Input is taken up to its bound."""
        while (message := await socket.receive()) is not None:
            if isinstance(message, bytes):
                await self._input.put(message)
                continue
            said = decode_json(message.encode(), Steering)
            words = [name for name in said.__struct_fields__ if getattr(said, name) is not None]
            if len(words) != 1:
                raise InvalidInput("a message says one thing", fix="resize, signal, eof or credit, one in each message")
            if said.resize is not None:
                await session.resize(*said.resize)
            elif said.signal is not None:
                await session.signal(_signal(said.signal))
            elif said.eof:
                await self._input.put(None)
            elif said.credit is not None and self._output is not None:
                self._output.add(said.credit)
        raise _Gone

    async def _feed(self, socket: Socket, session: Session) -> None:
        """Give the client's input to the command, and grant the client as much more."""
        while (data := await self._input.take()) is not None:
            await session.send(data)
            await socket.say({"credit": len(data)})
        await session.send_eof()

    async def _pump(self, socket: Socket, session: Session) -> Exit:
        """Give the command's output to the client until it ends."""
        while not isinstance(what := await session.receive(), Exit):
            await self._put_out(socket, what)
        return what

    async def _put_out(self, socket: Socket, what: Output | Errors) -> None:
        prefix = STDOUT if isinstance(what, Output) else STDERR
        at = 0
        while at < len(what.data):
            piece = what.data[at : at + _PIECE]
            if self._output is not None:
                piece = piece[: await self._output.take(len(piece))]
            await socket.send(prefix + piece)
            at += len(piece)


class _Allowance:
    """How many bytes the client still takes."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._added = trio.Event()

    def add(self, count: int) -> None:
        """Take note of a grant; the sum has a bound, since no client can mean more."""
        self._left = min(self._left + count, _MOST_CREDIT)
        self._added.set()

    async def take(self, count: int) -> int:
        """Return how many bytes, from 1 to ``count``, may be sent now."""
        while not self._left:
            self._added = trio.Event()
            await self._added.wait()
        allowed = min(count, self._left)
        self._left -= allowed
        return allowed


class _Input:
    """Standard input on its way to the command."""

    def __init__(self) -> None:
        self._pieces: deque[bytes | None] = deque()
        self._size = 0
        self._over = False
        self._changed = trio.Event()

    async def put(self, data: bytes | None) -> None:
        """Add input, None for its end, once there is room. Raises `InvalidInput` after the end."""
        if self._over:
            raise InvalidInput("input came after its end", field="eof", fix="send eof last")
        if data is None:
            self._over = True
        while self._size >= INPUT_CREDIT:
            await self._changed.wait()
        if data != b"":
            self._pieces.append(data)
            self._size += len(data or b"")
            self._wake()

    async def take(self) -> bytes | None:
        """Return the next of it."""
        while not self._pieces:
            await self._changed.wait()
        data = self._pieces.popleft()
        self._size -= len(data or b"")
        self._wake()
        return data

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _signal(given: int | str) -> int:
    if isinstance(given, int):
        return given
    name = given.upper()
    found = getattr(signal.Signals, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise InvalidInput(f"there is no signal {given!r}", field="signal", fix="for example INT, TERM or 15")
    return int(found)


def _told(end: Exit | Problem | _Gone) -> str:
    if isinstance(end, Exit):
        return f"exit status {end.status}" if end.signal is None else f"signal {end.signal}"
    return end.detail if isinstance(end, Problem) else "the client left"


def _close_code(problem: Problem) -> int:
    if problem.code == "stopping":
        return GOING_AWAY
    if problem.code in ("command-refused", "command-not-found"):
        return NORMAL
    return POLICY if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR else UNEXPECTED


#: What the OpenAPI document says beside the row: it has no words for websockets.
MESSAGES = {
    "transport": "unix socket only",
    "client_first": 'text {"command": [...], "tty", "rows", "cols", "env", "user", "cwd", "credit"}',
    "client_text": '{"resize": [rows, cols]} | {"signal": number or name} | {"eof": true} | {"credit": n}',
    "client_binary": "standard input",
    "server_text": '{"started": pid} | {"credit": n}; last {"exit": {"status" or "signal": n}} or {"error": problem}',
    "server_binary": "first byte 1: standard output or terminal, 2: standard error",
}
