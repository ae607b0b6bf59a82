"""Instances through the API, over the store; what hosts and the scheduler do is done by hand."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from actors.host.messages import HostView, Vms
from actors.model.health import HealthState
from actors.model.records import Observation
from actors.model.states import NodeState, Outcome, PlacementState
from actors.vm.messages import VmView
from runtime import Actor, Message, Spec
from tests.zeitwork.api.conftest import World
from zeitwork.api.deps import fresh_id

JSON = {"Content-Type": "application/json"}


async def test_the_life_of_an_instance(world: World) -> None:
    made = await world.create(name="web", environment_variables={"A": "b"}, command=["/bin/app", "-v"])
    path = f"/api/v1/instances/{made['id']}"
    assert made["state"] == "pending"
    assert made["desired_state"] == "running"
    assert made["environment_variables"] == {"A": "b"}
    assert made["image"] == "docker.io/library/app:1"
    assert str(made["created_at"]).endswith("Z")

    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    found = (await world.client.get(path)).json()
    assert found["state"] == "running"
    assert found["placement_id"] == str(placement)
    assert found["ipv4"]
    assert found["observed_generation"] == found["generation"] == 1

    stopped = await world.client.post(f"{path}/stop", json={"stop_timeout": 3})
    assert stopped.status_code == 202
    assert stopped.json()["desired_state"] == "stopped"
    await world.observe(placement, PlacementState.REMOVED)
    assert (await world.client.get(path)).json()["state"] == "stopped"

    started = await world.client.post(f"{path}/start")
    assert started.status_code == 202
    assert started.json()["generation"] == 2
    restarted = await world.client.post(f"{path}/restart", json={})
    assert restarted.json()["generation"] == 3

    gone = await world.client.delete(path)
    assert gone.status_code == 202
    assert gone.json()["state"] == "terminated"
    listed = (await world.client.get("/api/v1/instances")).json()
    assert listed == {"items": [], "next_cursor": None}

    tries = (await world.client.get(f"{path}/placements")).json()["items"]
    assert [one["generation"] for one in tries] == [1]
    assert tries[0]["state"] == "removed"
    events = (await world.client.get(f"{path}/events")).json()["items"]
    assert events[0]["what"] == "instance.created"
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)


async def test_what_runs_is_deleted_only_when_that_is_confirmed(world: World) -> None:
    made = await world.create()
    path = f"/api/v1/instances/{made['id']}"
    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    for answer in (
        await world.client.delete(path),
        await world.client.put(f"{path}/state", json={"state": "terminated"}),
    ):
        assert answer.status_code == 409
        assert answer.json()["code"] == "confirmation-needed"
        assert "confirm" in answer.json()["fix"]
    assert (await world.client.get(path)).json()["desired_state"] == "running"
    gone = await world.client.delete(path, params={"confirm": "true", "force": "true"})
    assert gone.status_code == 202
    assert gone.json()["desired_state"] == "terminated"
    # Once it is wanted gone, asking again needs no second confirmation.
    assert (await world.client.delete(path)).status_code == 202


OBSERVED_STATES_CANNOT_BE_ASKED_FOR: list[str] = [
    "pending",
    "starting",
    "paused",
    "stopping",
    "failed",
    "crash_loop",
    "unknown",
]


async def test_observed_states_cannot_be_asked_for(world: World) -> None:
    for state in OBSERVED_STATES_CANNOT_BE_ASKED_FOR:
        made = await world.create()
        answer = await world.client.put(f"/api/v1/instances/{made['id']}/state", json={"state": state})
        assert answer.status_code == 409
        problem = answer.json()
        assert problem["code"] == "observed-state"
        assert problem["field"] == "state"
        assert "running, stopped, terminated" in problem["fix"]


async def test_desired_states_can(world: World) -> None:
    made = await world.create()
    path = f"/api/v1/instances/{made['id']}/state"
    for state in ("stopped", "running", "terminated"):
        answer = await world.client.put(path, json={"state": state})
        assert answer.status_code == 202, answer.text
        assert answer.json()["desired_state"] == state
    after = await world.client.put(path, json={"state": "running"})
    assert after.status_code == 409


MEMORY_IN_MANY_WORDS: list[tuple[object, int]] = [
    (256, 256),
    ("256", 256),
    ("256MiB", 256),
    ("0.5GiB", 512),
    ("300MB", 287),
    ("1G", 1024),
]


async def test_memory_in_many_words(world: World) -> None:
    for memory, mib in MEMORY_IN_MANY_WORDS:
        made = await world.create(resources={"memory": memory})
        assert made["resources"] == {"vcpu": 1, "memory": mib, "disk": 1024}


async def test_more_than_any_host_has_is_refused_with_the_numbers(world: World) -> None:
    image = str(await world.image())
    body = {"image_id": image, "default_port": 80}
    for resources, field, number in (
        ({"vcpu": 9, "memory": 128}, "resources.vcpu", "8"),
        ({"vcpu": 1, "memory": "1TiB"}, "resources.memory", "3"),
    ):
        answer = await world.client.post("/api/v1/instances", json={**body, "resources": resources})
        assert answer.status_code == 422, answer.text
        assert answer.json()["field"] == field
        assert number in answer.json()["detail"]
    assert (await world.client.get("/api/v1/instances")).json()["items"] == []


async def test_what_fits_later_stays_pending_with_the_reason(world: World) -> None:
    first = await world.create(resources={"vcpu": 1, "memory": 3000})
    second = await world.create(resources={"vcpu": 1, "memory": 3000})
    await world.place()
    assert (await world.client.get(f"/api/v1/instances/{first['id']}")).json()["placement_id"]
    waiting = (await world.client.get(f"/api/v1/instances/{second['id']}")).json()
    assert waiting["state"] == "pending"
    assert "MiB" in waiting["reason"]


async def test_pages(world: World) -> None:
    made = [(await world.create())["id"] for _ in range(5)]
    await world.client.delete(f"/api/v1/instances/{made[1]}")
    living = [made[0], *made[2:]]

    async def all_pages(limit: int, **params: str) -> list[object]:
        found: list[object] = []
        cursor: str | None = None
        while True:
            query = {"limit": str(limit), **params} | ({"cursor": cursor} if cursor else {})
            page = (await world.client.get("/api/v1/instances", params=query)).json()
            assert len(page["items"]) <= limit
            found += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    assert await all_pages(2) == living
    assert await all_pages(100) == living
    assert await all_pages(2, all="true") == [*living, made[1]]
    assert await all_pages(1, state="terminated") == [made[1]]
    assert await all_pages(2, state="running") == []
    assert await all_pages(2, node_id=str(fresh_id())) == []


A_CURSOR_OF_SOMEBODY_ELSE_IS_REFUSED: list[str] = ["x", "t:x", "%%", "../..", "1"]


async def test_a_cursor_of_somebody_else_is_refused(world: World) -> None:
    for cursor in A_CURSOR_OF_SOMEBODY_ELSE_IS_REFUSED:
        for params in ({"cursor": cursor}, {"cursor": cursor, "all": "true"}):
            answer = await world.client.get("/api/v1/instances", params=params)
            assert answer.status_code == 422
            assert answer.json()["field"] == "cursor"


async def test_names_are_taken_once(world: World) -> None:
    await world.create(name="web")
    body = {"image_id": str(await world.image()), "resources": {}, "default_port": 80, "name": "web"}
    answer = await world.client.post("/api/v1/instances", json=body)
    assert answer.status_code == 409
    assert answer.json()["field"] == "name"


WHAT_ONLY_THE_HOST_CAN_JUDGE_IS_NAMED_TOO: list[tuple[dict[str, object], str]] = [
    ({"image_id": str(fresh_id())}, "image_id"),
    ({"node_id": str(fresh_id())}, "node_id"),
    ({"resources": {"memory": "lots"}}, "resources.memory"),
    ({"resources": {"memory": 1}}, "resources.memory"),
    ({"resources": {"disk": "1KiB"}}, "resources.disk"),
    ({"resources": {"memory": "9" * 400 + "GiB"}}, "resources.memory"),
    ({"command": [""]}, "command[0]"),
    ({"command": ["sh", "-c", "€" * 50_000]}, "command[2]"),
    ({"environment_variables": {"BIG": "€" * 50_000}}, "environment_variables.BIG"),
    ({"environment_variables": {f"V{n}": "x" * 60000 for n in range(5)}}, "environment_variables"),
]


async def test_what_only_the_host_can_judge_is_named_too(world: World) -> None:
    for changes, field in WHAT_ONLY_THE_HOST_CAN_JUDGE_IS_NAMED_TOO:
        body = {"image_id": str(await world.image()), "resources": {}, "default_port": 80, **changes}
        answer = await world.client.post("/api/v1/instances", json=body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["field"] == field


async def test_nothing_that_is_not_there(world: World) -> None:
    missing = fresh_id()
    for method, path, body in [
        ("GET", "", None),
        ("DELETE", "", None),
        ("PUT", "/state", {"state": "running"}),
        ("POST", "/start", {}),
        ("POST", "/stop", {}),
        ("POST", "/restart", {}),
        ("GET", "/logs", None),
        ("GET", "/events", None),
        ("GET", "/placements", None),
    ]:
        answer = await world.client.request(method, f"/api/v1/instances/{missing}{path}", json=body)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert str(missing) in answer.json()["detail"]


async def test_a_repeated_create_makes_one_instance(world: World) -> None:
    body = {"image_id": str(await world.image()), "resources": {}, "default_port": 80}
    key = {"Idempotency-Key": "one"}
    first = await world.client.post("/api/v1/instances", json=body, headers=key)
    again = await world.client.post("/api/v1/instances", json=body, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"] == f"/api/v1/instances/{first.json()['id']}"
    assert len((await world.client.get("/api/v1/instances")).json()["items"]) == 1

    other = await world.client.post("/api/v1/instances", json={**body, "default_port": 81}, headers=key)
    assert other.status_code == 422
    assert other.json()["field"] == "Idempotency-Key"
    elsewhere = await world.client.post("/api/v1/images", json={"reference": "nginx"}, headers=key)
    assert elsewhere.status_code == 422


async def test_a_refused_request_gives_its_key_back(world: World) -> None:
    key = {"Idempotency-Key": "two"}
    body = {"image_id": str(fresh_id()), "resources": {}, "default_port": 80}
    for _ in range(2):
        answer = await world.client.post("/api/v1/instances", json=body, headers=key)
        assert (answer.status_code, answer.json()["field"]) == (422, "image_id")


async def test_a_lost_answer_makes_no_second_instance(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work was done and its answer was not kept: the repeated request finds the same instance by its token."""
    body = {"image_id": str(await world.image()), "resources": {}, "default_port": 80}
    key = {"Idempotency-Key": "three"}

    async def lost(key: str, status: int, body: bytes) -> None:
        await world.store.idempotency.abandon(key)

    with monkeypatch.context() as patched:
        patched.setattr(world.store.idempotency, "finish", lost)
        first = await world.client.post("/api/v1/instances", json=body, headers=key)
    again = await world.client.post("/api/v1/instances", json=body, headers=key)
    assert first.json()["id"] == again.json()["id"]
    assert len((await world.client.get("/api/v1/instances")).json()["items"]) == 1


