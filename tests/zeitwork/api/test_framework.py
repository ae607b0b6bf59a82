"""What holds for every request: how refusals look, who may ask, what the log and the metrics say."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import httpx
import pytest
import structlog
import trio
from prometheus_client.parser import text_string_to_metric_families

from actors.model.errors import Unavailable
from runtime.lease import Candidate, Term
from tests.zeitwork.api.conftest import World
from zeitwork.api.table import ENDPOINTS
from zeitwork.metrics.catalogue import CATALOGUE

FIELDS = {"type", "title", "status", "detail", "code", "field", "fix", "instance"}


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) == FIELDS
    assert problem["status"] == status
    assert problem["instance"] == f"urn:zeitwork:request:{answer.headers['x-request-id']}"
    assert problem["detail"]
    return problem


REFUSALS_OF_ROUTING_ARE_PROBLEMS: list[tuple[str, str, int]] = [
    ("GET", "/", 404),
    ("GET", "/api/v1", 404),
    ("GET", "/api/v1/nodes/", 404),
    ("GET", "/api/v1/routes", 404),
    ("GET", "/api/v1/nodes/not-an-id", 404),
    ("GET", "/api/v1/nodes/%00", 404),
    ("GET", "/%2e%2e/etc/passwd", 404),
    ("PATCH", "/api/v1/nodes", 405),
    ("DELETE", "/api/v1/instances", 405),
    ("POST", "/health", 405),
    ("BREW", "/health", 405),
    ("GET", "/health?x=1", 422),
    ("GET", "/metrics?x=1", 422),
    ("GET", "/openapi.json?x=1", 422),
]


async def test_refusals_of_routing_are_problems(world: World) -> None:
    for method, path, status in REFUSALS_OF_ROUTING_ARE_PROBLEMS:
        answer = await world.client.request(method, path)
        is_problem(answer, status)
        if status == 405:
            allowed = set(answer.headers["allow"].split(", "))
            here = path.partition("?")[0]
            assert allowed - {"HEAD"} == {row.method for row in ENDPOINTS if row.path == here}


BODIES_THAT_CANNOT_BE_READ_CONTENT_HEADERS_STATUS: list[tuple[bytes, dict[str, str], int]] = [
    (b"", {"Content-Type": "application/json"}, 400),
    (b"{", {"Content-Type": "application/json"}, 400),
    (b"[]", {"Content-Type": "application/json"}, 422),
    (b"null", {"Content-Type": "application/json"}, 422),
    (b"{}", {}, 415),
    (b"{}", {"Content-Type": "text/plain"}, 415),
    (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    (b" " * (1024 * 1024 + 1), {"Content-Type": "application/json"}, 413),
    (b"x" * (20 << 20), {"Content-Type": "application/json"}, 413),
]

BODIES_THAT_CANNOT_BE_READ_PATH: list[str] = ["/api/v1/instances", "/api/v1/nodes", "/api/v1/images"]


async def test_bodies_that_cannot_be_read(world: World) -> None:
    for content, headers, status in BODIES_THAT_CANNOT_BE_READ_CONTENT_HEADERS_STATUS:
        for path in BODIES_THAT_CANNOT_BE_READ_PATH:
            is_problem(await world.client.post(path, content=content, headers=headers), status)


async def test_an_endless_body_is_refused(world: World) -> None:
    with trio.fail_after(90):
        stream = await trio.open_tcp_stream("127.0.0.1", int((world.listening.url or "").rpartition(":")[2]))
        await stream.send_all(
            b"POST /api/v1/nodes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        answer = b""

        async def send() -> None:
            try:
                while True:
                    await stream.send_all(b"10000\r\n" + b" " * 65536 + b"\r\n")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # cut off, as it should be

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while b"\r\n\r\n" not in answer:
                answer += await stream.receive_some(4096)
        assert answer.startswith(b"HTTP/1.1 413")


async def test_a_refused_body_may_be_sent_to_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simple clients send everything before they read: cut off in the middle, they would never see why."""
    monkeypatch.setattr("zeitwork.api.instrument._DRAIN_S", 90)
    port = int((world.listening.url or "").rpartition(":")[2])
    with trio.fail_after(90):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(
            b"POST /api/v1/nodes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % (96 * 65536)
        )
        for _ in range(96):
            await stream.send_all(b" " * 65536)
        answer = b""
        while chunk := await stream.receive_some(4096):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"body-too-large" in answer
    assert b"connection: close" in answer.lower()


