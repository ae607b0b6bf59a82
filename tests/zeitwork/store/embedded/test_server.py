"""The embedded server's life, with real processes: started, killed, left behind, found again."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import trio

from actors.model.errors import Conflict, Failed, Problem, Unavailable
from tests.zeitwork.store.world import until
from zeitwork.store import open_store
from zeitwork.store.embedded import EmbeddedServer, postmaster
from zeitwork.store.embedded import server as module
from zeitwork.store.system_user import create_user, find_user, require_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded server needs root to become its system user")


@pytest.fixture
def user() -> pwd.struct_passwd:
    return create_user()


@pytest.fixture
def base(public_directory: Path, user: pwd.struct_passwd) -> Iterator[Path]:
    path = public_directory / uuid4().hex[:8]
    path.mkdir(mode=0o755)
    yield path
    left = postmaster.servers(_data(path), user.pw_uid) if _data(path).exists() else []
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert left == [], "a server was left running"


def _server(base: Path, **overrides: str) -> EmbeddedServer:
    return EmbeddedServer(base / "pg", base / "run", overrides={"fsync": "off", **overrides})


def _data(base: Path) -> Path:
    return next(iter((base / "pg").glob("data-*[0-9]")), base / "pg" / "none")


def _ask(server: EmbeddedServer, query: str) -> object:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


async def test_data_outlives_the_server(base: Path, user: pwd.struct_passwd) -> None:
    async with _server(base).running() as server:
        assert _ask(server, "select current_user") == "zeitwork"
        _ask(server, "create table kept as select 42 as answer")
        pid = server.pid
        assert pid is not None
        assert postmaster.servers(_data(base), user.pw_uid)[0] == pid
    assert postmaster.servers(_data(base), user.pw_uid) == []
    assert not (base / "run" / ".s.PGSQL.5432").exists()
    assert not (_data(base) / "postmaster.pid").exists()
    async with _server(base).running() as server:
        assert _ask(server, "select answer from kept") == 42


async def test_only_root_and_the_server_come_near(base: Path, user: pwd.struct_passwd) -> None:
    async with _server(base).running() as server:
        assert stat.S_IMODE((base / "run").stat().st_mode) == 0o700
        assert (base / "run").stat().st_uid == user.pw_uid
        assert stat.S_IMODE(_data(base).stat().st_mode) == 0o700
        binaries = next((base / "pg").glob("bin-*"))
        for path in binaries.rglob("*"):
            status = path.stat()
            assert (status.st_uid, status.st_mode & 0o022) == (0, 0), path
        assert (base / "pg").stat().st_uid == 0
        # Even with the socket in reach, the server asks the kernel who calls.
        done = subprocess.run(  # noqa: ASYNC221
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", sys.executable, "-I", "-c",
             "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])",
             str(base / "run" / ".s.PGSQL.5432")],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("select auth_method from pg_hba_file_rules").fetchall() == [("peer",)]


async def test_a_killed_server_is_restarted_with_all_that_was_committed(base: Path) -> None:
    async with _server(base).running() as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.supervise)
        async with open_store(server.dsn) as store:
            nursery.start_soon(store.run)
            await until(lambda: store.metrics.listening == 1)
            image = await store.images.create("kept")
            with store.notifications.subscribe("zw_images") as hints:
                await hints.wait()
                assert server.pid is not None
                os.kill(server.pid, signal.SIGKILL)
                await until(lambda: server.restarts == 1)
                with trio.fail_after(90):
                    while not (await hints.wait()).everything:
                        pass  # the image's own notification may have come first
            assert server.problem is None
            assert (await store.images.get(image.id)).source == "kept"
        nursery.cancel_scope.cancel()


async def test_a_store_is_unavailable_while_the_server_is_away_and_heals(base: Path) -> None:
    async with _server(base).running() as server, open_store(server.dsn) as store:
        image = await store.images.create("kept")
        await server.stop()
        for _ in range(3):
            with trio.fail_after(60), pytest.raises(Unavailable) as caught:
                await store.images.get(image.id)
            assert caught.value.status == 503
        await server.start()
        assert (await store.images.get(image.id)).source == "kept"


def _ended(pid: int) -> bool:
    """Say whether a process has ended, reaped by whoever adopted it or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