A_KEY_THAT_IS_NONE_IS_REFUSED: list[str | bytes] = ["", "a b", "ä".encode(), "x" * 256]


async def test_a_key_that_is_none_is_refused(world: World) -> None:
    for key in A_KEY_THAT_IS_NONE_IS_REFUSED:
        answer = await world.client.post(
            "/api/v1/images",
            content=b'{"reference":"nginx"}',
            headers={**JSON, "Idempotency-Key": key},  # type: ignore[dict-item]
        )
        assert answer.status_code == 422
        assert answer.json()["field"] == "Idempotency-Key"


async def test_ids_are_of_version_7(world: World) -> None:
    made = await world.create()
    assert UUID(str(made["id"])).version == 7


async def test_a_crash_loop_is_shown_with_its_reason_and_the_time_of_the_next_try(world: World) -> None:
    made = await world.create(restart_policy={"mode": "on-failure", "max_attempts": 9})
    assert made["restart_policy"] == {"mode": "on-failure", "max_attempts": 9}
    assert (made["restarts"], made["next_try_at"]) == (0, None)
    path = f"/api/v1/instances/{made['id']}"
    (placement,) = await world.place()
    for failures in (1, 2):
        seen = Observation(
            PlacementState.WAITING,
            "the app exited with status 3; next try at noon",
            Outcome.EXITED,
            3,
            failures=failures,
            next_try_at=2_000_000_000.0,
        )
        assert await world.store.placements.observe(placement, list(PlacementState), seen)
        found = (await world.client.get(path)).json()
        assert found["state"] == ("starting" if failures == 1 else "crash_loop")
        assert (found["reason"], found["outcome"], found["exit_status"]) == (seen.reason, "exited", 3)
        assert found["next_try_at"] == "2033-05-18T03:33:20Z"
        if failures == 1:
            await world.observe(placement, PlacementState.PREPARING)
    assert found["restarts"] == 1
    started = (await world.client.post(f"{path}/start")).json()
    assert (started["state"], started["generation"], started["next_try_at"]) == ("starting", 1, None)
    (shown,) = (await world.client.get(f"{path}/placements")).json()["items"]
    assert (shown["failures"], shown["restarts"], shown["state"]) == (2, 1, "waiting")


