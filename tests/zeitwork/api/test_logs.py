from __future__ import annotations

from pathlib import Path

import pytest
import trio

from actors.model.states import NodeDesired, NodeState, PlacementState
from actors.vm.console import rotate
from tests.zeitwork.api.conftest import CAPACITY, World
from zeitwork.api.console_reader import ConsoleReader
from zeitwork.api.deps import fresh_id
from zeitwork.store.rows import HostRegistration


def read(path: Path, tail: int | None = None) -> bytes:
    reader = ConsoleReader(path, tail)
    try:
        return b"".join(iter(reader.read_existing, b""))
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("content", "tail", "expected"),
    [
        (b"", None, b""),
        (b"", 5, b""),
        (b"a\nb\nc\n", None, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 0, b""),
        (b"a\nb\nc\n", 1, b"c\n"),
        (b"a\nb\nc", 1, b"c"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc\n", 3, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 99, b"a\nb\nc\n"),
        (b"\n\n\n", 2, b"\n\n"),
        (b"no end", 1, b"no end"),
        (b"x" * 200_000 + b"\nlast\n", 1, b"last\n"),
        (b"x" * 200_000 + b"\nlast\n", 2, b"x" * 200_000 + b"\nlast\n"),
        (b"a\n" * 100_000, 70_000, b"a\n" * 70_000),
    ],
)
def test_tail(tmp_path: Path, content: bytes, tail: int | None, expected: bytes) -> None:
    path = tmp_path / "console"
    path.write_bytes(content)
    assert read(path, tail) == expected


def test_no_file_is_an_empty_console(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == read(tmp_path / "none", 3) == b""


def test_rotated_parts_come_first(tmp_path: Path) -> None:
    path = tmp_path / "console"
    for part in (b"1\n2\n", b"3\n4\n", b"5\n6\n"):
        with path.open("ab") as file:
            file.write(part)
        if part != b"5\n6\n":
            assert rotate(path, limit=1)
    assert read(path) == b"1\n2\n3\n4\n5\n6\n"
    assert read(path, 2) == b"5\n6\n"
    assert read(path, 3) == b"4\n5\n6\n"
    assert read(path, 5) == b"2\n3\n4\n5\n6\n"
    rotate(path, limit=1)
    assert read(path, 1) == b"6\n"


def test_what_comes_after_is_new_and_rotation_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "console"
    path.write_bytes(b"old\n")
    reader = ConsoleReader(path, 1)
    assert reader.read_existing() == b"old\n"
    assert reader.read_existing() == b""
    reader.close()
    with path.open("ab") as writer:
        writer.write(b"before rotation\n")
        writer.flush()
        rotate(path, limit=1)
        writer.write(b"after rotation\n")
        writer.flush()
        assert b"".join(iter(reader.read_new, b"")) == b"before rotation\nafter rotation\n"


async def test_a_finished_log_and_its_tail(world: World) -> None:
    made = await world.create()
    path = f"/api/v1/instances/{made['id']}/logs"
    empty = await world.client.get(path)
    assert (empty.status_code, empty.content) == (200, b"")
    assert empty.headers["content-type"] == "text/plain; charset=utf-8"

    (placement,) = await world.place()
    assert (await world.client.get(path)).content == b""
    world.console(placement).write_bytes(b"one\ntwo\n\xff\xfe\n")
    answer = await world.client.get(path)
    assert answer.content == b"one\ntwo\n\xff\xfe\n"
    assert answer.headers["x-placement-id"] == str(placement)
    assert (await world.client.get(path, params={"tail": 2})).content == b"two\n\xff\xfe\n"
    assert (await world.client.head(path)).content == b""


async def test_an_earlier_try_can_be_read(world: World) -> None:
    made = await world.create()
    path = f"/api/v1/instances/{made['id']}"
    (first,) = await world.place()
    await world.observe(first, PlacementState.REMOVED)
    await world.client.post(f"{path}/restart")
    (second,) = await world.place()
    world.console(first).write_bytes(b"first\n")
    world.console(second).write_bytes(b"second\n")
    assert (await world.client.get(f"{path}/logs")).content == b"second\n"
    earlier = await world.client.get(f"{path}/logs", params={"placement_id": str(first)})
    assert earlier.content == b"first\n"
    other = await world.client.get(f"{path}/logs", params={"placement_id": str(fresh_id())})
    assert (other.status_code, other.json()["field"]) == (404, "placement_id")


async def test_of_an_instance_on_another_host_it_says_which(world: World) -> None:
    nodes = world.store.nodes
    other = await nodes.register(HostRegistration(fresh_id(), "host-b", "boot-1", version="0.1.0"))
    await nodes.record_capacity(other.id, CAPACITY)
    await nodes.set_state(other.id, NodeState.READY)
    await nodes.set_desired(world.node.id, NodeDesired.CORDONED)
    made = await world.create()
    assert await world.place() == []
    (placement,) = await world.store.placements.placements(other.id)
    for state in (PlacementState.PREPARING, PlacementState.STARTING, PlacementState.RUNNING):
        await world.observe(placement.id, state)
    for what, name in (("logs", "log"), ("metrics", "guest")):
        answer = await world.client.get(f"/api/v1/instances/{made['id']}/{what}")
        assert (answer.status_code, answer.json()["fix"]) == (421, "ask on host-b")
        assert answer.json()["detail"] == f"the instance is on host host-b, and its {name} with it"


async def test_following_until_the_instance_is_gone(world: World) -> None:
    made = await world.create()
    (placement,) = await world.place()
    console = world.console(placement)
    console.write_bytes(b"one\n")
    with trio.fail_after(90):
        async with world.client.stream(
            "GET", f"/api/v1/instances/{made['id']}/logs", params={"follow": "1"}
        ) as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "one"
            with console.open("ab") as writer:
                writer.write(b"two\n")
            assert await anext(lines) == "two"
            with console.open("ab") as writer:
                writer.write(b"last words\n")
            await world.observe(placement, PlacementState.REMOVED)
            assert [line async for line in lines] == ["last words"]


async def test_the_monitors_own_words_and_figures_can_be_read_too(world: World) -> None:
    made = await world.create()
    path = f"/api/v1/instances/{made['id']}/logs"
    (placement,) = await world.place()
    world.console(placement).with_name("vmm.log").write_bytes(bytes(9000) + b"started\n")
    world.console(placement).with_name("metrics.json").write_bytes(b'{"vmm": 1}\n')
    assert (await world.client.get(path, params={"source": "monitor"})).content == b"started\n"
    assert (await world.client.get(path, params={"source": "figures", "tail": 1})).json() == {"vmm": 1}
    assert (await world.client.get(path)).content == b""


BAD_PARAMETERS: list[tuple[dict[str, str], str]] = [
    ({"tail": "-1"}, "tail"),
    ({"tail": "all"}, "tail"),
    ({"follow": "perhaps"}, "follow"),
    ({"lines": "1"}, "lines"),
    ({"source": "thoughts"}, "source"),
]


async def test_bad_parameters(world: World) -> None:
    for params, field in BAD_PARAMETERS:
        made = await world.create()
        answer = await world.client.get(f"/api/v1/instances/{made['id']}/logs", params=params)
        assert (answer.status_code, answer.json()["field"]) == (422, field)
