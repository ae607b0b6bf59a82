"""One request as a handler sees it, what it answers, and the entry that ties both to a path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import trio
from starlette.requests import Request
from starlette.types import ASGIApp

from zeitwork.api.decode import Input
from zeitwork.api.deps import ApiDeps


class NoQuery(Input):
    """The query of endpoints that take no parameters."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose parts have been checked.

    ``token`` is the id that an object created by this request gets: with an Idempotency-Key it is the same each time
    the request is repeated. ``closing`` is set when the server is about to stop.
    """

    request: Request
    deps: ApiDeps
    query: Any
    body: Any
    token: UUID
    closing: trio.Event
    identifier: UUID | None = None

    @property
    def id(self) -> UUID:
        """The id in the path."""
        if self.identifier is None:
            raise LookupError("this path has no id")
        return self.identifier


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON answer. ``value`` is encoded by msgspec; None with status 204 is no body at all."""

    value: Any
    status: int = 200


Handler = Callable[[Call], Awaitable[Answer | ASGIApp]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the route table; routing, OpenAPI and the tests read it.

    ``noun`` names what ``{id}`` in the path identifies. ``produces`` and ``consumes`` are media types beside JSON
    with what they carry; a handler with ``consumes`` reads the body itself. ``websocket`` tells what is said on one, by
    direction, where the path is a websocket; its handler answers with an app that accepts it.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: Any = None
    status: int = 200
    query: type[Input] = NoQuery
    body: type[Input] | None = None
    body_optional: bool = False
    noun: str = ""
    errors: tuple[int, ...] = ()
    produces: Mapping[str, str] = field(default_factory=dict)
    consumes: Mapping[str, str] = field(default_factory=dict)
    websocket: Mapping[str, str] = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        """Whether the request changes something, so that an Idempotency-Key means something."""
        return self.method not in ("GET", "HEAD")
