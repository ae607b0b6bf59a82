"""Placing an instance anew through the API."""

from __future__ import annotations

import pytest

from actors.model.states import NodeState, PlacementState
from tests.zeitwork.api.conftest import World
from zeitwork.api.deps import fresh_id


async def test_what_runs_is_replaced_when_that_is_confirmed(world: World) -> None:
    made = await world.create(name="web")
    path = f"/api/v1/instances/{made['id']}/replace"
    # Nothing is there yet: it waits for a host as it is.
    assert (await world.client.post(path)).json()["generation"] == 1
    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    for body in (None, {}, {"confirm": False}, {"force": True}):
        refused = await world.client.post(path, json=body) if body is not None else await world.client.post(path)
        assert (refused.status_code, refused.json()["field"]) == (409, "confirm")
    done = await world.client.post(path, json={"confirm": True})
    assert done.status_code == 202
    shown = done.json()
    assert (shown["state"], shown["generation"], shown["placement_id"]) == ("running", 2, str(placement))
    assert shown["reason"] == "moves off host-a as asked"
    tries = (await world.client.get(f"/api/v1/instances/{made['id']}/placements")).json()["items"]
    assert [(one["kept"], one["lost_at"]) for one in tries] == [(True, None)]
    told = (await world.client.get(f"/api/v1/instances/{made['id']}/events")).json()["items"]
    moved = next(event for event in told if event["what"] == "instance.moved")
    assert (moved["who"], moved["data"]["move"]) == ("api", "hand_over")


async def test_a_lost_placement_is_shown(world: World) -> None:
    made = await world.create()
    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    await world.store.nodes.set_state(world.node.id, NodeState.DOWN)
    path = f"/api/v1/instances/{made['id']}"
    assert (await world.client.post(f"{path}/replace", json={"confirm": True})).json()["state"] == "pending"
    (tried,) = (await world.client.get(f"{path}/placements")).json()["items"]
    assert not tried["kept"]
    assert tried["lost_at"].endswith("Z")


async def test_a_singleton_needs_force(world: World) -> None:
    made = await world.create(singleton=True)
    path = f"/api/v1/instances/{made['id']}/replace"
    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    refused = await world.client.post(path, json={"confirm": True})
    assert (refused.status_code, refused.json()["field"], refused.json()["code"]) == (409, "force", "singleton")
    assert "never run at once" in refused.json()["detail"]
    assert refused.json()["fix"]
    done = await world.client.post(path, json={"confirm": True, "force": True})
    assert (done.status_code, done.json()["generation"]) == (202, 2)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"force": "yes"}, "force"),
        ({"confirm": 1}, "confirm"),
        ({"node_id": "x"}, "node_id"),
        ([], None),
    ],
)
async def test_bad_bodies_are_refused(world: World, body: object, field: str | None) -> None:
    made = await world.create()
    answer = await world.client.post(f"/api/v1/instances/{made['id']}/replace", json=body)
    assert answer.status_code in (400, 422)
    assert answer.json().get("field") == field


async def test_what_is_not_there_or_bound_is_refused(world: World) -> None:
    assert (await world.client.post(f"/api/v1/instances/{fresh_id()}/replace")).status_code == 404
    assert (await world.client.post("/api/v1/instances/web/replace")).status_code in (400, 404, 422)
    made = await world.create(node_id=str(world.node.id))
    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    path = f"/api/v1/instances/{made['id']}"
    refused = await world.client.post(f"{path}/replace", json={"confirm": True})
    assert (refused.status_code, refused.json()["field"]) == (409, "node_id")
    await world.client.post(f"{path}/stop")
    refused = await world.client.post(f"{path}/replace", json={"confirm": True})
    assert (refused.status_code, refused.json()["code"]) == (409, "not-running")
