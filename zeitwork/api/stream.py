"""Answers without an end: they are cut when the client goes, when the server stops, and when there are too many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import trio
from starlette.datastructures import MutableHeaders
from starlette.types import Receive, Scope, Send

from actors.model.errors import Unavailable

Write = Callable[[bytes], Awaitable[None]]


class Slots:
    """A bound on how many streams are open at once; ``noun`` is what they are called in a refusal."""

    def __init__(self, limit: int, noun: str = "streams") -> None:
        self._limiter = trio.CapacityLimiter(limit)
        self._noun = noun

    @property
    def taken(self) -> int:
        """How many streams are open."""
        return self._limiter.borrowed_tokens

    def take(self) -> object:
        """Take a slot and return the key that gives it back. Raises `Unavailable` when all are taken."""
        key = object()
        try:
            self._limiter.acquire_on_behalf_of_nowait(key)
        except trio.WouldBlock:
            raise Unavailable(
                f"{self._limiter.total_tokens} {self._noun} are open already",
                fix="close one, or ask without following" if self._noun == "streams" else "end one of them first",
                code="too-many-streams",
            ) from None
        return key

    def give_back(self, key: object) -> None:
        """Give a slot back."""
        self._limiter.release_on_behalf_of(key)


class Stream:
    """An ASGI answer that ``produce(write)`` writes until it returns, the client leaves or ``closing`` is set."""

    def __init__(
        self,
        produce: Callable[[Write], Awaitable[None]],
        *,
        media_type: str,
        closing: trio.Event,
        slots: Slots,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._produce = produce
        self._closing = closing
        self._slots = slots
        self._key = slots.take()
        self._headers = MutableHeaders({"content-type": media_type, "cache-control": "no-store"})
        self._headers.update(dict(headers or {}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        gone = False

        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        async def leave_with_client(cancel: Callable[[], None]) -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            cancel()

        async def leave_with_server(cancel: Callable[[], None]) -> None:
            await self._closing.wait()
            cancel()

        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers.raw})
            if scope["method"] != "HEAD":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(leave_with_client, nursery.cancel_scope.cancel)
                    nursery.start_soon(leave_with_server, nursery.cancel_scope.cancel)
                    await self._produce(write)
                    nursery.cancel_scope.cancel()
            if not gone:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._slots.give_back(self._key)
