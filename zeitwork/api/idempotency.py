"""`Idempotency-Key`: a repeated write gets the first one's answer instead of doing it again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable

import msgspec
import structlog
import trio
from starlette.requests import Request
from starlette.responses import Response

from actors.model.errors import Conflict, InvalidInput, Problem
from zeitwork.api.call import Answer
from zeitwork.api.deps import ApiDeps

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
#: Seconds that handing a key back may take when its request was cancelled.
_ABANDON_S = 2

log = structlog.get_logger()


def key_of(request: Request) -> str | None:
    """Return the request's key, None when it has none. Raises `InvalidInput` when it can't be one."""
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidInput(
            "the key must be 1 to 255 printable ASCII characters", field="Idempotency-Key", fix="send a UUID"
        )
    return key


def fingerprint(request: Request, content: bytes) -> bytes:
    """Return what tells one request from another under the same key; ``content`` is its body or the body's hash."""
    parts = (request.method.encode(), request.url.path.encode(), request.url.query.encode(), content)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()


async def once(
    deps: ApiDeps, request: Request, key: str | None, content: bytes, work: Callable[..., Awaitable[Answer]]
) -> Response:
    """Do ``work(token)`` unless this key was answered already, in which case return that answer.

    Only success is kept: a refused or failed request gives the key back, so that it can be tried again after what
    was wrong is mended. Raises 422 when the key was used for another request, `Conflict`
    while the first one is still being done.
    """
    if key is None:
        return encode(request, await work(deps.new_id()))
    try:
        known = await deps.store.idempotency.begin(key, fingerprint(request, content))
    except Conflict as conflict:
        if conflict.code == "idempotency-key-reused":
            conflict.status = 422  # no state to wait for: this request can never succeed under this key
        raise
    if known.status is not None:
        response = render(request, known.status, known.body or b"")
        response.headers["Idempotency-Replayed"] = "true"
        return response
    try:
        answer = await work(known.token)
    except BaseException:
        # Also when cancelled: otherwise the client could not repeat the request for a minute.
        with trio.move_on_after(_ABANDON_S, shield=True):
            try:
                await deps.store.idempotency.abandon(key)
            except Problem as problem:
                log.warning("an idempotency key was not given back", key=key, error=str(problem))
        raise
    response = encode(request, answer)
    try:
        await deps.store.idempotency.finish(key, response.status_code, bytes(response.body))
    except Problem as problem:
        # The work is done; a repeated request finds the same object by its token.
        log.warning("the answer of an idempotency key was not kept", key=key, error=str(problem))
    return response


def encode(request: Request, answer: Answer) -> Response:
    """Return the response for an answer."""
    body = b"" if answer.value is None else msgspec.json.encode(answer.value)
    return render(request, answer.status, body)


def render(request: Request, status: int, body: bytes) -> Response:
    """Return a JSON response; one that created something says where it is."""
    headers = {}
    if status == 201:
        headers["Location"] = f"{request.url.path}/{msgspec.json.decode(body)['id']}"
    response = Response(body, status_code=status, headers=headers, media_type="application/json" if body else None)
    response.headers["Cache-Control"] = "no-store"
    return response
