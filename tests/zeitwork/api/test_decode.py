from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from actors.model.errors import InvalidInput, NotFound, Problem
from zeitwork.api.decode import decode_json, decode_query, path_id
from zeitwork.api.instances import InstanceQuery
from zeitwork.api.new_instance import NewInstanceBody

IMAGE = "01933b7c-1111-7000-8000-000000000001"


def body(**changes: Any) -> bytes:
    value: dict[str, Any] = {"image_id": IMAGE, "resources": {"vcpu": 1, "memory": 64}, "default_port": 80}
    value.update(changes)
    return json.dumps({key: item for key, item in value.items() if item is not ...}).encode()


def test_a_good_body() -> None:
    found = decode_json(body(environment_variables={"A": "b"}, command=["x"]), NewInstanceBody)
    assert found.resources.vcpu == 1
    assert found.environment_variables == {"A": "b"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image_id": ...}, "image_id"),
        ({"image_id": "nginx"}, "image_id"),
        ({"image_id": 5}, "image_id"),
        ({"image_id": None}, "image_id"),
        ({"snapshot_id": IMAGE}, "snapshot_id"),
        ({"snapshot_id": None}, "snapshot_id"),
        ({"image_id": ..., "snapshot_id": "before"}, "snapshot_id"),
        ({"resources": ...}, "resources"),
        ({"resources": 5}, "resources"),
        ({"resources": {"vcpu": 0}}, "resources.vcpu"),
        ({"resources": {"vcpu": 1.5}}, "resources.vcpu"),
        ({"resources": {"vcpu": "1"}}, "resources.vcpu"),
        ({"resources": {"vcpu": True}}, "resources.vcpu"),
        ({"resources": {"vcpu": 10**30}}, "resources.vcpu"),
        ({"resources": {"cpu": 1}}, "resources.cpu"),
        ({"resources": {"memory": [1]}}, "resources.memory"),
        ({"default_port": ...}, "default_port"),
        ({"default_port": 0}, "default_port"),
        ({"default_port": 65536}, "default_port"),
        ({"node_id": "here"}, "node_id"),
        ({"name": "Big"}, "name"),
        ({"name": "-a"}, "name"),
        ({"name": "a" * 64}, "name"),
        ({"name": "a\n"}, "name"),
        ({"environment_variables": {"1A": "x"}}, "environment_variables"),
        ({"environment_variables": {"A=B": "x"}}, "environment_variables"),
        ({"environment_variables": {"A": 1}}, "environment_variables"),
        ({"environment_variables": {"A": "x\0"}}, "environment_variables.A"),
        ({"environment_variables": ["A=b"]}, "environment_variables"),
        ({"command": "sh"}, "command"),
        ({"command": ["sh", 1]}, "command[1]"),
        ({"command": ["sh\0"]}, "command[0]"),
        ({"stop_timeout": -1}, "stop_timeout"),
        ({"stop_timeout": 3601}, "stop_timeout"),
        ({"restart_policy": {"mode": "sometimes"}}, "restart_policy.mode"),
        ({"restart_policy": {"mode": "always", "max_attempts": 0}}, "restart_policy.max_attempts"),
        ({"restart_policy": "always"}, "restart_policy"),
        ({"health": {"type": "ping"}}, "health.type"),
        ({"health": {"type": "http", "path": "up"}}, "health.path"),
        ({"health": {"type": "http", "path": "/a b"}}, "health.path"),
        ({"health": {"type": "tcp", "port": 0}}, "health.port"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_json(body(**changes), NewInstanceBody)
    assert refused.value.field == field
    assert refused.value.status == 422
    assert "at `" not in refused.value.detail


def test_a_name_is_refused_in_words() -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_json(body(name="BAD_"), NewInstanceBody)
    assert refused.value.detail == "is not a name of 1 to 63 characters"
    assert "for example web-1" in str(refused.value.fix)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{} {}", b"nul", b'{"a":"\\ud800"}', b"[" * 100_000])
def test_what_is_not_json_is_a_bad_request(content: bytes) -> None:
    with pytest.raises(Problem) as refused:
        decode_json(content, NewInstanceBody)
    assert refused.value.status in (400, 422)
    assert refused.value.detail


# The first draw of text loads Unicode tables, which a busy machine takes seconds for.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_PATIENT
@given(st.binary(max_size=200))
def test_bytes_never_do_more_than_be_refused(content: bytes) -> None:
    with pytest.raises(Problem) as refused:
        decode_json(content, NewInstanceBody)
    assert refused.value.status in (400, 422)


_FIELDS = ["image_id", "snapshot_id", "resources", "name", "command", "restart_policy", "health", "x"]
# JSON has no infinity and no NaN.
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@_PATIENT
@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON))
def test_values_never_do_more_than_be_refused(changes: dict[str, Any]) -> None:
    try:
        decode_json(json.dumps({"default_port": 80, **changes}).encode(), NewInstanceBody)
    except InvalidInput as refused:
        assert refused.field is not None


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=ten", "limit"),
        ("state=flying", "state"),
        ("node_id=1", "node_id"),
        ("cursor=", "cursor"),
        ("cursor=%00", "cursor"),
        ("nope=1", "nope"),
        ("limit=1&limit=2", "limit"),
        ("all=maybe", "all"),
    ],
)
def test_parameters_are_named(query: str, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_query(QueryParams(query), InstanceQuery)
    assert refused.value.field == field


def test_good_parameters() -> None:
    found = decode_query(QueryParams("limit=7&state=running&all=true"), InstanceQuery)
    assert (found.limit, found.state, found.all) == (7, "running", True)


@pytest.mark.parametrize(
    "text", ["abc", "", "01933b7c11117000800000000000001", "{01933b7c-1111-7000-8000-000000000001}"]
)
def test_an_id_that_is_none_is_not_found(text: str) -> None:
    with pytest.raises(NotFound) as refused:
        path_id({"id": text}, "image")
    assert refused.value.field == "id"
