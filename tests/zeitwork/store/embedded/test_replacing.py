"""Other data for an embedded server, with real servers: all or nothing, and nothing is deleted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import trio

from actors.model.errors import Conflict, Failed
from zeitwork.store.embedded import EmbeddedServer, postmaster, replacing
from zeitwork.store.embedded.holding import mark_moved, moved_to, unmark_moved
from zeitwork.store.embedded.replacing import replace_data
from zeitwork.store.system_user import create_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded server needs root to become its system user")


@pytest.fixture
def base(public_directory: Path) -> Iterator[Path]:
    user = create_user()
    path = public_directory / uuid4().hex[:8]
    path.mkdir(mode=0o755)
    yield path
    for data in (*path.glob("pg/data-*"), *path.glob("pg/restore/data-*")):
        assert postmaster.servers(data, user.pw_uid) == [], "a server was left running"


def _server(base: Path) -> EmbeddedServer:
    return EmbeddedServer(base / "pg", base / "run", overrides={"fsync": "off"})


def _write(word: str, dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table word (word text)")
        connection.execute("insert into word values (%s)", (word,))
    return word


async def _fill(word: str, dsn: str) -> str:
    return await trio.to_thread.run_sync(_write, word, dsn)


async def _read(base: Path) -> str:
    async with _server(base).running() as server:
        with psycopg.connect(server.dsn) as connection:
            row = connection.execute("select word from word").fetchone()
            assert row is not None
            return str(row[0])


async def _old(base: Path) -> None:
    async with _server(base).running() as server:
        _write("old", server.dsn)


def _names(base: Path) -> set[str]:
    return {path.name.partition("-")[0] for path in (base / "pg").iterdir()}


async def test_new_data_take_the_place_of_the_old_which_are_kept(base: Path) -> None:
    await _old(base)
    result, kept = await replace_data(base / "pg", base / "run", lambda dsn: _fill("new", dsn))
    assert result == "new"
    assert await _read(base) == "new"
    (aside,) = kept
    assert _names(base) == {"bin", "conf", "data", "lock", "log", "replaced"}
    (present,) = (base / "pg").glob("data-*")
    # What was there is whole.
    present.rename(base / "pg" / "replaced-by-hand")
    aside.rename(present)
    assert await _read(base) == "old"


async def test_on_a_machine_that_had_none(base: Path) -> None:
    assert await replace_data(base / "pg", base / "run", lambda dsn: _fill("new", dsn)) == ("new", ())
    assert await _read(base) == "new"


async def test_what_fails_or_is_cancelled_changes_nothing(base: Path) -> None:
    await _old(base)

    async def fails(dsn: str) -> str:
        await _fill("half", dsn)
        raise Failed("no")

    with pytest.raises(Failed, match="no"):
        await replace_data(base / "pg", base / "run", fails)

    async def hangs(dsn: str) -> str:
        await _fill("half", dsn)
        scope.cancel()
        await trio.sleep_forever()
        raise AssertionError

    with trio.CancelScope() as scope:
        await replace_data(base / "pg", base / "run", hangs)
    assert scope.cancelled_caught
    assert _names(base) == {"bin", "conf", "data", "lock", "log"}
    assert await _read(base) == "old"


async def test_not_under_a_server_that_runs(base: Path) -> None:
    await _old(base)
    async with _server(base).running():
        with pytest.raises(Conflict, match="another process uses"):
            await replace_data(base / "pg", base / "run2", lambda dsn: _fill("new", dsn))
    assert await _read(base) == "old"


async def test_no_empty_database_after_a_swap_that_was_cut_short(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await _old(base)

    def dies(directory: Path, staging: Path) -> tuple[Path, ...]:
        (present,) = directory.glob("data-*")
        present.rename(directory / f"replaced-now-{present.name}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(replacing, "_swap", dies)
        with pytest.raises(KeyboardInterrupt):
            await replace_data(base / "pg", base / "run", lambda dsn: _fill("new", dsn))
    with pytest.raises(Failed, match="was cut short") as caught:
        await _read(base)
    assert "db restore" in (caught.value.fix or "")
    await replace_data(base / "pg", base / "run", lambda dsn: _fill("newer", dsn))
    assert await _read(base) == "newer"


_CHILD = textwrap.dedent("""
    import sys, trio
    from pathlib import Path
    from zeitwork.store.embedded.replacing import replace_data

    async def fill(dsn):
        print("filling", flush=True)
        await trio.sleep_forever()

    base = Path(sys.argv[1])
    trio.run(replace_data, base / "pg", base / "run", fill)
""")


def _kill_while_filling(base: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _CHILD, str(base)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert any("filling" in line for line in child.stdout)
        child.send_signal(signal.SIGKILL)


async def test_after_one_that_was_killed_the_old_are_there_and_another_works(base: Path) -> None:
    await _old(base)
    await trio.to_thread.run_sync(_kill_while_filling, base)
    assert await _read(base) == "old"
    await replace_data(base / "pg", base / "run", lambda dsn: _fill("new", dsn))
    assert await _read(base) == "new"
    assert "restore" not in _names(base)


async def test_a_database_that_was_moved_does_not_start(base: Path) -> None:
    await _old(base)
    mark_moved(base / "pg", "zeitwork@db:5432/zeitwork")
    assert moved_to(base / "pg") == "zeitwork@db:5432/zeitwork"
    with pytest.raises(Failed, match="was moved to zeitwork@db:5432/zeitwork") as caught:
        async with _server(base).running():
            pass
    assert caught.value.code == "database-moved"
    with pytest.raises(Failed, match="was moved"):
        await replace_data(base / "pg", base / "run", lambda dsn: _fill("new", dsn))
    unmark_moved(base / "pg")
    assert await _read(base) == "old"