_CHILD = textwrap.dedent("""
    import sys, trio, psycopg
    from pathlib import Path
    from zeitwork.store.embedded import EmbeddedServer

    async def main():
        server = EmbeddedServer(Path(sys.argv[1]) / "pg", Path(sys.argv[1]) / "run", overrides={"fsync": "off"})
        await server.start()
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("create table if not exists kept (answer integer)")
            connection.execute("insert into kept values (42)")
        print(server.pid, flush=True)
        await trio.sleep_forever()

    trio.run(main)
""")


def _start_child(base: Path) -> tuple[subprocess.Popen[str], int]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(base)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    for line in child.stdout:  # log lines come first
        if line.strip().isdigit():
            return child, int(line)
    raise AssertionError("the child did not start its server")


def _kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait(timeout=30)
    assert child.stdout is not None
    child.stdout.close()


async def test_a_server_ends_with_the_process_that_was_killed(base: Path, user: pwd.struct_passwd) -> None:
    child, pid = _start_child(base)
    _kill(child)
    await until(lambda: not postmaster.servers(_data(base), user.pw_uid))
    await until(lambda: _ended(pid))
    async with _server(base).running() as server:
        assert _ask(server, "select answer from kept") == 42


async def test_a_killed_process_is_succeeded_at_once(base: Path) -> None:
    """No waiting in between: the old server may still be shutting down when the new one is wanted."""
    for count in (1, 2, 3):
        child, _ = _start_child(base)
        _kill(child)
        async with _server(base).running() as server:
            assert _ask(server, "select count(*) from kept") == count


async def test_a_server_that_was_left_hanging_is_stopped(
    base: Path, user: pwd.struct_passwd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEFTOVER_PATIENCE", 0.2)
    child, pid = _start_child(base)
    os.kill(pid, signal.SIGSTOP)  # it cannot act on any request to stop
    _kill(child)
    async with _server(base).running() as server:
        assert _ask(server, "select answer from kept") == 42
        assert server.pid != pid
        assert _ended(pid)


async def test_a_server_left_running_is_stopped_in_order(base: Path) -> None:
    child, pid = _start_child(base)
    # Stopped together with its parent's death notice pending, then let go on: like a slow shutdown.
    os.kill(pid, signal.SIGSTOP)
    _kill(child)
    async with trio.open_nursery() as nursery:

        async def resume() -> None:
            await trio.sleep(0.2)
            os.kill(pid, signal.SIGCONT)

        nursery.start_soon(resume)
        async with _server(base).running() as server:
            assert _ask(server, "select answer from kept") == 42
    log = server.log_path.read_text()
    assert "was not properly shut down" not in log


def _as_user(user: pwd.struct_passwd) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "sleep", "120"]
    )


@pytest.mark.parametrize("content", ["", "garbage\n", "999999999\n", "{own}\n", "{recycled}\n/elsewhere\n1\n5432\n"])
async def test_a_stale_pid_file_stops_nothing(base: Path, user: pwd.struct_passwd, content: str) -> None:
    async with _server(base).running() as server:
        _ask(server, "create table kept as select 42 as answer")
    innocent = _as_user(user)
    try:
        await until(lambda: Path(f"/proc/{innocent.pid}").stat().st_uid == user.pw_uid)
        # A process of the same user with that PID would make Postgres itself refuse to start.
        text = content.format(own=os.getpid(), recycled=innocent.pid)
        for path in (_data(base) / "postmaster.pid", base / "run" / ".s.PGSQL.5432.lock"):
            path.write_text(text)
            os.chown(path, user.pw_uid, user.pw_gid)
        async with _server(base).running() as server:
            assert _ask(server, "select answer from kept") == 42
        assert innocent.poll() is None, "a process that has nothing to do with it was ended"
    finally:
        innocent.kill()
        innocent.wait(timeout=30)


async def test_two_processes_never_share_a_directory(base: Path) -> None:
    async with _server(base).running() as first:
        with pytest.raises(Conflict) as caught:
            await _server(base).start()
        assert caught.value.code == "data-dir-in-use"
        assert _ask(first, "select 1") == 1


