"""The command line against the endpoint, as separate processes; a stand-in does what scheduler and host would do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from actors.model.image import ImageConfig
from actors.model.records import SnapshotMade
from actors.model.states import NodeState, PlacementState
from tests.zeitwork.api.conftest import World

MADE = SnapshotMade(3 * 1024 * 1024, "qemu", "7.2.9", "6.1.0-40/3", "Some CPU")
ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def acting(world: World) -> AsyncIterator[None]:
    """Bring about what is desired: images become ready, placements run while they are wanted and write a line."""

    async def act() -> None:
        while True:
            if claimed := await world.store.images.claim_pending(world.node.id):
                config = ImageConfig(cmd=("/app",), exposed_ports=(3000,))
                await world.store.images.ready(claimed.id, f"sha256:{claimed.id.hex * 2}", config, 4096)
            await world.reconcile()
            await world.place()
            for placement in await world.store.placements.placements(world.node.id):
                if not placement.wanted:
                    await world.observe(placement.id, PlacementState.REMOVED)
                elif placement.state is PlacementState.ASSIGNED:
                    world.console(placement.id).write_text("hello from the app\n")
                    await world.observe(placement.id, PlacementState.RUNNING)
                elif placement.paused != (placement.state is PlacementState.PAUSED):
                    state = PlacementState.PAUSED if placement.paused else PlacementState.RUNNING
                    await world.observe(placement.id, state)
                for snapshot in placement.snapshots:
                    await world.store.snapshots.taken(snapshot, MADE)
            for snapshot in await world.store.snapshots.deleting(world.node.id, []):
                await world.store.snapshots.removed(snapshot)
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(act)
        yield
        nursery.cancel_scope.cancel()


async def zeitwork(world: World, *arguments: str, stdin: bytes = b"", fails: bool = False) -> str:
    command = [sys.executable, "-m", "zeitwork", *arguments, "--socket", str(world.deps.paths.api_socket)]
    with trio.fail_after(120):
        done = await trio.run_process(
            command, cwd=ROOT, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False
        )
    assert (done.returncode != 0) == fails, done.stderr.decode()
    return (done.stderr if fails else done.stdout).decode()


async def loaded(world: World, *arguments: str) -> Any:
    return json.loads(await zeitwork(world, *arguments, "--json"))


async def test_an_apps_whole_life(world: World) -> None:
    async with acting(world):
        printed = await zeitwork(world, "deploy", "localhost:5000/web:1", "--name", "web", "-e", "A=b")
        assert ":3000" in printed
        (instance,) = await loaded(world, "ps")
        assert (instance["name"], instance["state"], instance["default_port"]) == ("web", "running", 3000)
        assert "HOST" not in await zeitwork(world, "ps")
        await world.client.post("/api/v1/nodes", json={"hostname": "host-b", "ip_address": "2001:db8::7"})
        head, row = (await zeitwork(world, "ps")).splitlines()
        assert (head.split()[:3], row.split()[:3]) == (["NAME", "STATE", "HOST"], ["web", "running", "host-a"])
        assert await zeitwork(world, "logs", "web") == "hello from the app\n"
        assert (await loaded(world, "stop", "web"))["state"] == "stopped"
        assert (await loaded(world, "start", "web"))["generation"] == 2
        refused = await zeitwork(world, "rm", "web", fails=True)
        assert "--yes" in refused
        assert (await loaded(world, "rm", "web", "--yes"))["state"] == "terminated"
        assert await loaded(world, "ps") == []
        assert [one["name"] for one in await loaded(world, "ps", "--all")] == ["web"]


async def test_pause_snapshot_and_restore(world: World) -> None:
    async with acting(world):
        await zeitwork(world, "deploy", "localhost:5000/web:1", "--name", "web", "-e", "A=b", "--memory", "128MiB")
        paused = await loaded(world, "pause", "web")
        assert (paused["state"], paused["paused"]) == ("paused", True)
        assert "paused" in await zeitwork(world, "ps")
        assert (await loaded(world, "resume", "web"))["state"] == "running"

        snapshot = await loaded(world, "snapshot", "web", "--name", "before")
        assert (snapshot["state"], snapshot["name"], snapshot["size"]) == ("ready", "before", MADE.size)
        identifier = (await zeitwork(world, "snapshot", "web")).strip()
        assert [one["id"] for one in await loaded(world, "snapshots", "ls", "--instance", "web")] == [
            snapshot["id"], identifier,
        ]  # fmt: skip
        shown = await zeitwork(world, "snapshots")
        assert "before" in shown
        assert "3 MiB" in shown

        copy = await loaded(world, "restore", "before", "--name", "copy")
        assert (copy["name"], copy["state"], copy["snapshot_id"]) == ("copy", "running", snapshot["id"])
        assert copy["environment_variables"] == {"A": "b"}
        assert ":3000" in await zeitwork(world, "restore", identifier)
        refused = await zeitwork(world, "restore", "before", "--into", "web", fails=True)
        assert "--yes" in refused
        back = await loaded(world, "restore", "before", "--into", "web", "--yes")
        assert (back["state"], back["generation"], back["snapshot_id"]) == ("running", 2, snapshot["id"])

        assert (await loaded(world, "snapshots", "rm", "before"))["state"] == "deleted"
        assert "is deleted" in await zeitwork(world, "snapshots", "rm", identifier)
        assert await loaded(world, "snapshots") == []


async def test_what_snapshots_refuse_reaches_the_person(world: World) -> None:
    assert "zeitwork snapshots lists" in await zeitwork(world, "restore", "nothing", fails=True)
    async with acting(world):
        await zeitwork(world, "deploy", "localhost:5000/web:1", "--name", "web")
        await zeitwork(world, "stop", "web")
    for command in ("pause", "resume", "snapshot"):
        told = await zeitwork(world, command, "web", fails=True)
        assert "stopped" in told
        assert "fix:" in told


async def test_images_and_nodes(world: World, tmp_path: Path) -> None:
    archive = tmp_path / "web.tar"
    archive.write_bytes(b"stand-in for an archive" * 1000)
    async with acting(world):
        one = await loaded(world, "images", "add", str(archive))
        assert (one["source"], one["status"]) == ("archive:web.tar", "ready")
        two = json.loads(await zeitwork(world, "images", "add", "-", "--json", stdin=b"x" * 3_000_000))
        assert two["source"] == "archive:stdin"
        assert len(await loaded(world, "images", "ls")) == 2
        await zeitwork(world, "images", "rm", one["id"])
        assert [image["id"] for image in await loaded(world, "images", "ls")] == [two["id"]]
        (node,) = await loaded(world, "nodes")
        assert node["resources"]["vcpu_available"] == 8
        assert "host-a" in await zeitwork(world, "nodes")


async def test_refusals_reach_the_person(world: World) -> None:
    assert "no instance" in await zeitwork(world, "stop", "nobody", fails=True)
    assert "has capital letters" in await zeitwork(world, "deploy", "localhost:5000/Web", fails=True)
    async with acting(world):
        told = await zeitwork(world, "deploy", "nginx", "--memory", "1TiB", fails=True)
    assert "resources.memory" in told
    assert "3520 MiB" in told  # capacity without the overhead of one VMM


def test_an_absent_host_is_said_plainly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zeitwork", "ps", "--socket", str(tmp_path / "none.sock")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "zeitwork run" in done.stderr


async def test_a_closed_host_is_shown_with_the_reason(world: World) -> None:
    await world.store.nodes.record_closed(world.node.id, "memory pressure: a lot")
    shown = await zeitwork(world, "nodes")
    assert "ready, closed" in shown
    assert "memory pressure: a lot" in shown


async def test_rm_does_not_wait_for_a_host_that_is_down(world: World) -> None:
    async with acting(world):
        await zeitwork(world, "deploy", "localhost:5000/web:1", "--name", "web", "-e", "A=b")
    await world.store.nodes.set_state(world.node.id, NodeState.DOWN, "silent")
    said = await zeitwork(world, "rm", "web", "--yes", "--timeout", "3", "--volumes", "delete")
    assert f"its host {world.node.hostname} is down" in said
    (instance,) = await loaded(world, "ps")
    assert instance["desired_state"] == "terminated"
    (asked,) = [
        one for one in await world.store.instances.events(UUID(instance["id"])) if one.what == "instance.desired"
    ]
    assert asked.data["volumes"] == "delete"


async def test_events_tell_what_happened(world: World) -> None:
    async with acting(world):
        await zeitwork(world, "deploy", "localhost:5000/web:1", "--name", "web", "-e", "A=b")
        await zeitwork(world, "stop", "web", "--force")
        printed = await zeitwork(world, "events", "web")
        lines = printed.splitlines()
        assert lines[0].split() == ["AGE", "WHO", "WHAT", "HOST", "DETAILS"]
        assert any("placement.state" in line and "assigned -> running" in line for line in lines)
        (asked,) = [line for line in lines if "instance.desired" in line]
        assert asked.split()[1:] == ["api", "instance.desired", "-", "desired", "stopped,", "force"]
        (placed,) = [line for line in lines if "placement.assigned" in line]
        assert all(part in placed for part in (world.node.hostname, "epoch ", "generation 1"))
        found = await loaded(world, "events", "web")
        assert [one["id"] for one in found] == sorted(one["id"] for one in found)
        assert len(lines) == len(found) + 1
        assert await loaded(world, "events", "web", "--tail", "2") == found[-2:]
        assert await loaded(world, "events", "web", "-n", "0") == []
        assert "there is no instance" in (await zeitwork(world, "events", "nobody", fails=True)).lower()
