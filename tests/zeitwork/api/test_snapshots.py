"""Pause, resume, snapshot and restore through the API; what the host and the scheduler do is done by hand."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from actors.model.records import SnapshotMade
from actors.model.states import PlacementState
from tests.zeitwork.api.conftest import World
from zeitwork.api.deps import fresh_id

MADE = SnapshotMade(size=123456, hypervisor="qemu", vmm_version="7.2.9", guest="6.1.0-40/3", cpu="Some CPU")


async def running(world: World, **changes: object) -> tuple[str, UUID]:
    """Run an instance; return its path and placement."""
    made = await world.create(**changes)
    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    return f"/api/v1/instances/{made['id']}", placement


async def taken(world: World, path: str, **body: object) -> dict[str, Any]:
    """Take a snapshot as API and host do it together."""
    asked = await world.client.post(f"{path}/snapshot", json=body)
    assert asked.status_code == 202, asked.text
    identifier = asked.json()["id"]
    assert await world.store.snapshots.taken(UUID(identifier), MADE)
    found: dict[str, Any] = (await world.client.get(f"/api/v1/snapshots/{identifier}")).json()
    return found


async def test_pause_and_resume(world: World) -> None:
    path, placement = await running(world)
    paused = await world.client.post(f"{path}/pause")
    assert paused.status_code == 202
    assert (paused.json()["paused"], paused.json()["state"], paused.json()["desired_state"]) == (
        True, "running", "running",
    )  # fmt: skip
    await world.observe(placement, PlacementState.PAUSED)
    found = (await world.client.get(path)).json()
    assert (found["state"], found["paused"], found["placement_id"]) == ("paused", True, str(placement))
    (listed,) = (await world.client.get("/api/v1/instances", params={"state": "paused"})).json()["items"]
    assert listed == found
    # Deleting what is paused loses something too.
    assert (await world.client.delete(path)).json()["code"] == "confirmation-needed"
    resumed = await world.client.post(f"{path}/resume", json={})
    assert (resumed.status_code, resumed.json()["paused"], resumed.json()["state"]) == (202, False, "paused")
    await world.observe(placement, PlacementState.RUNNING)
    assert (await world.client.get(path)).json()["state"] == "running"


async def test_to_want_it_running_resumes_it_and_paused_is_asked_for_elsewhere(world: World) -> None:
    path, placement = await running(world)
    refused = await world.client.put(f"{path}/state", json={"state": "paused"})
    assert (refused.status_code, refused.json()["code"]) == (409, "observed-state")
    assert "POST .../pause" in refused.json()["fix"]
    await world.client.post(f"{path}/pause")
    await world.observe(placement, PlacementState.PAUSED)
    resumed = await world.client.put(f"{path}/state", json={"state": "running"})
    assert (resumed.status_code, resumed.json()["paused"], resumed.json()["generation"]) == (202, False, 1)


async def test_what_does_not_run_is_neither_paused_nor_taken(world: World) -> None:
    made = await world.create()
    path = f"/api/v1/instances/{made['id']}"
    for action in ("pause", "resume", "snapshot"):
        answer = await world.client.post(f"{path}/{action}")
        assert (answer.status_code, answer.json()["code"]) == (409, "not-running"), action
        assert "pending" in answer.json()["detail"]
        assert answer.json()["fix"]


async def test_the_life_of_a_snapshot(world: World) -> None:
    path, placement = await running(world, name="web", environment_variables={"TOKEN": "hunter2"})
    asked = await world.client.post(f"{path}/snapshot", json={"name": "before the upgrade"})
    assert asked.status_code == 202
    snapshot = asked.json()
    assert (snapshot["state"], snapshot["name"], snapshot["instance"], snapshot["size"]) == (
        "creating", "before the upgrade", "web", 0,
    )  # fmt: skip
    assert snapshot["placement_id"] == str(placement)
    assert snapshot["resources"] == {"vcpu": 1, "memory": 128, "disk": 1024}
    assert "hunter2" not in asked.text
    again = await world.client.post(f"{path}/snapshot")
    assert (again.status_code, again.json()["code"]) == (409, "snapshot-in-progress")
    (told,) = await world.store.placements.placements(world.node.id)
    assert [str(one) for one in told.snapshots] == [snapshot["id"]]
    assert await world.store.snapshots.taken(UUID(snapshot["id"]), MADE)
    where = f"/api/v1/snapshots/{snapshot['id']}"
    ready = (await world.client.get(where)).json()
    assert (ready["state"], ready["size"], ready["hypervisor"], ready["vmm_version"]) == (
        "ready", 123456, "qemu", "7.2.9",
    )  # fmt: skip
    assert ready["ready_at"].endswith("Z")
    assert (await world.client.get("/api/v1/snapshots")).json() == {"items": [ready], "next_cursor": None}

    gone = await world.client.delete(where)
    assert (gone.status_code, gone.json()["state"]) == (202, "deleting")
    assert await world.store.snapshots.deleting(world.node.id, []) == {UUID(snapshot["id"])}
    await world.store.snapshots.removed(UUID(snapshot["id"]))
    assert (await world.client.get(where)).json()["state"] == "deleted"
    assert (await world.client.get("/api/v1/snapshots")).json()["items"] == []
    deleted = await world.client.get("/api/v1/snapshots", params={"state": "deleted"})
    assert [one["id"] for one in deleted.json()["items"]] == [snapshot["id"]]
    kinds = {event["subject_kind"] for event in (await world.client.get(f"{path}/events")).json()["items"]}
    assert kinds == {"instance", "placement", "snapshot"}


async def test_lists_by_instance_and_in_pages(world: World) -> None:
    one, _ = await running(world)
    other = f"/api/v1/instances/{(await world.create())['id']}"
    for placement in await world.place():
        await world.observe(placement, PlacementState.RUNNING)
    first, second, third = await taken(world, one), await taken(world, other), await taken(world, one)
    mine = {"instance_id": one.rpartition("/")[2]}
    listed = (await world.client.get("/api/v1/snapshots", params=mine)).json()["items"]
    assert [item["id"] for item in listed] == [first["id"], third["id"]]
    page = (await world.client.get("/api/v1/snapshots", params={"limit": 2})).json()
    rest = (await world.client.get("/api/v1/snapshots", params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert [item["id"] for item in page["items"] + rest["items"]] == [first["id"], second["id"], third["id"]]
    failed = (await world.client.get("/api/v1/snapshots", params={"state": "failed"})).json()
    assert failed == {"items": [], "next_cursor": None}


async def test_a_repeated_request_takes_one(world: World) -> None:
    path, _ = await running(world)
    key = {"Idempotency-Key": "once"}
    first = await world.client.post(f"{path}/snapshot", json={}, headers=key)
    again = await world.client.post(f"{path}/snapshot", json={}, headers=key)
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert len((await world.client.get("/api/v1/snapshots")).json()["items"]) == 1


async def test_a_copy_is_made_of_what_the_snapshot_was(world: World) -> None:
    path, _ = await running(
        world, name="web", environment_variables={"A": "1"}, command=["/bin/x"], stop_timeout=5,
        restart_policy={"mode": "on-failure", "max_attempts": 3}, health={"type": "tcp"},
    )  # fmt: skip
    source = (await world.client.get(path)).json()
    snapshot = await taken(world, path)
    answer = await world.client.post("/api/v1/instances", json={"snapshot_id": snapshot["id"], "name": "copy"})
    assert answer.status_code == 201, answer.text
    copy = answer.json()
    same = (
        "image_id", "resources", "default_port", "environment_variables", "command", "stop_timeout", "restart_policy",
        "health",
    )  # fmt: skip
    assert {key: copy[key] for key in same} == {key: source[key] for key in same}
    assert (copy["name"], copy["snapshot_id"], copy["pinned_node_id"]) == ("copy", snapshot["id"], None)
    needed = await world.client.delete(f"/api/v1/snapshots/{snapshot['id']}")
    assert (needed.status_code, needed.json()["code"]) == (409, "snapshot-needed")
    assert "copy" in needed.json()["detail"]
    await world.place()
    found = (await world.client.get(f"/api/v1/instances/{copy['id']}")).json()
    assert (found["state"], found["node_id"]) == ("starting", str(world.node.id))
    (shown,) = (await world.client.get(f"/api/v1/instances/{copy['id']}/placements")).json()["items"]
    assert shown["snapshot_id"] == snapshot["id"]
    # What a process does not carry with it may be another.
    other = {"snapshot_id": snapshot["id"], "default_port": 81, "stop_timeout": 1, "health": None}
    made = (await world.client.post("/api/v1/instances", json=other)).json()
    assert (made["default_port"], made["stop_timeout"], made["health"]["type"]) == (81, 1.0, "none")
    # Said again as it is, everything else is accepted.
    said = {"snapshot_id": snapshot["id"], "resources": {"vcpu": 1, "memory": "128MiB"}, "command": ["/bin/x"]}
    assert (await world.client.post("/api/v1/instances", json=said)).status_code == 201


async def test_what_a_copy_can_not_be_is_named(world: World) -> None:
    path, _ = await running(world, environment_variables={"A": "1"})
    snapshot = (await taken(world, path))["id"]
    for changes, field in (
        ({"image_id": str(await world.image())}, "snapshot_id"),
        ({"snapshot_id": str(fresh_id())}, "snapshot_id"),
        ({"snapshot_id": "before"}, "snapshot_id"),
        ({"resources": {"vcpu": 2, "memory": 128}}, "resources.vcpu"),
        ({"resources": {"vcpu": 1, "memory": "1GiB"}}, "resources.memory"),
        ({"resources": {"vcpu": 1, "memory": 128, "disk": 2048}}, "resources.disk"),
        ({"resources": {"vcpu": 1, "memory": "lots"}}, "resources.memory"),
        ({"environment_variables": {"A": "2"}}, "environment_variables"),
        ({"environment_variables": {}}, "environment_variables"),
        ({"command": ["/bin/other"]}, "command"),
        ({"node_id": str(fresh_id())}, "node_id"),
    ):
        answer = await world.client.post("/api/v1/instances", json={"snapshot_id": snapshot, **changes})
        assert answer.status_code == 422, answer.text
        assert answer.json()["field"] == field, changes
        assert answer.json()["fix"]
    assert len((await world.client.get("/api/v1/instances")).json()["items"]) == 1


async def test_going_back_is_confirmed(world: World) -> None:
    path, placement = await running(world)
    snapshot = (await taken(world, path))["id"]
    refused = await world.client.post(f"{path}/restore", json={"snapshot_id": snapshot})
    assert (refused.status_code, refused.json()["code"]) == (409, "confirmation-needed")
    assert "writable layer" in refused.json()["detail"]
    body = {"snapshot_id": snapshot, "confirm": True, "stop_timeout": 3}
    back = await world.client.post(f"{path}/restore", json=body)
    assert back.status_code == 202
    assert (back.json()["generation"], back.json()["snapshot_id"]) == (2, snapshot)
    (told,) = await world.store.placements.placements(world.node.id)
    assert (told.wanted, told.stop_timeout) == (False, 3.0)
    await world.observe(placement, PlacementState.REMOVED)
    await world.place()
    (told,) = await world.store.placements.placements(world.node.id)
    assert (told.wanted, str(told.restore)) == (True, snapshot)
    # What has ended loses nothing.
    await world.observe(told.id, PlacementState.RUNNING)
    await world.client.post(f"{path}/stop")
    await world.observe(told.id, PlacementState.REMOVED)
    assert (await world.client.post(f"{path}/restore", json={"snapshot_id": snapshot})).status_code == 202


async def test_only_a_ready_one_is_restored(world: World) -> None:
    path, _ = await running(world)
    creating = (await world.client.post(f"{path}/snapshot")).json()["id"]
    for answer in (
        await world.client.post("/api/v1/instances", json={"snapshot_id": creating}),
        await world.client.post(f"{path}/restore", json={"snapshot_id": creating, "confirm": True}),
    ):
        assert (answer.status_code, answer.json()["field"]) == (409, "snapshot_id")
        assert "creating" in answer.json()["detail"]
    await world.store.snapshots.failed(UUID(creating), "the disk is full")
    answer = await world.client.post("/api/v1/instances", json={"snapshot_id": creating})
    assert (answer.status_code, answer.json()["code"]) == (409, "snapshot-not-ready")
    assert "the disk is full" in answer.json()["detail"]
    other = await world.create(resources={"vcpu": 1, "memory": 256})
    snapshot = (await taken(world, path))["id"]
    answer = await world.client.post(f"/api/v1/instances/{other['id']}/restore", json={"snapshot_id": snapshot})
    assert answer.status_code == 422


async def test_labels_are_checked(world: World) -> None:
    path, _ = await running(world)
    for name in ("", "a\nb", "x" * 101, "bell\x07", "a\n"):
        answer = await world.client.post(f"{path}/snapshot", json={"name": name})
        assert (answer.status_code, answer.json()["field"]) == (422, "name"), repr(name)
    assert (await world.client.post(f"{path}/snapshot", json={"label": "x"})).json()["field"] == "label"


async def test_nothing_that_is_not_there(world: World) -> None:
    missing = fresh_id()
    for method, path, body in [
        ("POST", f"/api/v1/instances/{missing}/pause", {}),
        ("POST", f"/api/v1/instances/{missing}/resume", {}),
        ("POST", f"/api/v1/instances/{missing}/snapshot", {}),
        ("POST", f"/api/v1/instances/{missing}/restore", {"snapshot_id": str(missing)}),
        ("GET", f"/api/v1/snapshots/{missing}", None),
        ("DELETE", f"/api/v1/snapshots/{missing}", None),
    ]:
        answer = await world.client.request(method, path, json=body)
        assert answer.status_code == 404, path
        assert str(missing) in answer.json()["detail"]