async def test_a_body_where_none_belongs_is_refused(world: World) -> None:
    answer = await world.client.request("DELETE", f"/api/v1/nodes/{world.node.id}", content=b"{}")
    is_problem(answer, 422)


async def test_pages_of_other_sites_get_nothing(world: World) -> None:
    for headers, status in [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ]:
        for method, path in [("GET", "/api/v1/nodes"), ("POST", "/api/v1/images"), ("OPTIONS", "/api/v1/images")]:
            answer = await world.client.request(method, path, headers=headers)
            is_problem(answer, status)
            assert "access-control-allow-origin" not in answer.headers


async def test_the_unix_socket_takes_any_host_but_no_other_origin(world: World) -> None:
    transport = httpx.AsyncHTTPTransport(uds=str(world.deps.paths.api_socket))
    async with httpx.AsyncClient(base_url="http://whatever.example", transport=transport, timeout=90) as client:
        assert (await client.get("/health")).status_code == 200
        is_problem(await client.get("/health", headers={"Origin": "http://evil.example"}), 403)


async def test_the_unexpected_is_told_by_its_id_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> object:
        raise ValueError("secret-of-the-house")

    monkeypatch.setattr(world.store.nodes, "list", broken)
    with structlog.testing.capture_logs() as logged:
        answer = await world.client.get("/api/v1/nodes")
    problem = is_problem(answer, 500)
    assert "secret" not in answer.text
    assert problem["code"] == "internal-error"
    request_id = answer.headers["x-request-id"]
    (failure,) = [entry for entry in logged if entry["event"] == "a request failed unexpectedly"]
    assert failure["request_id"] == request_id
    assert failure["exc_info"]


async def test_an_absent_database_is_503_and_says_when_to_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> object:
        raise Unavailable("the database is away")

    monkeypatch.setattr(world.store.nodes, "list", away)
    monkeypatch.setattr(world.store, "ping", away)
    answer = await world.client.get("/api/v1/nodes")
    is_problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    health = await world.client.get("/health")
    assert health.status_code == 503
    assert health.json()["status"] == "degraded"
    assert health.json()["parts"]["store"] == {"status": "degraded", "detail": "the database is away"}


async def test_health(world: World) -> None:
    answer = await world.client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "version": "0.1.0",
        "node_id": str(world.node.id),
        "parts": {"store": {"status": "ok", "detail": ""}},
        "leader": None,
    }


async def test_health_and_metrics_say_who_leads(world: World) -> None:
    candidate = Candidate(world.node.id, world.node.generation, UUID(int=1))
    granted = await world.store.election.acquire(candidate, ttl=1000)
    me = {"node_id": str(world.node.id), "hostname": world.node.hostname}
    assert (await world.client.get("/health")).json()["leader"] == {**me, "epoch": granted.epoch}
    labels = f'{{hostname="{me["hostname"]}",node_id="{me["node_id"]}"}}'
    metrics = (await world.client.get("/metrics")).text
    assert f"zeitwork_leader{labels} 1.0\n" in metrics
    assert f"zeitwork_leader_epoch {granted.epoch:.1f}\n" in metrics
    await world.store.election.resign(Term(granted.epoch, candidate.boot, 1000))
    assert (await world.client.get("/health")).json()["leader"] is None
    metrics = (await world.client.get("/metrics")).text
    assert f"zeitwork_leader{labels} 0.0\n" in metrics
    assert f"zeitwork_leader_epoch {granted.epoch:.1f}\n" in metrics