async def test_a_missing_user_names_setup(base: Path) -> None:
    server = EmbeddedServer(base / "pg", base / "run", user="zeitwork-absent")
    with pytest.raises(Unavailable) as caught:
        await server.start()
    assert "zeitwork setup" in (caught.value.fix or "")
    assert not (base / "pg").exists()


def test_the_user_is_made_once(user: pwd.struct_passwd) -> None:
    assert create_user() == user == require_user() == find_user()
    assert user.pw_shell.endswith("nologin")
    assert user.pw_dir == "/nonexistent"
    assert find_user("zeitwork-absent") is None


async def test_a_closed_directory_is_named(base: Path) -> None:
    (base / "closed").mkdir(mode=0o700)
    server = EmbeddedServer(base / "closed" / "pg", base / "run")
    with pytest.raises(Failed) as caught:
        await server.start()
    assert f"chmod o+x {base / 'closed'}" in (caught.value.fix or "")
    assert stat.S_IMODE((base / "closed").stat().st_mode) == 0o700
    await server.stop()


async def test_a_socket_path_that_is_too_long_is_refused(base: Path) -> None:
    server = EmbeddedServer(base / "pg", base / ("x" * 100))
    with pytest.raises(Failed, match="too long"):
        await server.start()


async def test_a_server_that_cannot_start_is_quoted(base: Path) -> None:
    server = _server(base, shared_buffers="many")
    with pytest.raises(Failed) as caught:
        await server.start()
    assert 'invalid value for parameter "shared_buffers"' in caught.value.detail
    await server.stop()


async def test_data_of_another_major_version_is_left_alone(base: Path) -> None:
    old = base / "pg" / "data-12"
    old.mkdir(parents=True)
    server = _server(base)
    with pytest.raises(Failed) as caught:
        await server.start()
    assert caught.value.code == "database-version"
    assert list(old.iterdir()) == []
    await server.stop()


async def test_what_an_interrupted_start_left_is_cleared(base: Path) -> None:
    (base / "pg" / ".bin-abc").mkdir(parents=True)
    (base / "pg" / "bin-0.0.1").mkdir()
    (base / "pg" / "data-18.new" / "base").mkdir(parents=True)
    async with _server(base).running() as server:
        assert _ask(server, "select 1") == 1
    names = {path.name for path in (base / "pg").iterdir()}
    assert not names & {".bin-abc", "bin-0.0.1", "data-18.new"}


async def test_it_starts_on_the_main_thread_only(base: Path) -> None:
    server = _server(base)
    with pytest.raises(RuntimeError, match="main thread"):
        await trio.to_thread.run_sync(trio.run, server.start)


@pytest.fixture
def small_disk(base: Path) -> Iterator[Path]:
    path = base / "small"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=110m,mode=0755", "zeitwork-test", str(path)],
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip("tmpfs cannot be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True, timeout=30)


async def test_a_full_disk_at_the_first_start(small_disk: Path) -> None:
    for megabytes in (105, 70):  # no room for the binaries, then none for the data
        filler = small_disk / "filler"
        filler.write_bytes(bytes(megabytes << 20))
        server = EmbeddedServer(small_disk / "pg", small_disk / "run")
        with pytest.raises(Problem) as caught:
            await server.start()
        await server.stop()
        assert (caught.value.code, caught.value.status) == ("disk-full", 507)
        assert not list((small_disk / "pg").glob("data-*[0-9]"))
        filler.unlink()
    async with EmbeddedServer(small_disk / "pg", small_disk / "run").running() as server:
        assert _ask(server, "select 1") == 1


def _fill(path: Path) -> None:
    """Write to ``path`` until its file system is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 12)) == 1 << 12:
            pass


async def test_a_disk_that_fills_up_refuses_writes_and_recovers(small_disk: Path) -> None:
    async with (
        EmbeddedServer(small_disk / "pg", small_disk / "run").running() as server,
        open_store(server.dsn) as store,
    ):
        first = await store.images.create("before")
        filler = small_disk / "filler"
        _fill(filler)
        with pytest.raises(Problem) as caught:
            for number in range(2000):
                # Random, so that it is not compressed away, and new pages are needed soon.
                await store.images.create(f"{number} {os.urandom(1500).hex()}")
        assert caught.value.code == "disk-full"
        assert (await store.images.get(first.id)).source == "before"
        filler.unlink()
        assert (await store.images.create("again")).source == "again"
