"""Serves the control endpoint on its sockets, and ends without leaving one behind."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from starlette.applications import Starlette

from actors.model.errors import InvalidInput
from zeitwork.api.bind import open_tcp, open_unix, validate_http_bind
from zeitwork.api.connection import Connections
from zeitwork.api.deps import ApiDeps
from zeitwork.api.spool import discard_partial

#: Seconds that requests get to end when the server stops.
GRACE_S = 5.0
#: Connections open at once.
MOST_CONNECTIONS = 256
_KEEP_ALIVE_S = 30
_HEADER_BYTES = 32 * 1024
#: Seconds between pings on a websocket, and the largest message that is taken on one, in bytes.
_PING_S = 20.0
_MESSAGE_BYTES = 256 * 1024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the endpoint can be reached: ``url`` with the port that was really bound."""

    url: str | None
    socket: Path | None


async def serve(
    app: Starlette,
    *,
    http: str | None,
    socket: Path | None,
    grace: float = GRACE_S,
    task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` (made by `zeitwork.api.app.build_app`) until cancelled.

    ``http`` is HOST:PORT on loopback, ``socket`` the unix socket's path; either may be None. Reports `Listening` once
    both accept connections. On cancellation streams end, requests get ``grace`` seconds, and the socket file is
    removed. Raises `Problem` that names ``--http`` or ``--socket`` when one can't be had.
    """
    if http is None and socket is None:
        raise InvalidInput("there is nowhere to listen", field="http", fix="give --http, --socket or both")
    deps: ApiDeps = app.state.deps
    with ExitStack() as stack:
        listeners, listening = _listen(http, socket, stack)
        discard_partial(deps.paths.spool)
        connections = Connections(ASGIWrapper(app), _configuration(), MOST_CONNECTIONS)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            try:
                log.info("the control endpoint listens", url=listening.url, socket=str(listening.socket))
                task_status.started(listening)
                await trio.serve_listeners(connections.handle, listeners, handler_nursery=nursery)
            finally:
                for listener in listeners:
                    listener.socket.close()
                app.state.closing.set()
                await connections.drain(grace)


def _listen(http: str | None, socket: Path | None, stack: ExitStack) -> tuple[list[trio.SocketListener], Listening]:
    listeners: list[trio.SocketListener] = []
    url = None
    if http is not None:
        host, port = validate_http_bind(http)
        tcp = stack.enter_context(open_tcp(host, port))
        bound = tcp.getsockname()[1]
        url = f"http://[{host}]:{bound}" if ":" in host else f"http://{host}:{bound}"
        listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(tcp)))
    if socket is not None:
        unix, file = open_unix(socket)
        stack.callback(file.remove)
        stack.enter_context(unix)
        listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(unix)))
    return listeners, Listening(url, socket)


def _configuration() -> Config:
    config = Config()
    config.errorlog = None  # requests are logged by us
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = _KEEP_ALIVE_S
    config.h11_max_incomplete_size = _HEADER_BYTES
    config.websocket_ping_interval = _PING_S
    config.websocket_max_message_size = _MESSAGE_BYTES
    return config