async def test_attempts_of_what_is_never_restarted_are_refused(world: World) -> None:
    body = {"image_id": str(await world.image()), "resources": {"vcpu": 1, "memory": 128}, "default_port": 80}
    body["restart_policy"] = {"mode": "never", "max_attempts": 3}
    answer = await world.client.post("/api/v1/instances", json=body)
    assert answer.status_code == 422
    assert answer.json()["field"] == "restart_policy.max_attempts"


async def test_health_is_shown_with_its_check(world: World) -> None:
    made = await world.create(health={"type": "http", "path": "/up", "interval": 5})
    assert made["health_status"] == "unknown"
    path = f"/api/v1/instances/{made['id']}"
    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    await world.store.placements.record_health(placement, HealthState.UNHEALTHY, "status 500")
    shown = (await world.client.get(f"{path}/health")).json()
    assert (shown["status"], shown["reason"], shown["state"]) == ("unhealthy", "status 500", "running")
    assert shown["changed_at"]
    check = {"type": "http", "path": "/up", "port": None, "interval": 5.0, "timeout": 2.0, "failures": 2}
    assert shown["check"] == check
    found = (await world.client.get(path)).json()
    assert (found["health"], found["health_status"]) == (check, "unhealthy")
    plain = await world.create()
    shown = (await world.client.get(f"/api/v1/instances/{plain['id']}/health")).json()
    assert (shown["status"], shown["check"]["type"], shown["state"]) == ("unknown", "none", "pending")