async def test_each_request_is_one_line_in_the_log(world: World) -> None:
    with structlog.testing.capture_logs() as logged:
        answer = await world.client.get(f"/api/v1/nodes/{world.node.id}")
        await world.client.get("/nowhere%0a2026-01-01 all is well")
        with trio.fail_after(90):
            # The client has its answer a moment before the line is written.
            while len(lines := [e for e in logged if e["event"] == "request"]) < 2:  # noqa: ASYNC110
                await trio.sleep(0.005)
    line, forged = lines
    assert forged["path"] == "/nowhere%0a2026-01-01%20all%20is%20well"
    assert forged["route"] == "unmatched"
    assert line["request_id"] == answer.headers["x-request-id"]
    assert line["route"] == "/api/v1/nodes/{id}"
    assert (line["method"], line["status"], line["log_level"]) == ("GET", 200, "debug")
    assert forged["log_level"] == "info"
    assert line["ms"] >= 0


async def test_the_description_is_served(world: World) -> None:
    answer = await world.client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()["paths"]) == {row.path for row in ENDPOINTS}


async def test_head_is_get_without_the_body(world: World) -> None:
    for path in ("/health", "/api/v1/nodes", "/metrics", "/openapi.json"):
        answer = await world.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


async def metrics(world: World) -> dict[str, Any]:
    answer = await world.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value(metric: Any, /, **labels: str) -> float:
    (found,) = [s.value for s in metric.samples if labels.items() <= s.labels.items() and "_bucket" not in s.name]
    return float(found)


async def test_every_metric_is_in_the_catalogue_and_the_other_way_round(world: World) -> None:
    await world.create()
    await world.place()
    found = await metrics(world)
    described = {metric.name: metric for metric in CATALOGUE}
    assert set(found) - set(described) == set()
    assert set(described) - set(found) == set()
    for name, family in found.items():
        assert family.type == described[name].kind.value
        assert family.documentation == described[name].help
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(described[name].labels), sample


async def test_metrics_tell_what_is(world: World) -> None:
    await world.create(resources={"vcpu": 2, "memory": 1000})
    await world.create(resources={"vcpu": 1, "memory": 100})
    await world.client.get("/nowhere")
    await world.client.request("BREW", "/health")
    await world.place()
    found = await metrics(world)
    assert value(found["zeitwork_store_up"]) == 1
    assert (
        value(found["zeitwork_instances"], state="pending") + value(found["zeitwork_instances"], state="starting") == 2
    )
    assert value(found["zeitwork_images"], status="ready") == 2
    assert value(found["zeitwork_placements"], state="assigned") == 2
    assert value(found["zeitwork_vcpu_capacity"], hostname="host-a") == 8
    assert value(found["zeitwork_vcpu_allocated"], hostname="host-a") == 3
    assert value(found["zeitwork_memory_allocated_bytes"], hostname="host-a") == (1100 + 2 * 64) * 1024 * 1024
    assert value(found["zeitwork_leases"], family="ipv4") == 2
    assert value(found["zeitwork_nodes"], state="ready") == 1
    requests = found["zeitwork_http_requests"]
    assert value(requests, route="/api/v1/instances", method="POST", status="201") == 2
    assert value(requests, route="unmatched", method="GET", status="404") == 1
    assert value(requests, method="other", status="405") == 1
    assert value(found["zeitwork_store_units"], unit="instances.create") == 2
    assert value(found["zeitwork_info"]) == 1


async def test_metrics_without_the_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> object:
        raise Unavailable("the database is away")

    monkeypatch.setattr(world.store.nodes, "resources", away)
    found = await metrics(world)
    assert value(found["zeitwork_store_up"]) == 0
    assert "zeitwork_instances" not in found
    assert "process_resident_memory_bytes" in found


async def test_times_are_rfc_3339_in_utc(world: World) -> None:
    made = await world.create()
    for name in ("created_at", "updated_at", "state_changed_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", str(made[name]))


async def test_websockets_are_refused_for_now(world: World) -> None:
    port = int((world.listening.url or "").rpartition(":")[2])
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(
        b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with trio.fail_after(90):
        assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 403")
