"""``nodes add``, ``nodes rm`` and ``leave`` as separate processes against the endpoint, and without one."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest

from actors.model.errors import Conflict, InvalidInput
from actors.model.states import NodeState
from tests.zeitwork.api.conftest import World
from tests.zeitwork.api.test_command_line import loaded, zeitwork
from tests.zeitwork.store.world import host, instance, leading, place, ready_image
from zeitwork import ownership
from zeitwork.cli import main
from zeitwork.cli.membership import resolve
from zeitwork.config import load
from zeitwork.leave import forget, forget_cluster, has_joined
from zeitwork.trust.invitation import Code

CODE = str(Code(bytes(range(16)), bytes(16)))


async def test_a_host_is_added_and_its_failure_told(world: World) -> None:
    made = await loaded(world, "nodes", "add", "h2", "192.0.2.2:7000", CODE, "--no-wait", "--timeout", "60")
    assert (made["hostname"], made["state"], made["ip_address"]) == ("h2", "booting", "192.0.2.2")
    (one,) = await world.store.invitations.expected()
    assert (one.address, one.code, one.timeout) == ("192.0.2.2:7000", CODE, 60)
    told = await zeitwork(world, "nodes", "add", "h3", "[2001:db8::3]", "--no-wait")
    assert told == "h3 is booting: to be invited at [2001:db8::3]:7946\n"
    await world.store.invitations.give_up(one, "not joined within 60 s", await leading(world.store))
    assert "error" in await zeitwork(world, "nodes")
    for wrong, said in (
        (("h4", "192.0.2.4", "zwi1_nonsense"), "incomplete or was changed"),
        (("h4", "192.0.2.4:port"), "is not ADDRESS"),
        (("h4", "no.such.host.invalid"), "can't be looked up"),
        (("h 4", "192.0.2.4"), "hostname"),
        (("h4", "192.0.2.4", "--timeout", "5"), "5 is not in the range"),
        (("h3", "192.0.2.4"), "expected already"),
    ):
        assert said in await zeitwork(world, "nodes", "add", *wrong, "--no-wait", fails=True)


async def test_waiting_ends_with_the_reason(world: World) -> None:
    """Nobody leads in this test: what is given up is so by hand."""
    made = await loaded(world, "nodes", "add", "h2", "192.0.2.2", "--no-wait")
    (one,) = await world.store.invitations.expected()
    await world.store.invitations.give_up(one, "the code is wrong", await leading(world.store))
    # Asked for again it is the same node, which is told to be what it is.
    await loaded(world, "uncordon", made["id"])
    (one,) = await world.store.invitations.expected()
    assert str(one.node_id) == made["id"]


async def test_a_host_is_removed_with_what_ran_there_only_when_that_is_meant(world: World, database_url: str) -> None:
    other = await world.store.nodes.register(host(hostname="h2"))
    await world.store.nodes.record_capacity(other.id, world.node.capacity)  # type: ignore[arg-type]
    other = await world.store.nodes.set_state(other.id, NodeState.READY)
    row = await instance(world.store, await ready_image(world.store, other))
    await place(world.store, row, other)
    # However long the commands take that are run until it is said to be dead.
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update nodes set last_seen_at = now() + interval '1 hour' where id = %s", (other.id,))
    assert "1 placements are still on h2" in await zeitwork(world, "nodes", "rm", "h2", fails=True)
    # A program that does not say that it means it is not asked.
    assert "add --yes" in await zeitwork(world, "nodes", "rm", "h2", "--dead", fails=True)
    assert "h2 is alive" in await zeitwork(world, "nodes", "rm", "h2", "--dead", "--yes", fails=True)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update nodes set last_seen_at = now() - interval '1 hour' where id = %s", (other.id,))
    assert await zeitwork(world, "nodes", "rm", "h2", "--dead", "--yes") == "h2 is removed\n"
    assert "there is no node" in await zeitwork(world, "nodes", "rm", "h2", fails=True)
    assert (await world.store.instances.get(row.id)).generation == 2


async def test_leaving_says_why_not(world: World) -> None:
    assert "can't leave" in await zeitwork(world, "leave", fails=True)


def test_leaving_without_a_process_takes_force_and_a_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = ["--socket", str(tmp_path / "none.sock")]
    assert main(["leave", *nobody]) == 1
    assert "no host answers" in capsys.readouterr().err
    assert main(["leave", "--force", "--data-dir", str(tmp_path / "none"), *nobody]) == 1
    assert ("needs root" if os.geteuid() else "does not exist") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.2", ("192.0.2.2", 7946)),
        ("192.0.2.2:80", ("192.0.2.2", 80)),
        ("2001:db8::2", ("2001:db8::2", 7946)),
        ("[2001:db8::2]", ("2001:db8::2", 7946)),
        ("[2001:db8::2]:80", ("2001:db8::2", 80)),
    ],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert resolve(text) == found


@pytest.mark.parametrize("text", ["", ":80", "192.0.2.2:0", "192.0.2.2:65536", "a b", "[::1", "h2:80:90", "https://h2"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve(text)
    assert caught.value.field == "address"


# ---- without a process


def joined(data: Path) -> None:
    (data / "trust").mkdir(parents=True)
    for name in ("trust/cluster.json", "trust/host.pem", "host-id", "epoch"):
        (data / name).write_text("x")
    (data / "images").mkdir()


def test_what_makes_a_host_one_of_a_cluster_is_forgotten(tmp_path: Path) -> None:
    joined(tmp_path)
    config = load({"data_dir": str(tmp_path)})
    assert has_joined(config)
    for _ in range(2):
        forget(tmp_path)
        assert [one.name for one in tmp_path.iterdir()] == ["images"]
    assert not has_joined(config)
    assert has_joined(load({"data_dir": str(tmp_path), "database_url": "postgresql://db/z"}))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it looks for what runs here")
async def test_a_host_whose_process_runs_or_that_has_the_database_forgets_nothing(tmp_path: Path) -> None:
    joined(tmp_path)
    config = load({"data_dir": str(tmp_path), "run_dir": str(tmp_path / "run")})
    with ownership.hold(tmp_path), pytest.raises(Conflict) as caught:
        await forget_cluster(config)
    assert caught.value.code == "data-dir-in-use"
    (tmp_path / "postgres").mkdir()
    with pytest.raises(Conflict, match="carries a database"):
        await forget_cluster(config)
    assert (tmp_path / "host-id").exists()
    (tmp_path / "postgres").rmdir()
    assert await forget_cluster(config) == 0
    assert not (tmp_path / "host-id").exists()
