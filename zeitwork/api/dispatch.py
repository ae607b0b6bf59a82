"""From the route table to Starlette routes: checks everything about a request, then calls its handler."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from uuid import UUID

import trio
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from actors.model.errors import InvalidInput, Problem
from zeitwork.api.call import Answer, Call, Endpoint
from zeitwork.api.decode import decode_json, decode_query, path_id, read_body, require_json
from zeitwork.api.deps import ApiDeps
from zeitwork.api.idempotency import encode, key_of, once
from zeitwork.api.instrument import ROUTE
from zeitwork.api.websocket import HANDSHAKE


def routes(endpoints: Iterable[Endpoint], deps: ApiDeps, closing: trio.Event) -> list[Route]:
    """Return one route for each path, so that a 405 names every method the path takes."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [
        Route(path, _Dispatcher(methods, deps, closing), methods=list(methods)) for path, methods in by_path.items()
    ]


class _Dispatcher:
    """One path."""

    def __init__(self, methods: dict[str, Endpoint], deps: ApiDeps, closing: trio.Event) -> None:
        self._methods = methods
        self._deps = deps
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        endpoint = self._methods["GET" if request.method == "HEAD" else request.method]
        scope[ROUTE] = endpoint.path
        if HANDSHAKE in scope and not endpoint.websocket:
            raise Problem(
                f"there is no websocket at {endpoint.path}",
                fix="ask without Upgrade: websocket",
                code="not-a-websocket",
                status=HTTPStatus.FORBIDDEN,
            )
        answer = await self._answer(endpoint, request)
        await answer(scope, receive, send)

    async def _answer(self, endpoint: Endpoint, request: Request) -> ASGIApp:
        identifier = path_id(request.path_params, endpoint.noun) if endpoint.noun else None
        query = decode_query(request.query_params, endpoint.query)
        content, body = b"", None
        if not endpoint.consumes:
            content, body = await _body(endpoint, request)

        def call(token: UUID) -> Call:
            return Call(request, self._deps, query, body, token, self._closing, identifier)

        async def work(token: UUID) -> Answer:
            answer = await endpoint.handler(call(token))
            if not isinstance(answer, Answer):
                raise TypeError(f"{endpoint.method} {endpoint.path} must answer with a value to be repeatable")
            return answer

        if endpoint.writes and not endpoint.consumes:
            return await once(self._deps, request, key_of(request), content, work)
        answer = await endpoint.handler(call(self._deps.new_id()))
        return encode(request, answer) if isinstance(answer, Answer) else answer


async def _body(endpoint: Endpoint, request: Request) -> tuple[bytes, object]:
    if endpoint.body is None and not endpoint.writes:
        return b"", None
    content = await read_body(request)
    if endpoint.body is None:
        if content:
            raise InvalidInput(f"{endpoint.method} takes no body here", fix="leave the body out")
        return b"", None
    if not content and endpoint.body_optional:
        return b"", endpoint.body()
    require_json(request)
    return content, decode_json(content, endpoint.body)
