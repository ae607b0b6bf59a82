from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from tests.zeitwork.api.conftest import World

SSE = {"Accept": "text/event-stream"}


async def frames(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """Yield events of a server-sent stream, comments left out."""
    frame: dict[str, Any] = {}
    async for line in lines:
        if not line and frame:
            yield frame
            frame = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            frame[name] = value


async def append(world: World, *names: str) -> None:
    for name in names:
        await world.store.events.append("test", name, "node", world.node.id, {"n": name})


async def test_pages(world: World) -> None:
    await append(world, "a", "b", "c")
    everything = (await world.client.get("/api/v1/events")).json()["items"]
    assert [event["what"] for event in everything][-3:] == ["a", "b", "c"]
    before = everything[-3]["id"]
    page = (await world.client.get("/api/v1/events", params={"after": before, "limit": 1})).json()
    assert [event["what"] for event in page["items"]] == ["b"]
    rest = (await world.client.get("/api/v1/events", params={"cursor": page["next_cursor"]})).json()
    assert [event["what"] for event in rest["items"]] == ["c"]
    assert rest["next_cursor"] is None
    newest = (await world.client.get("/api/v1/events", params={"newest": "true", "limit": 2})).json()["items"]
    assert [event["what"] for event in newest] == ["b", "c"]
    assert newest[0]["data"] == {"n": "b"}
    about = {"subject": str(world.deps.new_id())}
    assert (await world.client.get("/api/v1/events", params=about)).json()["items"] == []


BAD_PARAMETERS: list[tuple[dict[str, str], str]] = [
    ({"after": "-1"}, "after"),
    ({"after": "1", "cursor": "1"}, "cursor"),
    ({"cursor": "x"}, "cursor"),
]


async def test_bad_parameters(world: World) -> None:
    for params, field in BAD_PARAMETERS:
        answer = await world.client.get("/api/v1/events", params=params)
        assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_a_follower_gets_what_is_new_and_goes_on_where_it_left_off(world: World) -> None:
    await append(world, "before")
    with trio.fail_after(90):
        async with world.client.stream("GET", "/api/v1/events", headers=SSE) as response:
            assert response.headers["content-type"] == "text/event-stream"
            lines = response.aiter_lines()
            assert (await anext(lines)).startswith(":")
            await append(world, "one", "two")
            events = frames(lines)
            first, second = await anext(events), await anext(events)
            await append(world, "next")
            assert (await anext(events))["event"] == "next"
        assert (first["event"], second["event"]) == ("one", "two")
        data = json.loads(second["data"])
        assert data["data"] == {"n": "two"}
        assert str(data["id"]) == second["id"]

        await append(world, "three")
        again = {**SSE, "Last-Event-ID": first["id"]}
        async with world.client.stream("GET", "/api/v1/events", headers=again) as response:
            events = frames(response.aiter_lines())
            assert [(await anext(events))["event"] for _ in range(3)] == ["two", "next", "three"]


async def test_a_follower_survives_the_databases_absence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeitwork.api.events._AWAY_PAUSE_S", 0.01)
    from actors.model.errors import Unavailable

    real = world.store.events.list
    away = trio.Event()

    async def absent(**arguments: Any) -> Any:
        away.set()
        raise Unavailable("the database is away")

    with trio.fail_after(90):
        async with world.client.stream("GET", "/api/v1/events", headers=SSE) as response:
            lines = response.aiter_lines()
            await anext(lines)
            monkeypatch.setattr(world.store.events, "list", absent)
            await append(world, "while-away")
            await away.wait()
            monkeypatch.setattr(world.store.events, "list", real)
            assert (await anext(frames(lines)))["event"] == "while-away"


A_LAST_ID_THAT_IS_NONE: list[str] = ["x", "-1", "1.5", "9" * 40]


async def test_a_last_id_that_is_none(world: World) -> None:
    for value in A_LAST_ID_THAT_IS_NONE:
        answer = await world.client.get("/api/v1/events", headers={**SSE, "Last-Event-ID": value})
        assert (answer.status_code, answer.json()["field"]) == (422, "Last-Event-ID")


async def test_streams_are_bounded(world: World) -> None:
    taken = [world.app.state.slots.take() for _ in range(world.deps.streams)]
    answer = await world.client.get("/api/v1/events", headers=SSE)
    assert answer.status_code == 503
    assert answer.json()["code"] == "too-many-streams"
    assert answer.headers["retry-after"]
    world.app.state.slots.give_back(taken[0])
    with trio.fail_after(90):
        async with world.client.stream("GET", "/api/v1/events", headers=SSE) as response:
            assert response.status_code == 200
