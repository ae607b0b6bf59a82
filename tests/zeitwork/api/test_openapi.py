"""The document is what a client is written against: it must be valid, complete, and say what the code checks."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

import msgspec
import pytest
import trio
from openapi_spec_validator import OpenAPIV31SpecValidator

from actors.model import states
from zeitwork.api.dispatch import routes
from zeitwork.api.openapi import document, operation_id
from zeitwork.api.table import ENDPOINTS

DESIGNED = """
    GET /health | GET /metrics | GET /openapi.json
    GET POST /api/v1/nodes | GET DELETE /api/v1/nodes/{id} | PUT /api/v1/nodes/{id}/state
    PUT /api/v1/nodes/{id}/taints | GET /api/v1/members | POST /api/v1/leave
    GET POST /api/v1/instances | GET DELETE /api/v1/instances/{id} | PUT /api/v1/instances/{id}/state
    POST /api/v1/instances/{id}/start | POST /api/v1/instances/{id}/stop | POST /api/v1/instances/{id}/restart
    POST /api/v1/instances/{id}/replace
    POST /api/v1/instances/{id}/pause | POST /api/v1/instances/{id}/resume
    POST /api/v1/instances/{id}/snapshot | POST /api/v1/instances/{id}/restore
    GET /api/v1/snapshots | GET DELETE /api/v1/snapshots/{id}
    GET /api/v1/instances/{id}/health | GET /api/v1/instances/{id}/logs
    GET /api/v1/instances/{id}/exec | GET /api/v1/instances/{id}/metrics
    GET /api/v1/instances/{id}/events | GET /api/v1/instances/{id}/placements
    GET POST /api/v1/groups | GET DELETE /api/v1/groups/{id} | PUT /api/v1/groups/{id}/replicas
    GET /api/v1/groups/{id}/instances | GET /api/v1/groups/{id}/events
    GET POST /api/v1/images | GET DELETE /api/v1/images/{id} | GET /api/v1/images/{id}/history
    GET /api/v1/resources | GET /api/v1/events
    GET POST /api/v1/tokens | DELETE /api/v1/tokens/{id}
"""


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document(ENDPOINTS, "1.2.3")))
    return found


def test_it_is_valid(spec: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(spec).validate()
    assert spec["info"]["version"] == "1.2.3"


def test_it_has_every_route_and_nothing_else(spec: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, methods in spec["paths"].items() for method in methods}
    assert described == {(row.method, row.path) for row in ENDPOINTS}
    served = {
        (method, route.path)
        for route in routes(ENDPOINTS, None, trio.Event())  # type: ignore[arg-type]
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert described == served


def test_the_design_and_the_table_agree() -> None:
    designed = set()
    for entry in re.split(r"[|\n]", DESIGNED):
        *methods, path = entry.split() or [""]
        designed |= {(method, path) for method in methods}
    assert {(row.method, row.path) for row in ENDPOINTS} == designed


def test_operations_are_named_once() -> None:
    names = [operation_id(row) for row in ENDPOINTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "kind",
    [
        states.InstanceDesired,
        states.InstanceState,
        states.PlacementState,
        states.ImageStatus,
        states.NodeDesired,
        states.NodeState,
        states.Outcome,
        states.SnapshotState,
    ],
)
def test_enums_are_the_models(spec: dict[str, Any], kind: type[StrEnum]) -> None:
    assert sorted(spec["components"]["schemas"][kind.__name__]["enum"]) == sorted(member.value for member in kind)


def test_every_refusal_is_a_problem_document(spec: dict[str, Any]) -> None:
    for path, methods in spec["paths"].items():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if int(status) < 400 or (path, status) == ("/health", "503"):
                    continue
                assert list(response["content"]) == ["application/problem+json"], (path, status)


def test_writes_take_an_idempotency_key(spec: dict[str, Any]) -> None:
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            names = {parameter["name"] for parameter in operation["parameters"]}
            assert ("Idempotency-Key" in names) == (method != "get"), (method, path)


def test_unknown_fields_are_refused_in_writing(spec: dict[str, Any]) -> None:
    schemas = spec["components"]["schemas"]
    for row in ENDPOINTS:
        if row.body is not None:
            assert schemas[row.body.__name__]["additionalProperties"] is False


def test_every_schema_and_operation_says_what_it_is(spec: dict[str, Any]) -> None:
    for name, schema in spec["components"]["schemas"].items():
        assert schema.get("description"), name
    for methods in spec["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
