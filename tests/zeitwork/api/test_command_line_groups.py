"""Groups, placing and draining on the command line, against the endpoint, as separate processes."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import trio

from actors.model.image import ImageConfig
from actors.model.records import Observation
from actors.model.states import Outcome, PlacementState
from tests.zeitwork.api.conftest import World
from tests.zeitwork.api.test_command_line import acting, loaded, zeitwork

APP = "localhost:5000/web:1"


async def test_a_groups_whole_life(world: World) -> None:
    async with acting(world):
        printed = await zeitwork(world, "deploy", APP, "--name", "web", "--replicas", "3", "--memory", "64MiB")
        assert printed.count(":3000") == 6  # an address of each family for each of three
        (group,) = await loaded(world, "groups")
        assert (group["name"], group["replicas"], group["running"]) == ("web", 3, 3)
        told = (await zeitwork(world, "groups")).splitlines()
        assert told[0].split() == ["NAME", "WANTED", "RUNNING", "IMAGE", "AGE", "ID", "REASON"]
        assert told[1].split()[:3] == ["web", "3", "3"]
        listed = (await zeitwork(world, "ps")).splitlines()
        assert listed[0].split()[:3] == ["NAME", "GROUP", "STATE"]
        assert sorted(line.split()[:3] for line in listed[1:]) == [[f"web-{n}", "web", "running"] for n in range(3)]

        scaled = await loaded(world, "scale", "web", "5")
        assert (scaled["replicas"], scaled["running"]) == (5, 5)
        assert [one["name"] for one in scaled["instances"]] == [f"web-{slot}" for slot in range(5)]
        assert (await loaded(world, "scale", "web", "1"))["running"] == 1
        assert [one["name"] for one in await loaded(world, "ps")] == ["web-0"]
        # What is asked of one instance says which there are.
        for command in (("events", "web"), ("logs", "web"), ("stop", "web")):
            assert "name one of them: web-0" in await zeitwork(world, *command, fails=True)
        # Somebody's instance comes again: the group has one.
        assert (await loaded(world, "rm", "web-0", "--yes"))["state"] == "terminated"
        assert (await loaded(world, "scale", "web", "1"))["running"] == 1

        refused = await zeitwork(world, "rm", "web", fails=True)
        assert "1 instances of web are running" in refused
        assert "--yes" in refused
        assert "leave it" in await zeitwork(world, "rm", "web", "--yes", "--force", fails=True)
        assert "web is removed" in await zeitwork(world, "rm", "web", "--yes")
        assert await loaded(world, "ps") == await loaded(world, "groups") == []


async def test_what_is_asked_of_hosts_arrives(world: World) -> None:
    options = [
        "--priority", "0", "--singleton", "--region", "eu", "--require-label", "disk=ssd", "--require-label", "zone=",
        "--tolerate", "gpu", "--tolerate", "team=red", "--strategy", "spread", "--detach",
    ]  # fmt: skip
    async with acting(world):
        one = await loaded(world, "deploy", APP, *options)
        many = await loaded(world, "deploy", APP, "--name", "many", "--replicas", "2", *options)
        plain = await loaded(world, "deploy", APP, "--detach")
    for made in (one, many):
        assert (made["priority"], made["singleton"]) == (0, True)
        assert made["requirements"] == {
            "region": "eu",
            "labels": {"disk": "ssd", "zone": ""},
            "hypervisor": None,
            "architecture": None,
            "tolerations": [{"key": "gpu", "value": ""}, {"key": "team", "value": "red"}],
            "strategy": "spread",
        }
    assert (plain["priority"], plain["singleton"], plain["group"]) == (50, False, None)
    assert (many["replicas"], many["instances"]) == (2, [])


async def test_what_can_not_be_meant_is_refused(world: World) -> None:
    for arguments, told in (
        (("deploy", APP, "--replicas", "2"), "--name"),
        (("deploy", APP, "--require-label", "ssd"), "KEY=VALUE"),
        (("deploy", APP, "--require-label", "a=1", "--require-label", "a=2"), "two values"),
        (("deploy", APP, "--tolerate", "=x"), "has no key"),
        (("deploy", APP, "--replicas", "0", "--name", "web"), "--replicas"),
        (("deploy", APP, "--strategy", "random"), "binpack"),
        (("scale", "web", "3"), "zeitwork groups lists"),
        (("scale", "web", "1001"), "1000"),
        (("rm", "web"), "zeitwork ps"),
        (("drain", "nowhere"), "zeitwork nodes lists"),
        (("cordon", ""), "must not be empty"),
        (("nodes", "taint", "host-a"), "KEY"),
        (("nodes", "taint", "host-a", "a b"), "taints"),
        (("nodes", "untaint", "host-a", "gpu"), "host-a has no taint gpu"),
        (("nodes", "--json", "taint", "host-a", "gpu"), "options come behind it"),
    ):
        assert told in await zeitwork(world, *arguments, fails=True), arguments
    assert (await world.store.groups.list()).items == ()


async def test_an_instance_and_a_group_of_one_name_are_told_apart(world: World) -> None:
    async with acting(world):
        alone = await loaded(world, "deploy", APP, "--name", "web")
        group = await loaded(world, "deploy", APP, "--name", "web", "--replicas", "1")
        assert "give the id" in await zeitwork(world, "rm", "web", "--yes", fails=True)
        assert (await loaded(world, "rm", group["id"], "--yes"))["gone_at"]
        assert [one["id"] for one in await loaded(world, "ps")] == [alone["id"]]


async def test_why_members_do_not_run_is_said_in_full(world: World) -> None:
    async with acting(world):
        size = ("--name", "web", "--replicas", "2", "--memory", "3GiB")
        group = await loaded(world, "deploy", APP, *size, "--detach")
        with trio.fail_after(120):
            while (found := await world.store.groups.get(UUID(group["id"]))).running == 0 or not found.reason:  # noqa: ASYNC110
                await trio.sleep(0.02)
        (waiting,) = [one for one in await loaded(world, "ps") if one["state"] == "pending"]
        reason = waiting["reason"]
        assert reason.startswith("1 host: 1 lacks")
        refused = await zeitwork(world, "scale", "web", "2", "--timeout", "1", fails=True)
        assert f"1 of 2 running (1 pending: {reason})" in refused
        assert "zeitwork rm web gives up" in refused
        for command in ("ps", "groups"):
            assert reason in await zeitwork(world, command)


async def test_members_that_end_at_once_are_a_failure(world: World) -> None:
    ended = Observation(PlacementState.REMOVED, outcome=Outcome.EXITED, exit_status=3)

    async def crash() -> None:
        while True:
            if claimed := await world.store.images.claim_pending(world.node.id):
                await world.store.images.ready(claimed.id, f"sha256:{claimed.id.hex * 2}", ImageConfig(), 4096)
            await world.reconcile()
            await world.place()
            for placement in await world.store.placements.placements(world.node.id):
                await world.store.placements.observe(placement.id, list(PlacementState), ended)
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(crash)
        refused = await zeitwork(world, "deploy", APP, "--name", "web", "--replicas", "2", "--json", fails=True)
        nursery.cancel_scope.cancel()
    error = json.loads(refused.splitlines()[-1])["error"]
    assert (error["code"], "the app exited with status 3" in error["detail"]) == ("instance-failed", True)


async def test_cordon_taint_and_back(world: World) -> None:
    assert "zeitwork uncordon host-a" in await zeitwork(world, "cordon", "host-a")
    assert "ready, cordoned" in await zeitwork(world, "nodes")
    assert "takes instances again" in await zeitwork(world, "uncordon", str(world.node.id))
    assert (await loaded(world, "cordon", "host-a"))["desired_state"] == "cordoned"
    assert (await loaded(world, "uncordon", "host-a"))["desired_state"] == "ready"

    assert "taints gpu, team=red" in await zeitwork(world, "nodes", "taint", "host-a", "team=red", "gpu")
    tainted = await loaded(world, "nodes", "taint", "host-a", "team=blue")
    assert tainted["taints"] == [{"key": "gpu", "value": ""}, {"key": "team", "value": "blue"}]
    assert "gpu team=blue" in await zeitwork(world, "nodes", "ls")
    assert "no taint team=red" in await zeitwork(world, "nodes", "untaint", "host-a", "team=red", fails=True)
    assert "taints gpu" in await zeitwork(world, "nodes", "untaint", "host-a", "team")
    assert "no taints" in await zeitwork(world, "nodes", "untaint", "host-a", "gpu=")


async def test_what_a_host_is_stands_in_the_list(world: World) -> None:
    await world.store.nodes.record_condition(world.node.id, "qemu", 0.07)
    listed = (await zeitwork(world, "nodes")).splitlines()
    for heading in ("CPU WAIT", "REGION", "LABELS", "TAINTS", "HYPERVISOR"):
        assert heading in listed[0]
    for word in ("default", "qemu x86_64", "7%"):
        assert word in listed[1]


async def test_draining(world: World) -> None:
    async with acting(world):
        assert "host-a is draining: it is empty" in await zeitwork(world, "drain", "host-a")
        await zeitwork(world, "uncordon", "host-a")
        await zeitwork(world, "deploy", APP, "--name", "web")
        found = await loaded(world, "drain", "host-a", "--no-wait")
        assert [(one["name"], one["state"], one["reason"]) for one in found["remaining"]] == [
            ("web", "running", "running")
        ]
        assert "draining, 1 left" in await zeitwork(world, "nodes")
        refused = await zeitwork(world, "drain", "host-a", "--timeout", "1", fails=True)
        assert "host-a: 1 left: web (running)" in refused
        assert "zeitwork uncordon host-a ends it" in refused
        done: list[dict[str, Any]] = []

        async def drain() -> None:
            done.append(await loaded(world, "drain", "host-a"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await zeitwork(world, "stop", "web")
        assert (done[0]["drain"]["placements"], done[0]["remaining"]) == (0, [])


async def test_a_drain_that_never_ends_says_what_it_waits_for(world: World) -> None:
    async with acting(world):
        made = await world.create(node_id=str(world.node.id), name="db")
        await zeitwork(world, "start", "db")
        refused = await zeitwork(world, "drain", "host-a", "--json", fails=True)
        error = json.loads(refused)["error"]
        assert error["code"] == "drain-stuck"
        assert "1 on host-a can't run elsewhere: db (pinned to it)" in error["detail"]
        assert "1 left (1 can't move)" in await zeitwork(world, "nodes")
        assert (await loaded(world, "ps"))[0]["id"] == made["id"]
