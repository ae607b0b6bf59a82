"""A Postgres of one's own: a real server over TCP with a password, of another version where the machine has one."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psycopg

from tests.ports import free_port
from zeitwork.store.archive import program
from zeitwork.store.embedded.binaries import install
from zeitwork.trust import certificates

PASSWORD = "own secret"


def older() -> Path | None:
    """Return the programs of the oldest supported server that this machine has, None for none beside the wheel's."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if int(path.parent.name) >= 15]
    return min(found, key=lambda path: int(path.parent.name), default=None)


@dataclass
class OwnServer:
    """A primary, or with `follow` a standby of one. Nothing cuts the power, so it does not wait for the disk."""

    bin: Path
    directory: Path
    user: pwd.struct_passwd
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def dsn(self, dbname: str = "zeitwork") -> str:
        return f"host=127.0.0.1 port={self.port} user=owner password='{PASSWORD}' dbname={dbname}"

    def make(self) -> None:
        self._own_directory()
        secret = self.directory / "secret"
        secret.write_text(PASSWORD)
        os.chown(secret, self.user.pw_uid, self.user.pw_gid)
        self._program(
            "initdb", "-D", str(self.data), "-U", "admin", "--auth=scram-sha-256", f"--pwfile={secret}", "-E", "UTF8"
        )
        with (self.data / "pg_hba.conf").open("a") as hba:
            hba.write("host replication admin 127.0.0.1/32 scram-sha-256\n")

    def insist_on_tls(self) -> None:
        """Take connections over TLS only. Before it is started."""
        made = certificates.new_authority(uuid4(), certificates.now())
        for name, text in (("server.crt", made.certificate), ("server.key", made.key)):
            path = self.data / name
            path.write_text(text)
            path.chmod(0o600)
            os.chown(path, self.user.pw_uid, self.user.pw_gid)
        hba = self.data / "pg_hba.conf"
        hba.write_text("local all all scram-sha-256\nhostssl all all all scram-sha-256\n")

    def follow(self, primary: OwnServer) -> None:
        self._own_directory()
        source = f"host=127.0.0.1 port={primary.port} user=admin password='{PASSWORD}'"
        self._program("pg_basebackup", "-D", str(self.data), "-d", source, "-R", "-X", "stream", "-c", "fast")

    def start(self, **settings: str) -> None:
        given = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
        } | settings
        options = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._become(), str(self.bin / "postgres"), "-D", str(self.data), *options],
                cwd="/",
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 120
        while not self._answers():
            assert self.process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < end, (self.directory / "log").read_text()
            time.sleep(0.05)

    def make_database(self) -> None:
        """Make a role that owns a database, and is nothing else."""
        with psycopg.connect(self._admin(), autocommit=True) as connection:
            connection.execute(f"create role owner login password '{PASSWORD}'".encode())
            connection.execute("create database zeitwork owner owner")

    def promote(self) -> None:
        with psycopg.connect(self._admin(), autocommit=True) as connection:
            connection.execute("select pg_promote(true, 60)")

    def standbys(self) -> list[str]:
        with psycopg.connect(self._admin(), autocommit=True) as connection:
            return [row[0] for row in connection.execute("select sync_state from pg_stat_replication")]

    def kill(self) -> None:
        """End all of it without a word."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(90)

    def _admin(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=admin password='{PASSWORD}' dbname=postgres"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._admin(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _own_directory(self) -> None:
        self.directory.mkdir(mode=0o700)
        os.chown(self.directory, self.user.pw_uid, self.user.pw_gid)

    def _program(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [*self._become(), str(self.bin / name), *arguments], cwd="/", check=True, capture_output=True, timeout=120
        )

    def _become(self) -> list[str]:
        ids = [f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}"]
        return ["setpriv", *ids, "--clear-groups", "--pdeathsig=QUIT", "--"]


@contextmanager
def own_servers(base: Path, user: pwd.struct_passwd, count: int = 1, *, old: bool = True) -> Iterator[list[OwnServer]]:
    """Yield servers that are not made yet; end them and remove their files."""
    programs = older() if old else None
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    if programs is None:
        # The wheel's own may lie where no other user can reach them.
        programs = install(base).postgres.parent
        for name in ("pg_basebackup",):
            shutil.copy(program(name), programs / name)
            (programs / name).chmod(0o755)
    made = [OwnServer(programs, base / f"own-{number}", user) for number in range(count)]
    try:
        yield made
    finally:
        for server in made:
            server.kill()
            shutil.rmtree(server.directory, ignore_errors=True)
