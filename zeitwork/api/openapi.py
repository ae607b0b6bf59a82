"""The OpenAPI 3.1 document, made from the route table and the types that requests are checked with."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from zeitwork.api.call import Call, Endpoint
from zeitwork.api.problems import MEDIA_TYPE, ProblemDocument

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
#: What any request may be answered with, beside what its row says.
_ALWAYS = (400, 403, 421, 500)
_KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "repeating the request with the same key (within 24 h) repeats the answer, not the work",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


async def serve(call: Call) -> Response:
    """GET /openapi.json."""
    return Response(_encoded(call.deps.version), media_type=_JSON)


@lru_cache(maxsize=1)
def _encoded(version: str) -> bytes:
    from zeitwork.api.table import ENDPOINTS

    return msgspec.json.encode(document(ENDPOINTS, version))


def document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """Return the document for ``endpoints``."""
    rows = tuple(endpoints)
    kinds: list[Any] = [ProblemDocument]
    for row in rows:
        kinds += [kind for kind in (row.answer, row.body) if kind is not None]
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    # Enums in query parameters need their component too.
    _, more = msgspec.json.schema_components([row.query for row in rows], ref_template=_REF)
    queries = {row.query.__name__ for row in rows}
    components.update({name: schema for name, schema in more.items() if name not in queries})
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, more)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Zeitwork control endpoint",
            "version": version,
            "description": "Desired state in, observed state out. Errors are problem documents (RFC 9457).",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(row: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": operation_id(row),
        "summary": row.summary,
        "parameters": list(_parameters(row, schemas)),
        "responses": _responses(row),
    }
    if row.websocket:
        operation["x-websocket"] = dict(row.websocket)
    if row.body is not None:
        content: dict[str, Any] = {_JSON: {"schema": _schema(row.body)}}
        content |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in row.consumes}
        operation["requestBody"] = {"required": not row.body_optional, "content": content}
    return operation


def operation_id(row: Endpoint) -> str:
    """Return the operation's name: ``put_instances_id_state``."""
    words = row.path.removeprefix("/api/v1").strip("/").replace("{", "").replace("}", "").replace(".", "_")
    return f"{row.method.lower()}_{words.replace('/', '_')}"


def _parameters(row: Endpoint, schemas: dict[str, Any]) -> Iterable[dict[str, Any]]:
    if row.noun:
        yield {
            "name": "id",
            "in": "path",
            "required": True,
            "description": f"id of the {row.noun}",
            "schema": {"type": "string", "format": "uuid"},
        }
    query = schemas[row.query.__name__]
    for name, schema in query.get("properties", {}).items():
        described = {key: value for key, value in schema.items() if key != "description"}
        parameter = {"name": name, "in": "query", "required": name in query.get("required", ()), "schema": described}
        if "description" in schema:
            parameter["description"] = schema["description"]
        yield parameter
    if row.writes:
        yield _KEY_PARAMETER


def _responses(row: Endpoint) -> dict[str, Any]:
    success: dict[str, Any] = {"description": HTTPStatus(row.status).phrase}
    content = {} if row.answer is None else {_JSON: {"schema": _schema(row.answer)}}
    for kind, what in row.produces.items():
        schema = {"type": "object"} if kind == _JSON else {"type": "string"}
        content[kind] = {"schema": {**schema, "description": what}}
    if content:
        success["content"] = content
    responses = {str(row.status): success}
    for status in sorted({*_ALWAYS, *row.errors, *_implied(row)}):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": _schema(ProblemDocument)}},
        }
    if row.path == "/health":
        responses["503"]["content"] = {_JSON: {"schema": _schema(row.answer)}}
    return responses


def _implied(row: Endpoint) -> set[int]:
    """Return the statuses that follow from what an endpoint takes."""
    found = {422} if row.body or row.query.__struct_fields__ else set()
    if row.noun:
        found.add(404)
    if row.body is not None or row.writes:
        found |= {408, 413, 415, 422}
    if row.path.startswith("/api/"):
        found.add(503)
    return found


def _schema(kind: Any) -> dict[str, Any]:
    return {"$ref": _REF.format(name=kind.__name__)}
