"""Migrations: applied once, in order, under a lock; an altered or unknown schema is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo

from actors.model.errors import Failed
from actors.model.health import NO_CHECK
from actors.model.restart import ALWAYS
from zeitwork.store import open_store
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.migrate import Migration, load, migrate
from zeitwork.store.units import Units

FIRST = Migration(1, "first", "create table one (id integer)", "sum-1")
SECOND = Migration(2, "second", "create table two (id integer); insert into two values (2)", "sum-2")


@pytest.fixture
def empty_url(postgres_server: EmbeddedServer) -> Iterator[str]:
    name = f"e_{uuid4().hex}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
        yield make_conninfo(postgres_server.dsn, dbname=name)
        connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
async def units(empty_url: str):
    runner = Units(empty_url)
    yield runner
    runner.close()


def _tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
    return {row[0] for row in rows}


async def test_each_is_applied_once(units: Units, empty_url: str) -> None:
    assert await migrate(units, [FIRST]) == 1
    assert await migrate(units, [FIRST, SECOND]) == 1
    assert await migrate(units, [FIRST, SECOND]) == 0
    assert _tables(empty_url) == {"schema_migrations", "one", "two"}


async def test_one_that_fails_leaves_nothing(units: Units, empty_url: str) -> None:
    broken = Migration(2, "broken", "create table two (id integer); select nonsense", "sum-x")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        await migrate(units, [FIRST, broken])
    assert _tables(empty_url) == set()


async def test_a_changed_one_is_refused(units: Units) -> None:
    await migrate(units, [FIRST])
    with pytest.raises(Failed) as caught:
        await migrate(units, [replace(FIRST, checksum="other"), SECOND])
    assert caught.value.code == "migration-changed"
    assert "0001_first" in caught.value.detail


async def test_a_newer_database_is_refused(units: Units) -> None:
    await migrate(units, [FIRST, SECOND])
    with pytest.raises(Failed) as caught:
        await migrate(units, [FIRST])
    assert caught.value.code == "database-newer"


async def test_processes_that_start_together_take_turns(units: Units, empty_url: str) -> None:
    slow = Migration(1, "slow", "create table one (id integer); select pg_sleep(0.1)", "sum")
    counts: list[int] = []
    others = [Units(empty_url) for _ in range(3)]

    async def one(runner: Units) -> None:
        counts.append(await migrate(runner, [slow]))

    async with trio.open_nursery() as nursery:
        for runner in (units, *others):
            nursery.start_soon(one, runner)
    for runner in others:
        runner.close()
    assert sorted(counts) == [0, 0, 0, 1]


async def test_stores_that_open_together_on_an_empty_database_agree(empty_url: str) -> None:
    identities = set()

    async def one() -> None:
        async with open_store(empty_url) as store:
            identities.add((await store.cluster.identity()).id)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(one)
    assert len(identities) == 1


def test_ours_are_numbered_without_gaps() -> None:
    found = load()
    assert found[0].name == "initial"
    assert [one.version for one in found] == list(range(1, len(found) + 1))


@pytest.mark.parametrize("names", [["1_short.sql"], ["0001_a.sql", "0003_c.sql"], ["0001_a.sql", "0001_b.sql"]])
def test_wrong_numbers_are_a_mistake_of_ours(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("select 1")
    with pytest.raises(ValueError):
        load(tmp_path)


async def test_what_was_there_before_restart_policies_gets_the_default(units: Units, empty_url: str) -> None:
    steps = load()
    await migrate(units, steps[:1])
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("insert into images (id, source) values (%s, 'app')", (uuid4(),))
        connection.execute(
            "insert into instances (id, image_id, vcpu, memory, disk, default_port, stop_timeout) "
            "select gen_random_uuid(), id, 1, 128, 64, 80, 30 from images"
        )
    assert await migrate(units, steps) == len(steps) - 1
    async with open_store(empty_url) as store:
        (row,) = (await store.instances.list()).items
    assert (row.restart, row.health_check, row.restarts, row.next_try_at) == (ALWAYS, NO_CHECK, 0, None)
