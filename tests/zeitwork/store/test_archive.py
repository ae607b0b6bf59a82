"""Backups with real servers: whole, of one moment, restored in one transaction on servers of other versions too."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo

from actors.model.errors import Conflict, Failed, InvalidInput, Problem, Unavailable
from actors.model.states import NodeState
from tests.zeitwork.store.own_server import own_servers
from tests.zeitwork.store.test_trust import token_of
from tests.zeitwork.store.world import instance, ready_image, ready_node, running
from zeitwork.store import Store, archive, migrate, open_store
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.embedded.settings import dsn as socket_dsn
from zeitwork.store.rows import HostRegistration
from zeitwork.store.system_user import require_user
from zeitwork.store.trust import Trust

AWKWARD = 'it\'s\ta \\. "b" \n\\N\nCOPY a (b) FROM stdin;\n\\.\nü\u2028'

#: Columns that a restore changes, of hosts and tokens.
CHANGED = {"state", "reason", "updated_at", "down_since", "replace_after", "revoked_at"}


@pytest.fixture
def empty(postgres_server: EmbeddedServer) -> Iterator[str]:
    name = f"t_{uuid4().hex}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"create database {name} template template0".encode())
        yield make_conninfo(postgres_server.dsn, dbname=name)
        connection.execute(f"drop database {name} with (force)".encode())


def everything(dsn: str) -> dict[str, list[str]]:
    """Return every row of every table, but for what a restore itself changes and says of that."""
    with psycopg.connect(dsn) as connection:
        names = [row[0] for row in connection.execute("select tablename from pg_tables where schemaname = 'public'")]
        assert len(names) > 15
        return {
            name: sorted(
                json.dumps({key: value for key, value in row[0].items() if key not in CHANGED}, sort_keys=True)
                for row in connection.execute(f"select to_jsonb(t) from public.{name} t".encode())
                if row[0].get("who") != archive.WHO
            )
            for name in names
        }


def files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def fill(store: Store) -> None:
    node, _, _ = await running(store, environment={"SECRET": AWKWARD}, name="shop")
    await instance(store, await ready_image(store, node, "registry.example/other:2"), name="waits")
    await Trust(store.units).authority()


async def test_all_is_back_on_a_server_of_ones_own(
    store: Store, database_url: str, tmp_path: Path, public_directory: Path
) -> None:
    await fill(store)
    file = tmp_path / "backup.dump"
    content = await archive.dump(database_url, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert files(tmp_path) == [file]
    assert content == await archive.describe(file)
    assert (content.cluster, content.schema) == ((await store.cluster.identity()).id, len(migrate.load()))
    assert content.taken.endswith("UTC")
    before = everything(database_url)
    with own_servers(public_directory / uuid4().hex[:6], require_user()) as (own,):
        own.make()
        own.start()
        own.make_database()
        assert await archive.restore(file, own.dsn()) == content
        assert everything(own.dsn()) == before
        async with open_store(own.dsn()) as there:
            # It works there: rules and sequences are as they were.
            node = await ready_node(there)
            row = await instance(there, await ready_image(there, node), name="new")
            assert (await there.instances.get(row.id)).name == "new"
            with pytest.raises(Problem):
                await instance(there, await ready_image(there, node), name="new")
            events = await there.events.list(limit=1000)
            assert "cluster.restored" in {event.what for event in events}
            assert len({event.id for event in events}) == len(events)
        # A second time it is not empty, and that is told.
        with pytest.raises(Conflict, match="this cluster's already"):
            await archive.restore(file, own.dsn())


async def test_a_restore_that_fails_leaves_nothing(
    store: Store, database_url: str, empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store)
    file = tmp_path / "backup.dump"
    await archive.dump(database_url, file)
    whole = file.read_bytes()
    for size in (0, 3, 200, len(whole) // 2, len(whole) - len(whole) // 8, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(InvalidInput) as caught:
            await archive.restore(file, empty)
            pytest.fail(f"{size} of {len(whole)} bytes were taken for a backup")
        assert caught.value.field == "file"
    file.write_bytes(whole)

    def fails(*_: object) -> None:
        raise psycopg.errors.DiskFull("no space")

    with monkeypatch.context() as patched:
        patched.setattr(archive, "record", fails)
        with pytest.raises(Failed, match="no space is left"):
            await archive.restore(file, empty)
    with monkeypatch.context() as patched:
        # Cancelled in the middle of the rows.
        with trio.CancelScope() as scope:
            patched.setattr(archive, "_require_empty", lambda *_: trio.from_thread.run_sync(scope.cancel))
            await archive.restore(file, empty)
        assert scope.cancelled_caught
    with psycopg.connect(empty) as connection:
        assert connection.execute("select count(*) from pg_tables where schemaname = 'public'").fetchone() == (0,)
    await archive.restore(file, empty)
    assert everything(empty) == everything(database_url)


async def test_what_is_no_backup_or_of_another_version(
    store: Store, database_url: str, empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, known = tmp_path / "backup.dump", migrate.load()
    with pytest.raises(InvalidInput, match="can't be read"):
        await archive.restore(file, empty)
    file.write_text("select 1;\n")
    with pytest.raises(InvalidInput, match="is no backup"):
        await archive.restore(file, empty)
    # A dump of something else.
    subprocess.run(  # noqa: ASYNC221
        [str(archive.program("pg_dump")), "--format=custom", f"--file={file}", "--dbname", empty],
        check=True,
        timeout=60,
    )
    with pytest.raises(InvalidInput, match="not one of a Zeitwork database"):
        await archive.restore(file, empty)
    await archive.dump(database_url, file, overwrite=True)
    with monkeypatch.context() as patched:
        patched.setattr(migrate, "load", lambda: known[:-1])
        with pytest.raises(InvalidInput, match="schema version") as caught:
            await archive.restore(file, empty)
        assert caught.value.code == "database-newer"
    with pytest.raises(Conflict, match="this cluster's already"):
        await archive.restore(file, database_url)
    with psycopg.connect(empty) as connection:
        connection.execute("create table mine (a int)")
    with pytest.raises(Conflict, match="it has mine"):
        await archive.restore(file, empty)
    with pytest.raises(Failed) as refused:
        await archive.restore(file, "host=nowhere port=abc =")
    assert refused.value.field == "database_url"
    with pytest.raises(Unavailable):
        await archive.restore(file, socket_dsn(tmp_path))


async def test_an_older_backup_is_brought_up_to_date(
    postgres_server: EmbeddedServer, empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrate.load()
    name = f"t_{uuid4().hex}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
        try:
            old = make_conninfo(postgres_server.dsn, dbname=name)
            with monkeypatch.context() as patched:
                patched.setattr(migrate, "load", lambda: known[:-1])
                async with open_store(old) as store:
                    identity = await store.cluster.identity()
            file = tmp_path / "old.dump"
            assert (await archive.dump(old, file)).schema == len(known) - 1
        finally:
            connection.execute(f"drop database {name} with (force)".encode())
    assert (await archive.restore(file, empty)).cluster == identity.id
    async with open_store(empty) as store:
        assert (await store.cluster.identity()).id == identity.id


async def test_hosts_have_time_to_come_back_and_old_tokens_open_nothing(
    store: Store, database_url: str, empty: str, tmp_path: Path
) -> None:
    node, row, placement = await running(store, name="shop")
    trust = Trust(store.units)
    await token_of(trust)
    registered = HostRegistration(UUID(int=77), "other", "boot")
    other = await store.nodes.register(registered)
    file = tmp_path / "backup.dump"
    await archive.dump(database_url, file)
    await archive.restore(file, empty)
    async with open_store(empty) as there:
        for one in (node, other):
            found = await there.nodes.get(one.id)
            assert found.state is NodeState.DOWN
            assert "has not been started since" in found.reason
        (kept,) = await there.placements.placements(node.id)
        assert kept.id == placement.id
        (beat, _) = await there.presence.beats()
        assert beat.replace_in is not None
        assert beat.replace_in > 600
        # Nobody holds what runs there for lost, and a host that is started is as it was.
        assert (await there.instances.get(row.id)).state is (await store.instances.get(row.id)).state
        back = await there.nodes.register(registered)
        assert (back.id, back.state) == (other.id, NodeState.BOOTING)
        (shown,) = await Trust(there.units).tokens()
        assert shown.state == "revoked"
    # Of a database that has only been moved they go on.
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    await archive.restore(file, empty, stale=False)
    async with open_store(empty) as there:
        (shown,) = await Trust(there.units).tokens()
        assert shown.state == "valid"


async def test_a_file_that_can_not_be_written(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.dump"
    file.write_text("precious")
    with pytest.raises(Conflict, match="exists"):
        await archive.dump(database_url, file)
    with pytest.raises(Unavailable, match="the database is away"):
        await archive.dump(socket_dsn(tmp_path), file, overwrite=True)
    with trio.CancelScope() as scope:
        scope.cancel()
        await archive.dump(database_url, file, overwrite=True)
    assert file.read_text() == "precious"
    assert files(tmp_path) == [file]
    with pytest.raises(InvalidInput, match="can't be written"):
        await archive.dump(database_url, tmp_path / "none" / "backup.dump")
    with pytest.raises(InvalidInput, match="not one of a Zeitwork database"):
        await archive.dump(database_url, file, overwrite=True)  # the template's copy has no identity yet
    assert file.read_text() == "precious"


async def test_a_standby_takes_over_from_the_server_it_was_moved_to(
    store: Store, database_url: str, tmp_path: Path, public_directory: Path
) -> None:
    """As documented: two servers, synchronous, one DSN for both; the first one dies for good."""
    await fill(store)
    file = tmp_path / "backup.dump"
    await archive.dump(database_url, file)
    with own_servers(public_directory / uuid4().hex[:6], require_user(), 2) as (first, second):
        first.make()
        first.start(synchronous_standby_names="*", synchronous_commit="local")
        first.make_database()
        second.follow(first)
        second.start()
        with trio.fail_after(60):
            while first.standbys() != ["sync"]:  # noqa: ASYNC110
                await trio.sleep(0.05)
        both = (
            first.dsn()
            .replace("127.0.0.1", "127.0.0.1,127.0.0.1")
            .replace(f"port={first.port}", f"port={first.port},{second.port}")
        )
        both += " target_session_attrs=read-write options='-c synchronous_commit=on'"
        await archive.restore(file, both)
        with pytest.raises(Failed, match="standby"):
            await trio.to_thread.run_sync(archive.probe, second.dsn(), "test")
        async with open_store(both) as there:
            node = await ready_node(there)
            first.kill()
            with pytest.raises(Unavailable):
                await there.nodes.get(node.id)
            await trio.to_thread.run_sync(second.promote)
            # Nothing that was answered is lost, and the same store goes on.
            assert (await there.nodes.get(node.id)).hostname == node.hostname
            await ready_node(there)
