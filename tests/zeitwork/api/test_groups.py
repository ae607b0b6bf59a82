"""Groups through the API, over the store; what the leader does is done by hand."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from actors.model.states import PlacementState
from tests.zeitwork.api.conftest import World
from zeitwork.api.deps import fresh_id

GROUPS = "/api/v1/groups"
REQUIREMENTS = {
    "region": "default",
    "labels": {"zone": "a"},
    "hypervisor": "qemu",
    "architecture": "x86_64",
    "tolerations": [{"key": "gpu", "value": ""}, {"key": "team", "value": "red"}],
    "strategy": "spread",
}
NOTHING = {
    "region": None,
    "labels": {},
    "hypervisor": None,
    "architecture": None,
    "tolerations": [],
    "strategy": None,
}


async def wish(world: World, **changes: Any) -> dict[str, Any]:
    return {
        "name": "web",
        "replicas": 3,
        "image_id": str(await world.image()),
        "resources": {"vcpu": 1, "memory": 128},
        "default_port": 80,
        **changes,
    }


async def create(world: World, **changes: Any) -> dict[str, Any]:
    answer = await world.client.post(GROUPS, json=await wish(world, **changes))
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"{GROUPS}/{found['id']}"
    return found


async def test_the_life_of_a_group(world: World) -> None:
    made = await create(
        world,
        environment_variables={"A": "b"},
        restart_policy={"mode": "on-failure", "max_attempts": 3},
        health={"type": "http", "path": "/up"},
        priority=80,
        singleton=True,
        requirements=REQUIREMENTS,
    )
    path = f"{GROUPS}/{made['id']}"
    assert (made["replicas"], made["members"], made["running"], made["reason"]) == (3, 0, 0, "")
    assert (made["priority"], made["singleton"], made["requirements"]) == (80, True, REQUIREMENTS)
    assert (made["environment_variables"], made["health"]["path"]) == ({"A": "b"}, "/up")
    assert (await world.client.get(path)).json() == made
    assert (await world.client.get(GROUPS)).json() == {"items": [made], "next_cursor": None}
    assert (await world.client.get(GROUPS, params={"name": "db"})).json()["items"] == []

    await world.reconcile()
    members = (await world.client.get(f"{path}/instances")).json()["items"]
    assert sorted((one["name"], one["group"], one["group_id"], one["slot"]) for one in members) == [
        (f"web-{slot}", "web", made["id"], slot) for slot in range(3)
    ]
    for one in members:
        assert (one["priority"], one["singleton"], one["requirements"]) == (80, True, REQUIREMENTS)
        assert one["restart_policy"] == {"mode": "on-failure", "max_attempts": 3}
    alone = await world.create()
    assert (alone["group_id"], alone["group"], alone["slot"]) == (None, None, None)
    listed = (await world.client.get("/api/v1/instances", params={"group_id": made["id"]})).json()["items"]
    assert listed == members

    scaled = await world.client.put(f"{path}/replicas", json={"replicas": 1})
    assert (scaled.status_code, scaled.json()["replicas"], scaled.json()["generation"]) == (202, 1, 2)
    await world.reconcile()
    assert (await world.client.get(path)).json()["members"] == 1

    gone = await world.client.delete(path)  # nothing of it runs
    assert (gone.status_code, gone.json()["reason"]) == (202, "being removed: 1 left")
    await world.reconcile()
    await world.reconcile()
    assert (await world.client.get(path)).json()["gone_at"]
    assert (await world.client.get(GROUPS)).json()["items"] == []
    events = (await world.client.get(f"{path}/events")).json()["items"]
    assert [one["what"] for one in events if one["subject_kind"] == "group"] == [
        "group.created", "group.scaled", "group.deleted", "group.gone",
    ]  # fmt: skip
    assert sum(one["what"] == "instance.created" for one in events) == 3


async def test_what_runs_is_deleted_only_when_that_is_confirmed(world: World) -> None:
    made = await create(world, replicas=2)
    await world.reconcile()
    for placement in await world.place():
        await world.observe(placement, PlacementState.RUNNING)
    path = f"{GROUPS}/{made['id']}"
    assert (await world.client.get(path)).json()["running"] == 2
    refused = await world.client.delete(path)
    assert refused.status_code == 409
    problem = refused.json()
    assert (problem["code"], problem["field"]) == ("confirmation-needed", "confirm")
    assert "2 of the group's instances" in problem["detail"]
    assert "?confirm=true" in problem["fix"]
    assert (await world.client.get(path)).json()["deleted_at"] is None
    gone = await world.client.delete(path, params={"confirm": "true"})
    assert (gone.status_code, gone.json()["deleted_at"] is not None) == (202, True)
    assert (await world.client.delete(path)).status_code == 202


async def test_the_reason_of_what_waits_is_there_in_full(world: World) -> None:
    made = await create(world, replicas=2, resources={"vcpu": 1, "memory": 3000})
    await world.reconcile()
    await world.place()
    first, second = (await world.client.get(f"{GROUPS}/{made['id']}/instances")).json()["items"]
    waiting = first if first["reason"] else second
    reason = waiting["reason"]
    assert reason.startswith("1 host: 1 lacks 2544 MiB")
    assert (await world.client.get(f"{GROUPS}/{made['id']}")).json()["reason"] == f"1 pending: {reason}"
    events = (await world.client.get(f"/api/v1/instances/{waiting['id']}/events")).json()["items"]
    assert [one["data"]["reason"] for one in events if one["what"] == "instance.state"] == [reason]


async def test_an_instance_may_ask_of_hosts_too(world: World) -> None:
    plain = await world.create()
    assert (plain["priority"], plain["singleton"], plain["requirements"]) == (50, False, NOTHING)
    made = await world.create(priority=0, singleton=True, requirements=REQUIREMENTS)
    assert (made["priority"], made["singleton"], made["requirements"]) == (0, True, REQUIREMENTS)
    assert (await world.client.get(f"/api/v1/instances/{made['id']}")).json() == made
    assert (await world.create(requirements=None))["requirements"] == NOTHING


BAD: list[tuple[dict[str, Any], str]] = [
    ({"priority": 101}, "priority"),
    ({"priority": -1}, "priority"),
    ({"priority": "high"}, "priority"),
    ({"singleton": "yes"}, "singleton"),
    ({"requirements": {"hypervisor": "xen"}}, "requirements.hypervisor"),
    ({"requirements": {"architecture": "arm64"}}, "requirements.architecture"),
    ({"requirements": {"strategy": "random"}}, "requirements.strategy"),
    ({"requirements": {"region": ""}}, "requirements.region"),
    ({"requirements": {"zone": "a"}}, "requirements.zone"),
    ({"requirements": {"labels": {"a b": "c"}}}, "requirements.labels"),
    ({"requirements": {"labels": {"a": "c" * 64}}}, "requirements.labels"),
    ({"requirements": {"labels": ["a"]}}, "requirements.labels"),
    ({"requirements": {"tolerations": [{"value": "x"}]}}, "requirements.tolerations[0].key"),
    ({"requirements": {"tolerations": [{"key": "x"}, {"key": "x"}]}}, "requirements.tolerations"),
    ({"requirements": []}, "requirements"),
]
BAD_GROUPS: list[tuple[dict[str, Any], str]] = [
    ({"replicas": -1}, "replicas"),
    ({"replicas": 1001}, "replicas"),
    ({"replicas": 1.5}, "replicas"),
    ({"replicas": "3"}, "replicas"),
    ({"name": "Web"}, "name"),
    ({"name": ""}, "name"),
    ({"name": "w" * 59}, "name"),
    ({"name": "web\n"}, "name"),
    ({"node_id": str(uuid4())}, "node_id"),
    ({"snapshot_id": str(uuid4())}, "snapshot_id"),
    ({"image_id": str(fresh_id())}, "image_id"),
    ({"resources": {"memory": 999999}}, "resources.memory"),
    ({"resources": {"memory": "much"}}, "resources.memory"),
    ({"default_port": 0}, "default_port"),
    ({"environment_variables": {"A": "b" * 200000}}, "environment_variables"),
    ({"restart_policy": {"mode": "never", "max_attempts": 3}}, "restart_policy.max_attempts"),
    ({"health": {"type": "tcp", "timeout": 20}}, "health.timeout"),
]


async def test_bad_input_names_the_field_and_the_fix(world: World) -> None:
    body = await wish(world)
    for changes, field in BAD + BAD_GROUPS:
        answer = await world.client.post(GROUPS, json={**body, **changes})
        assert answer.status_code == 422, (changes, answer.text)
        problem = answer.json()
        assert problem["field"].startswith(field), (changes, problem)
        assert problem["fix"], changes
    assert (await world.client.get(GROUPS)).json()["items"] == []
    del body["name"], body["replicas"]
    for changes, field in BAD:
        answer = await world.client.post("/api/v1/instances", json={**body, **changes})
        assert answer.status_code == 422, (changes, answer.text)
        assert answer.json()["field"].startswith(field), (changes, answer.text)


async def test_names_are_taken_once(world: World) -> None:
    made = await create(world)
    answer = await world.client.post(GROUPS, json=await wish(world))
    assert (answer.status_code, answer.json()["field"]) == (409, "name")
    for refused in (
        await world.client.put(f"{GROUPS}/{made['id']}/replicas", json={"replicas": 1001}),
        await world.client.put(f"{GROUPS}/{made['id']}/replicas", json={}),
    ):
        assert (refused.status_code, refused.json()["field"]) == (422, "replicas")
    for method, tail in (("GET", ""), ("DELETE", ""), ("GET", "/instances"), ("GET", "/events")):
        assert (await world.client.request(method, f"{GROUPS}/{uuid4()}{tail}")).status_code == 404
    assert (await world.client.put(f"{GROUPS}/{uuid4()}/replicas", json={"replicas": 1})).status_code == 404


async def test_a_repeated_request_makes_one_group(world: World) -> None:
    body = await wish(world)
    answers = [await world.client.post(GROUPS, json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    path = f"{GROUPS}/{answers[0].json()['id']}"
    for _ in range(2):
        scaled = await world.client.put(f"{path}/replicas", json={"replicas": 7}, headers={"Idempotency-Key": "seven"})
        assert scaled.json()["generation"] == 2


async def test_the_members_come_in_pages(world: World) -> None:
    made = await create(world, replicas=5)
    await world.reconcile()
    path = f"{GROUPS}/{made['id']}/instances"
    first = (await world.client.get(path, params={"limit": 3})).json()
    rest = (await world.client.get(path, params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [len(first["items"]), len(rest["items"])] == [3, 2]
    assert sorted(one["slot"] for one in first["items"] + rest["items"]) == [0, 1, 2, 3, 4]
    assert rest["next_cursor"] is None
