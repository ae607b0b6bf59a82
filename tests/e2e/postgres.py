"""A Postgres as an operator would have it: a server of its own, over TCP, with a password and no superuser.

``python -m tests.e2e.postgres DIRECTORY PASSWORD`` runs one in the network namespace it is started in, until its
standard input ends.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import trio
from psycopg import sql

from tests.e2e.process import ROOT, until
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.embedded.settings import HBA

USER, DATABASE = "platform", "platform"


def dsn(address: str, password: str) -> str:
    """How to connect over the network."""
    return f"postgresql://{USER}:{password}@{address}:5432/{DATABASE}"


@contextmanager
def serving(within: list[str], directory: Path, password: str) -> Iterator[None]:
    """Run a server where ``within`` leads."""
    log = directory / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*within, sys.executable, "-m", "tests.e2e.postgres", str(directory), password],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        until(lambda: b"serving" in log.read_bytes() or process.poll() is not None, "a Postgres")
        assert process.poll() is None, log.read_text()
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


async def _serve(directory: Path, password: str) -> None:
    hba = directory / "pg_hba.conf"
    hba.write_text(f"{HBA}host all all all scram-sha-256\n")
    hba.chmod(0o644)
    overrides = {"listen_addresses": "*", "hba_file": str(hba), "max_connections": "100"}
    async with EmbeddedServer(directory / "server", directory / "run", overrides=overrides).running() as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            role, name, secret = sql.Identifier(USER), sql.Identifier(DATABASE), sql.Literal(password)
            connection.execute(sql.SQL("create role {} login password {}").format(role, secret))
            connection.execute(sql.SQL("create database {} owner {}").format(name, role))
        sys.stdout.write("serving\n")
        sys.stdout.flush()
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    trio.run(_serve, Path(sys.argv[1]), sys.argv[2])
