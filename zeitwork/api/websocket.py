"""Websockets on the control endpoint: until it is accepted, a handshake is a GET like any other.

So the guard, routing, problem documents, request ids, the log and metrics hold for it as they do for every request. A
refusal is an HTTP answer with a problem in it, which every websocket client can show.
"""

from __future__ import annotations

from typing import Any

import msgspec
import trio
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

#: Keys of an ASGI scope: set on a handshake; in its ``state``, the connection that it came on.
HANDSHAKE = "zeitwork.websocket"
CONNECTION = "zeitwork.connection"
#: Close codes of RFC 6455.
NORMAL, GOING_AWAY, POLICY, UNEXPECTED = 1000, 1001, 1008, 1011
_FAREWELL_S = 2.0


class Handshake:
    """A websocket's ASGI messages in the words of HTTP until it is accepted, untouched from then on."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope: Scope = {**scope, "type": "http", "method": "GET", "scheme": "http", HANDSHAKE: True}
        self._receive = receive
        self._send = send
        self._accepted = False

    async def receive(self) -> Message:
        """Receive the request, which has no body, or that the client left."""
        message = await self._receive()
        if not self._accepted:
            if message["type"] == "websocket.connect":
                return {"type": "http.request", "body": b"", "more_body": False}
            if message["type"] == "websocket.disconnect":
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """Send an answer, or accept."""
        if message["type"] == "websocket.accept":
            self._accepted = True
        elif message["type"].startswith("http.response."):
            if self._accepted:
                raise RuntimeError("a websocket that was accepted can't be answered any more")
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                headers["Connection"] = "close"
                message = {**message, "headers": headers.raw}
            message = {**message, "type": f"websocket.{message['type']}"}
        await self._send(message)


class Socket:
    """A websocket that is being accepted or was."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def accept(self) -> None:
        """Accept it."""
        await self._receive()
        await self._send({"type": "websocket.accept"})

    async def receive(self) -> str | bytes | None:
        """Return the client's next message, None once it has left."""
        message = await self._receive()
        if message["type"] != "websocket.receive":
            return None
        text: str | None = message.get("text")
        return bytes(message["bytes"]) if text is None else text

    async def say(self, value: Any) -> None:
        """Send a value as a JSON text message."""
        await self._send({"type": "websocket.send", "text": msgspec.json.encode(value).decode()})

    async def send(self, data: bytes) -> None:
        """Send a binary message."""
        await self._send({"type": "websocket.send", "bytes": data})

    async def close(self, code: int = NORMAL) -> None:
        """Close it, and take what the client still says until it has closed as well, or for `_FAREWELL_S`.

        A client that is sending would otherwise meet a broken connection before it read the last message.
        """
        await self._send({"type": "websocket.close", "code": code})
        with trio.move_on_after(_FAREWELL_S):
            while await self.receive() is not None:
                pass
