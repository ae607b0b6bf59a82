"""Nodes that come and go through the endpoint: invited, given up, asked for again, removed, leaving."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import psycopg
import pytest

from actors.model.errors import Conflict
from actors.model.states import NodeState
from actors.registrar.invite import Outcome
from tests.zeitwork.api.conftest import World
from tests.zeitwork.store.world import host, leading
from zeitwork.trust.invitation import Code

CODE = str(Code(bytes(range(16)), bytes(16)))
NEW: dict[str, object] = {"hostname": "host-b", "ip_address": "2001:db8::7"}


async def post(world: World, *, headers: dict[str, str] | None = None, **changes: object) -> Any:
    """Ask through the unix socket, as the command line does."""
    transport = httpx.AsyncHTTPTransport(uds=str(world.deps.paths.api_socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=90) as client:
        return await client.post("/api/v1/nodes", json={**NEW, **changes}, headers=headers)


async def test_a_code_is_taken_through_the_socket_only(world: World) -> None:
    refused = await world.client.post("/api/v1/nodes", json={**NEW, "code": CODE})
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (403, "socket-only", "code")
    assert await world.store.invitations.expected() == ()
    assert (await world.client.post("/api/v1/nodes", json=NEW)).status_code == 201


async def test_a_node_is_to_be_invited_where_it_is(world: World) -> None:
    made = await post(world, code=CODE, port=7000, timeout=30)
    assert made.status_code == 201, made.text
    node = made.json()
    assert (node["state"], node["reason"]) == ("booting", "to be invited at [2001:db8::7]:7000")
    (one,) = await world.store.invitations.expected()
    assert (str(one.node_id), one.address, one.code, one.timeout) == (node["id"], "[2001:db8::7]:7000", CODE, 30)
    # The code is shown to nobody.
    for path in ("/api/v1/nodes", f"/api/v1/nodes/{node['id']}", "/api/v1/events"):
        assert CODE[5:] not in (await world.client.get(path)).text
    plain = (await post(world, hostname="host-c", ip_address="192.0.2.1")).json()
    assert plain["reason"] == "to be invited at 192.0.2.1:7946"


async def test_a_repeated_request_is_one(world: World) -> None:
    answers = [await post(world, code=CODE, headers={"Idempotency-Key": "one"}) for _ in range(2)]
    assert [one.status_code for one in answers] == [201, 201]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert len(await world.store.invitations.expected()) == 1
    refused = await post(world)
    assert (refused.status_code, refused.json()["field"]) == (409, "hostname")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"code": "1234"}, "code"),
        ({"code": CODE[:-1]}, "code"),
        ({"code": CODE[:-1] + ("A" if CODE[-1] != "A" else "B")}, "code"),
        ({"code": ""}, "code"),
        ({"code": "zwi1_" + "x" * 200}, "code"),
        ({"code": 5}, "code"),
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"port": "7946"}, "port"),
        ({"timeout": 9}, "timeout"),
        ({"timeout": 1e9}, "timeout"),
        ({"timeout": "60"}, "timeout"),
        ({"ip_address": "::"}, "ip_address"),
        ({"ip_address": "0.0.0.0"}, "ip_address"),
        ({"ip_address": "224.0.0.1"}, "ip_address"),
        ({"ip_address": "host-b"}, "ip_address"),
        ({"token": "zwt1_x"}, "token"),
    ],
)
async def test_bad_input_is_named_and_leaves_nothing(world: World, change: dict[str, object], field: str) -> None:
    refused = await post(world, **change)
    assert (refused.status_code, refused.json()["field"]) == (422, field), refused.text
    assert await world.store.invitations.expected() == ()
    assert len((await world.client.get("/api/v1/nodes")).json()["items"]) == 1


async def test_what_was_given_up_is_tried_again_when_it_is_asked_for(world: World) -> None:
    term = await leading(world.store)
    node = (await post(world)).json()
    (one,) = await world.store.invitations.expected()
    await world.store.invitations.give_up(one, "not joined within 600 s", term)
    shown = (await world.client.get(f"/api/v1/nodes/{node['id']}")).json()
    assert (shown["state"], shown["reason"]) == ("error", "not joined within 600 s")
    path = f"/api/v1/nodes/{node['id']}/state"
    again = await world.client.put(path, json={"state": "ready"})
    assert (again.status_code, again.json()["state"]) == (202, "booting")
    # With a code that was wrong, only another one helps.
    (one,) = await world.store.invitations.expected()
    await world.store.invitations.give_up(one, "x", term)
    assert (await post(world, code=CODE)).json()["id"] == node["id"]
    (one,) = await world.store.invitations.expected()
    await world.store.invitations.tried(one, Outcome(False, "the code is wrong", final=True), term)
    refused = await world.client.put(path, json={"state": "ready"})
    assert (refused.status_code, refused.json()["code"]) == (409, "needs-code")
    assert "zeitwork nodes add host-b [2001:db8::7]:7946" in refused.json()["fix"]


async def test_a_dead_node_is_removed_with_what_ran_there(world: World, database_url: str) -> None:
    me = host()
    other = await world.store.nodes.register(me)
    await world.store.nodes.set_state(other.id, NodeState.READY)
    path = f"/api/v1/nodes/{other.id}"
    refused = await world.client.delete(path, params={"dead": "true"})
    assert (refused.status_code, bool(refused.json()["fix"])) == (409, True)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update nodes set last_seen_at = now() - interval '1 hour' where id = %s", (other.id,))
    assert (await world.client.delete(path, params={"dead": "maybe"})).status_code == 422
    assert (await world.client.delete(path, params={"dead": "true"})).status_code == 204
    gone = (await world.client.get(path)).json()
    assert (gone["state"], "never comes back" in gone["reason"]) == ("terminated", True)
    with pytest.raises(Conflict, match="for good"):
        await world.store.nodes.register(replace(me, boot_id="boot-2"))


async def test_a_host_is_told_to_leave(world: World) -> None:
    # The endpoint of these tests belongs to no process that could.
    refused = await world.client.post("/api/v1/leave", json={})
    assert (refused.status_code, refused.json()["code"]) == (409, "not-a-member")
    assert (await world.client.post("/api/v1/leave", json={"force": "yes"})).status_code == 422
    assert (await world.client.post("/api/v1/leave", json={"hard": True})).status_code == 422
