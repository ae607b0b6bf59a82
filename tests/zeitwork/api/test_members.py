"""Hosts as the one that is asked knows them by gossip, beside what the database has of them and without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from actors.model.errors import Unavailable
from runtime.membership import Member, State
from tests.actors.resource_monitor.test_herald import SNAPSHOT
from tests.zeitwork.api.conftest import World
from tests.zeitwork.api.test_command_line import loaded, zeitwork
from tests.zeitwork.api.test_framework import metrics, value
from tests.zeitwork.test_members import MEMBER, Links
from zeitwork.config import Config
from zeitwork.doctor.check import Patient
from zeitwork.doctor.hosts import hosts
from zeitwork.setup.options import SetupOptions
from zeitwork.setup.tools import SystemTools


def link(world: World, *others: Member) -> None:
    assert world.deps.members is not None
    world.deps.members.linked = Links(*others)  # type: ignore[assignment]
    world.deps.members.herald.measured(SNAPSHOT, closed=True, hypervisor="qemu", now=trio.current_time())


async def answer(world: World, path: str = "/api/v1/members", **params: object) -> Any:
    found = await world.client.get(path, params=params)  # type: ignore[arg-type]
    assert found.status_code == 200, found.text
    return found.json()


async def test_without_links_there_is_the_host_itself(world: World) -> None:
    page = await answer(world)
    assert (page["linked"], page["joined"], page["health"], page["next_cursor"]) == (False, True, 0, None)
    assert page["node_id"] == str(world.node.id)
    (own,) = page["items"]
    assert (own["node_id"], own["own"], own["state"], own["load"]) == (str(world.node.id), True, "alive", None)
    (node,) = (await answer(world, "/api/v1/nodes"))["items"]
    assert node["membership"] is None


async def test_doctor_says_whom_the_host_misses(world: World, tmp_path: Path) -> None:
    async def looked() -> list[tuple[str, str, str | None]]:
        patient = Patient(config, SetupOptions.of(config), SystemTools())
        return [(one.status, one.detail, one.fix) for one in await trio.to_thread.run_sync(hosts, patient)]

    config = Config(data_dir=tmp_path / "data", socket=world.deps.paths.api_socket)
    assert await looked() == []  # alone
    link(world, replace(MEMBER, state=State.ALIVE))
    assert await looked() == [("ok", "1 other, all heard", None)]
    silent = replace(MEMBER, host=UUID(int=4), meta=b"", state=State.SUSPECT, refused=False)
    link(world, MEMBER, silent, replace(MEMBER, host=UUID(int=5), meta=b"", state=State.LEFT))
    ((status, detail, fix),) = await looked()
    assert (status, fix) == ("warn", "zeitwork run on h3; if it never comes back: zeitwork nodes rm h3 --dead")
    for part in ("h3 is dead, its process gone, for ", f"{silent.host} is suspect, not reached", "was stopped "):
        assert part in detail
    config = Config(data_dir=tmp_path / "data", socket=tmp_path / "nothing.sock")
    assert await looked() == []


async def test_others_are_shown_with_state_age_and_load(world: World) -> None:
    silent = replace(MEMBER, host=UUID(int=4), meta=b"", state=State.SUSPECT, refused=False)
    link(world, MEMBER, silent)
    page = await answer(world)
    assert [one["node_id"] for one in page["items"]] == [str(MEMBER.host), str(silent.host), str(world.node.id)]
    dead, suspect, own = page["items"]
    assert (dead["state"], dead["refused"], dead["hostname"], dead["version"]) == ("dead", True, "h3", "0.2.0")
    assert dead["load"] == {
        "cpus": 2.0,
        "load": 0.5,
        "pressure": 0.0,
        "memory": 4000,
        "memory_available": 1000,
        "closed": False,
    }
    assert (suspect["state"], suspect["hostname"], suspect["load"]) == ("suspect", None, None)
    assert (own["own"], own["load"]["closed"], own["address"]) == (True, True, "10.0.0.1:7420")
    # In pages, as every list.
    found, cursor = [], None
    while True:
        part = await answer(world, limit=1, **({"cursor": cursor} if cursor else {}))
        found += part["items"]
        cursor = part["next_cursor"]
        if cursor is None:
            break
    assert [one["node_id"] for one in found] == [one["node_id"] for one in page["items"]]
    assert (await world.client.get("/api/v1/members", params={"cursor": "nonsense"})).json()["field"] == "cursor"
    assert (await world.client.get("/api/v1/members", params={"state": "x"})).status_code == 422


async def test_nodes_have_what_gossip_knows_of_them(world: World) -> None:
    path = f"/api/v1/nodes/{world.node.id}"
    made = (await world.client.post("/api/v1/nodes", json={"hostname": "host-b", "ip_address": "10.0.0.9"})).json()
    link(world, replace(MEMBER, host=UUID(made["id"])))
    items = (await answer(world, "/api/v1/nodes"))["items"]
    own, other = items
    assert own["membership"]["state"] == "alive"
    assert own["membership"]["load"]["closed"]
    assert (other["membership"]["state"], other["membership"]["refused"]) == ("dead", True)
    assert other["membership"]["address"] == MEMBER.address
    assert (await answer(world, path))["membership"]["state"] == "alive"
    link(world)
    (_, other) = (await answer(world, "/api/v1/nodes"))["items"]
    assert other["membership"] is None


async def test_while_the_database_is_away_members_are_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> object:
        raise Unavailable("the database is away")

    monkeypatch.setattr(world.store.nodes, "list", away)
    link(world, MEMBER)
    assert (await world.client.get("/api/v1/nodes")).status_code == 503
    assert len((await answer(world))["items"]) == 2
    found = await loaded(world, "nodes")
    assert [(one["id"], one["hostname"], one["state"]) for one in found] == [
        (str(MEMBER.host), "h3", "unknown"),
        (str(world.node.id), "host-a", "unknown"),
    ]
    assert found[0]["membership"]["state"] == "dead"
    printed = await zeitwork(world, "nodes")
    assert "process gone" in printed
    assert "1000MiB/3.9GiB" in printed.replace(" ", "")


async def test_the_command_line_says_where_it_has_it_from(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    link(world, MEMBER)
    printed = await zeitwork(world, "nodes")
    assert "MEMBER" in printed
    assert "1.00/4" in printed
    assert world.deps.members is not None
    world.deps.members.linked = None
    assert "MEMBER" not in await zeitwork(world, "nodes")

    async def broken(*_: object, **__: object) -> object:
        raise RuntimeError("a bug")

    # What is wrong for another reason is not hidden.
    monkeypatch.setattr(world.store.nodes, "list", broken)
    assert "error:" in await zeitwork(world, "nodes", fails=True)


async def test_metrics_count_members(world: World) -> None:
    link(world, MEMBER, replace(MEMBER, host=UUID(int=4)))
    found = await metrics(world)
    assert value(found["zeitwork_members"], state="dead") == 2
    assert value(found["zeitwork_members"], state="alive") == 1
    assert value(found["zeitwork_members"], state="left") == 0
    assert value(found["zeitwork_member_health"]) == 3
