"""Errors as `application/problem+json` (RFC 9457): one shape for every refusal, naming the field and the fix."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from starlette.responses import Response

from actors.model.errors import Problem

#: Seconds a client should wait before it tries again what is unavailable now.
RETRY_AFTER_S = 2

MEDIA_TYPE = "application/problem+json"


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What every error answers with. ``code`` is for programs, ``detail`` and ``fix`` for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    fix: str | None = None
    instance: str


def document(problem: Problem, request_id: str) -> ProblemDocument:
    """Return the document for ``problem``; ``instance`` names the one request it belongs to."""
    return ProblemDocument(
        type=f"urn:zeitwork:problem:{problem.code}",
        title=problem.code.replace("-", " ").capitalize(),
        status=problem.status,
        detail=problem.detail,
        code=problem.code,
        field=problem.field,
        fix=problem.fix,
        instance=f"urn:zeitwork:request:{request_id}",
    )


def respond(problem: Problem, request_id: str, headers: dict[str, str] | None = None) -> Response:
    """Return the response for ``problem``. Unavailable ones say when to come back."""
    headers = dict(headers or {})
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    body = msgspec.json.encode(document(problem, request_id))
    return Response(body, status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)


def from_status(status: int, path: str, method: str) -> Problem:
    """Return the problem for a refusal that routing itself makes, such as an unknown path."""
    if status == HTTPStatus.NOT_FOUND:
        return Problem(
            f"there is nothing at {path}", fix="see /openapi.json for the paths", code="not-found", status=status
        )
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return Problem(
            f"{path} does not take {method}",
            fix="the Allow header names the methods it takes",
            code="method-not-allowed",
            status=status,
        )
    phrase = HTTPStatus(status).phrase
    return Problem(phrase.lower(), code=phrase.lower().replace(" ", "-"), status=status)


def internal() -> Problem:
    """Return what a caller learns of an unexpected failure: that it happened, and under which id it is in the log."""
    return Problem(
        "an unexpected error happened while answering",
        fix="the log has the cause under this request's id",
        code="internal-error",
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
    )