class OneMachine(Actor):
    """A host that knows of one virtual machine."""

    def __init__(self, view: VmView) -> None:
        self._view = view

    async def receive(self, message: Message) -> None:
        assert isinstance(message, Vms)
        self.ctx.reply(HostView((self._view,), (), None, None))


async def test_health_tells_whether_guest_and_monitor_answer(world: World) -> None:
    made = await world.create()
    path = f"/api/v1/instances/{made['id']}/health"
    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    assert (await world.client.get(path)).json()["guest_heard_at"] is None
    view = VmView(
        placement_id=placement,
        instance_id=UUID(made["id"]),
        generation=1,
        phase="running",
        hypervisor="qemu",
        pid=1,
        adopted=False,
        console=Path("/c"),
        since=0.0,
        heard_at=1_700_000_000.0,
        doubt="its guest's init does not answer",
    )
    await world.deps.system.start(Spec("host", lambda: OneMachine(view)))
    shown = (await world.client.get(path)).json()
    assert shown["guest_heard_at"] == "2023-11-14T22:13:20Z"
    assert shown["silent"] == "its guest's init does not answer"


async def test_a_probe_that_takes_longer_than_its_interval_is_refused(world: World) -> None:
    body = {"image_id": str(await world.image()), "resources": {"vcpu": 1, "memory": 128}, "default_port": 80}
    body["health"] = {"type": "tcp", "interval": 1, "timeout": 5}
    answer = await world.client.post("/api/v1/instances", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, "health.timeout")


async def test_volumes_are_kept_unless_they_are_to_be_deleted_too(world: World) -> None:
    made = await world.create(name="web")
    path = f"/api/v1/instances/{made['id']}"
    for state in ("stopped", "running"):
        refused = await world.client.put(f"{path}/state", json={"state": state, "volumes": "delete"})
        assert refused.status_code == 422
        assert refused.json()["field"] == "volumes"
    bad = await world.client.delete(path, params={"volumes": "some"})
    assert bad.status_code == 422
    assert bad.json()["field"] == "volumes"
    await world.place()
    for volumes in ("keep", "delete", "keep"):
        assert (await world.client.delete(path, params={"confirm": "true", "volumes": volumes})).status_code == 202
    events = (await world.client.get(f"{path}/events")).json()["items"]
    # What was said last changes nothing: by then they may be deleted.
    asked = [one["data"]["volumes"] for one in events if one["what"] == "instance.desired"]
    assert asked == ["keep", "delete"]


async def test_of_an_instance_on_a_host_that_is_down_it_is_said_that_this_is_waited_for(world: World) -> None:
    made = await world.create(name="web")
    path = f"/api/v1/instances/{made['id']}"
    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    await world.store.nodes.set_state(world.node.id, NodeState.DOWN, "silent")
    for force in ("false", "true"):
        gone = await world.client.delete(path, params={"confirm": "true", "force": force})
        assert gone.status_code == 202
        assert gone.json()["desired_state"] == "terminated"
        assert gone.json()["state"] == "running"
        assert gone.json()["reason"].startswith(f"its host {world.node.hostname} is down: it is removed there once")
    # Its address and its room are not given away before its host has said that nothing is left.
    assert (await world.store.placements.get(placement)).state is PlacementState.RUNNING
    await world.store.presence.heartbeat(world.node.id, world.node.generation)
    await world.observe(placement, PlacementState.STOPPING)
    assert (await world.client.get(path)).json()["reason"] == ""
    await world.observe(placement, PlacementState.REMOVED)
    assert (await world.client.get(path)).json()["state"] == "terminated"


async def test_what_is_asked_to_stop_on_a_host_that_went_down_meanwhile_says_so_when_asked_again(world: World) -> None:
    made = await world.create(name="web")
    path = f"/api/v1/instances/{made['id']}"
    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    assert (await world.client.post(f"{path}/stop", json={})).json()["reason"] == ""
    await world.store.nodes.set_state(world.node.id, NodeState.DOWN, "silent")
    assert "it is stopped there once" in (await world.client.post(f"{path}/stop", json={})).json()["reason"]
