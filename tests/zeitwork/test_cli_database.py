"""``zeitwork db`` as a person uses it, on real servers and data directories."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import structlog
import trio

from tests.zeitwork.store.own_server import OwnServer, own_servers
from zeitwork import ownership
from zeitwork.cli import main
from zeitwork.cluster import Membership, MembershipFile
from zeitwork.config import Config
from zeitwork.store import open_store
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.system_user import create_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded Postgres needs root to become its system user")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command configures the logs of its process; this one is the tests' and has yet more to do."""
    before = structlog.get_config()
    monkeypatch.setattr("zeitwork.logs.configure", lambda *_: None)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


class Machine:
    """A host's directories, and what its database holds."""

    def __init__(self, root: Path) -> None:
        self.config = Config(data_dir=root / "data")
        self.file = root / "host.toml"
        self.file.write_text(f'data_dir = "{self.config.data_dir}"\n')

    def server(self) -> EmbeddedServer:
        return EmbeddedServer(self.config.paths.postgres, self.config.paths.run / "postgres")

    def db(self, *arguments: str) -> int:
        return main(["db", *arguments, "--config", str(self.file)])

    def image(self, name: str, dsn: str | None = None) -> None:
        async def add() -> None:
            async with Reached(self, dsn) as where, open_store(where) as store:
                await store.images.create(name)

        trio.run(add)

    def images(self, dsn: str | None = None) -> set[str]:
        async def look() -> set[str]:
            async with Reached(self, dsn) as where, open_store(where) as store:
                return {image.source for image in (await store.images.list()).items}

        return trio.run(look)


class Reached:
    """The DSN that is given, or that of the machine's own server while it runs for this."""

    def __init__(self, machine: Machine, dsn: str | None) -> None:
        self._dsn = dsn
        self._server = None if dsn else machine.server()

    async def __aenter__(self) -> str:
        if self._server is None:
            assert self._dsn is not None
            return self._dsn
        await self._server.start()
        return self._server.dsn

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await self._server.stop()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    create_user()
    for name in [name for name in os.environ if name.startswith("ZEITWORK_")]:
        monkeypatch.delenv(name)
    root = Path(tempfile.mkdtemp(prefix="zwt-", dir="/var/tmp"))
    root.chmod(0o755)
    made = Machine(root)
    try:
        yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(made.config.paths.run, ignore_errors=True)


@pytest.fixture
def own(public_directory: Path) -> Iterator[OwnServer]:
    with own_servers(public_directory / uuid4().hex[:6], create_user()) as (server,):
        server.make()
        server.start()
        server.make_database()
        yield server


def refused(machine: Machine, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert machine.db(*arguments) == 1
    return capsys.readouterr().err


def test_back_to_a_backup(machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine.image("before")
    file = tmp_path / "backup.dump"
    # While the host runs, and while it does not.
    with ownership.hold(machine.config.data_dir):

        async def while_it_runs() -> int:
            async with machine.server().running():
                command = [sys.executable, "-m", "zeitwork", "db", "backup", str(file), "--config", str(machine.file)]
                return (await trio.run_process(command)).returncode

        assert trio.run(while_it_runs) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "exists" in refused(machine, capsys, "backup", str(file))
    assert machine.db("backup", str(file), "--overwrite", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == file.stat().st_size
    machine.image("after")
    assert machine.images() == {"before", "after"}
    shutil.rmtree(machine.config.paths.run)
    assert machine.db("restore", str(file)) == 0
    said = capsys.readouterr().out
    assert told["cluster"] in said
    assert "replaced-" in said
    assert not machine.config.paths.run.exists()
    assert machine.images() == {"before"}


def test_on_a_new_machine(machine: Machine, tmp_path: Path) -> None:
    machine.image("before")
    file = tmp_path / "backup.dump"
    assert machine.db("backup", str(file)) == 0
    shutil.rmtree(machine.config.data_dir)
    assert machine.db("restore", str(file)) == 0
    assert machine.images() == {"before"}


def test_the_move_to_a_postgres_of_ones_own(
    machine: Machine, own: OwnServer, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.image("kept")
    assert machine.db("move", "--to", own.dsn()) == 0
    said = capsys.readouterr().out
    assert "database_url" in said
    assert "own secret" not in said
    assert machine.images(own.dsn()) == {"kept"}
    # The old one does not start by mistake, and neither is anything done to it.
    assert "was moved to owner@127.0.0.1" in refused(machine, capsys, "backup", "/nowhere/file")
    assert "was moved to" in refused(machine, capsys, "move", "--to", own.dsn())
    assert not list(machine.config.paths.postgres.glob("*.dump"))


def test_a_move_that_fails_leaves_all_as_it_was(
    machine: Machine, own: OwnServer, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.image("kept")
    own.kill()
    assert "cannot be used" in refused(machine, capsys, "move", "--to", own.dsn())
    assert "cannot be read" in refused(machine, capsys, "move", "--to", "nonsense")
    own.start()
    assert "cannot be used" in refused(machine, capsys, "move", "--to", own.dsn("none"))
    assert machine.images() == {"kept"}
    # One that was in the middle when it was told to end.
    command = [sys.executable, "-m", "zeitwork", "db", "move", "--to", own.dsn(), "--config", str(machine.file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as child:
        child.send_signal(signal.SIGTERM)
        child.wait(120)
    left = {path.name for path in machine.config.paths.postgres.iterdir()}
    assert not left & {"moving.dump", "moved"}
    assert machine.images() == {"kept"}
    assert machine.db("move", "--to", own.dsn()) == 0


def test_a_restore_into_a_postgres_of_ones_own(
    machine: Machine, own: OwnServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.image("kept")
    file = tmp_path / "backup.dump"
    assert machine.db("backup", str(file)) == 0
    assert machine.db("restore", str(file), "--database-url", own.dsn()) == 0
    assert machine.images(own.dsn()) == {"kept"}
    assert "already" in refused(machine, capsys, "restore", str(file), "--database-url", own.dsn())


def test_where_there_is_nothing_to_do(machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "backup.dump"
    assert "there is no database" in refused(machine, capsys, "backup", str(file))
    assert "there is no database" in refused(machine, capsys, "move", "--to", "host=nowhere")
    assert not machine.config.data_dir.exists()
    machine.file.write_text(machine.file.read_text() + 'database_url = "host=db"\n')
    assert "pg_dump" in refused(machine, capsys, "backup", str(file))
    assert "of its own already" in refused(machine, capsys, "move", "--to", "host=nowhere")
    machine.file.write_text(f'data_dir = "{machine.config.data_dir}"\n')
    MembershipFile(machine.config.data_dir).save(Membership(uuid4(), None, ("192.0.2.1:7946",), "192.0.2.2:7946"))
    for command in (("backup", str(file)), ("restore", str(file)), ("move", "--to", "host=db")):
        assert "192.0.2.1:7946" in refused(machine, capsys, *command)
    assert not file.exists()


def test_a_restore_under_a_running_host_is_refused(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.image("kept")
    file = tmp_path / "backup.dump"
    assert machine.db("backup", str(file)) == 0
    capsys.readouterr()
    with ownership.hold(machine.config.data_dir):
        assert "in use by another zeitwork process" in refused(machine, capsys, "restore", str(file))
        assert "in use by another zeitwork process" in refused(machine, capsys, "move", "--to", "host=db")
    file.write_bytes(b"PGDMP nonsense")
    assert "is no backup" in refused(machine, capsys, "restore", str(file))
    assert machine.images() == {"kept"}
