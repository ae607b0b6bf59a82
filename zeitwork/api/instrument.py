"""Around every request: an id, the guard, one line in the log, its metrics, and an answer even to the unexpected."""

from __future__ import annotations

import time
from http import HTTPStatus

import structlog
import trio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zeitwork.api import guard
from zeitwork.api.deps import ApiDeps
from zeitwork.api.problems import internal, respond
from zeitwork.api.websocket import Handshake
from zeitwork.metrics.http import HttpMetrics

#: Keys under which a request's id and route template are found in its ASGI scope.
REQUEST_ID = "zeitwork.request_id"
ROUTE = "zeitwork.route"

#: What is still read of a body that nobody wanted, so that the client gets to read the refusal: seconds and bytes.
_DRAIN_S = 2
_DRAIN_BYTES = 8 << 20
#: Reading changes nothing, and whoever waits reads every second: not worth a line each unless something is wrong.
_QUIET = ("GET", "HEAD")

log = structlog.get_logger()


class Instrument:
    """The outermost ASGI layer."""

    def __init__(self, app: ASGIApp, deps: ApiDeps, metrics: HttpMetrics) -> None:
        self._app = app
        self._deps = deps
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "websocket":
            handshake = Handshake(scope, receive, send)
            scope, receive, send = handshake.scope, handshake.receive, handshake.send
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, str(self._deps.new_id()))
        try:
            await self._answer(exchange)
        finally:
            self._record(exchange, time.perf_counter() - exchange.began)

    async def _answer(self, exchange: _Exchange) -> None:
        scope = exchange.scope
        try:
            refused = guard.check(Headers(scope=scope), unix=scope.get("server") is None)
            app = respond(refused, exchange.id) if refused else self._app
            await app(scope, exchange.receive, exchange.send)
        except Exception:
            log.exception(
                "a request failed unexpectedly", request_id=exchange.id, method=scope["method"], path=exchange.path
            )
            if exchange.status is None:
                await respond(internal(), exchange.id)(scope, exchange.receive, exchange.send)

    def _record(self, exchange: _Exchange, seconds: float) -> None:
        scope = exchange.scope
        route = scope.get(ROUTE, "unmatched")
        # Without a status the client left, or the server stopped, before there was an answer: nginx's 499.
        status = exchange.status or 499
        # An accepted websocket was answered when it was accepted; how long people talk says nothing of this endpoint.
        answered = exchange.accepted - exchange.began if exchange.accepted is not None else seconds
        self._metrics.record(route, scope["method"], status, answered)
        quiet = scope["method"] in _QUIET and status < HTTPStatus.BAD_REQUEST
        level = "warning" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "debug" if quiet else "info"
        getattr(log, level)(
            "request",
            request_id=exchange.id,
            method=scope["method"],
            path=exchange.path,
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
        )


class _Exchange:
    """One request and its answer: what has been read and what has been sent."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, identifier: str) -> None:
        self.scope = scope
        self.id = identifier
        self.status: int | None = None
        self.began = time.perf_counter()
        #: When it was accepted, if it is a websocket that was.
        self.accepted: float | None = None
        self._receive = receive
        self._send = send
        #: As it was sent, percent signs and all: decoded, it could put line ends into the log.
        self.path = scope["raw_path"].decode("ascii", "backslashreplace")
        self._body_left = True
        scope[REQUEST_ID] = identifier

    async def receive(self) -> Message:
        """Receive from the client, noting whether its body is over."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_left = False
        return message

    async def send(self, message: Message) -> None:
        """Send to the client; the last piece waits until what is left of the body was drained."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message["headers"])
            headers["X-Request-Id"] = self.id
            headers["X-Content-Type-Options"] = "nosniff"
            if self._body_left and self._has_body():
                headers["Connection"] = "close"
            message = {**message, "headers": headers.raw}
        elif message["type"] == "websocket.accept":
            self.status = int(HTTPStatus.SWITCHING_PROTOCOLS)
            self.accepted = time.perf_counter()
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", self.id.encode())]}
        elif message["type"].startswith("websocket."):
            pass
        elif not message.get("more_body", False) and self._body_left and self._has_body():
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _has_body(self) -> bool:
        headers = {name.lower(): value for name, value in self.scope["headers"]}
        return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

    async def _drain(self) -> None:
        size = 0
        with trio.move_on_after(_DRAIN_S):
            while self._body_left and size < _DRAIN_BYTES:
                size += len((await self.receive()).get("body", b""))
