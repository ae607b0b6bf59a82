"""Join tokens through the endpoint and the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import psycopg
import pytest

from actors.model.errors import InvalidInput
from tests.zeitwork.api.conftest import World
from tests.zeitwork.api.test_command_line import loaded, zeitwork
from zeitwork.api.deps import fresh_id
from zeitwork.cli.token import seconds
from zeitwork.store.trust import Trust
from zeitwork.trust import certificates
from zeitwork.trust.token import parse_token


@pytest.fixture
async def socket(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the unix socket of a host with links."""
    object.__setattr__(world.deps, "join_address", "192.0.2.1:7946")
    transport = httpx.AsyncHTTPTransport(uds=str(world.deps.paths.api_socket))
    async with httpx.AsyncClient(base_url="http://localhost", transport=transport, timeout=90) as client:
        yield client


async def test_a_tokens_life(world: World, socket: httpx.AsyncClient, database_url: str) -> None:
    made = await socket.post("/api/v1/tokens", json={"ttl": 600})
    assert made.status_code == 201, made.text
    token = parse_token(made.json()["token"])
    assert made.json()["join"] == "https://192.0.2.1:7946"
    trust = Trust(world.store.units)
    assert token.fingerprint == certificates.fingerprint(await trust.authority())
    listed = (await world.client.get("/api/v1/tokens")).json()["items"]
    assert [(one["id"], one["state"]) for one in listed] == [(str(token.id), "valid")]
    assert "token" not in listed[0]
    request = certificates.request(certificates.new_key())
    host = world.node.id
    await trust.redeem(token.id, token.secret_hash, host=host, request=request, remote="x")
    listed = (await world.client.get("/api/v1/tokens")).json()["items"]
    assert (listed[0]["state"], listed[0]["used_by"], listed[0]["hostname"]) == ("used", str(host), None)
    # A machine is named as its node is, once it is one.
    row = await world.store.nodes.get(world.node.id)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update join_tokens set used_by = (select host_id from nodes where id = %s)", (row.id,))
    assert row.hostname in await zeitwork(world, "token", "ls")
    assert (await socket.post("/api/v1/tokens")).status_code == 201


async def test_a_token_can_be_revoked(socket: httpx.AsyncClient) -> None:
    made = (await socket.post("/api/v1/tokens")).json()
    gone = await socket.delete(f"/api/v1/tokens/{made['id']}")
    assert (gone.status_code, gone.json()["state"]) == (200, "revoked")
    missing = await socket.delete(f"/api/v1/tokens/{fresh_id()}")
    assert missing.status_code == 404


async def test_tokens_are_made_through_the_socket_by_hosts_with_links(world: World, socket: httpx.AsyncClient) -> None:
    refused = await world.client.post("/api/v1/tokens")
    assert (refused.status_code, refused.json()["code"]) == (403, "socket-only")
    kept = await socket.post("/api/v1/tokens", headers={"Idempotency-Key": "k"})
    assert (kept.status_code, kept.json()["field"]) == (422, "Idempotency-Key")
    for ttl in (0, 59, 8 * 24 * 3600, "1h", None):
        wrong = await socket.post("/api/v1/tokens", json={"ttl": ttl})
        assert (wrong.status_code, wrong.json()["field"]) == (422, "ttl")
    object.__setattr__(world.deps, "join_address", None)
    alone = await socket.post("/api/v1/tokens")
    assert (alone.status_code, alone.json()["code"]) == (409, "no-links")
    assert "--advertise" in alone.json()["fix"]


async def test_the_command_line_prints_the_whole_command(world: World, socket: httpx.AsyncClient) -> None:
    printed = (await zeitwork(world, "token", "create", "--ttl", "10m")).strip()
    assert printed.startswith("zeitwork run --join https://192.0.2.1:7946 --token zwt1_")
    token = parse_token(printed.rpartition(" ")[2])
    made = await loaded(world, "token", "create")
    assert made["command"].endswith(made["token"])
    assert {one["id"] for one in await loaded(world, "token", "ls")} == {str(token.id), made["id"]}
    assert "revoked" in await zeitwork(world, "token", "revoke", str(token.id))
    told = (await zeitwork(world, "token", "ls")).splitlines()
    assert told[0].split()[:3] == ["ID", "STATE", "AGE"]
    assert "10 minutes" in await zeitwork(world, "token", "create", "--ttl", "10 minutes", fails=True)


def test_durations() -> None:
    assert [seconds(text) for text in ("90s", "10m", "1h", "7d")] == [90, 600, 3600, 604800]
    for wrong in ("", "1", "h", "-1h", "1.5h", "1w", "9999999d"):
        with pytest.raises(InvalidInput):
            seconds(wrong)
