"""A Postgres behind a unix socket of another host, reached through the cluster's TLS."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from actors.model.errors import Problem, Unavailable
from runtime.links.messages import Forget
from runtime.links.transport import Address
from tests.ports import free_port
from tests.runtime.links.hosts import SOON, ended
from tests.runtime.links.messages import CLUSTER
from tests.zeitwork.trust.secured import Signer, issue, secured
from zeitwork.cluster import Membership, tunnelled
from zeitwork.config import load
from zeitwork.store import open_store
from zeitwork.trust import tunnel
from zeitwork.trust.files import trust_directory


@pytest.fixture
def directory(public_directory: Path) -> Path:
    """With a path short enough for a socket."""
    made = public_directory / f"t{os.urandom(3).hex()}"
    made.mkdir()
    return made


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is reached at all may take its time on a busy machine."""
    monkeypatch.setattr(tunnel, "CONNECT", SOON)


def through(directory: Path, dsn: str) -> str:
    """Return the DSN of a database behind a tunnel that listens there."""
    return make_conninfo(dsn, host=str(directory / "run"), connect_timeout=int(SOON))


def server_of(dsn: str) -> Path:
    parts = conninfo_to_dict(dsn)
    return Path(str(parts["host"])) / f".s.PGSQL.{parts['port']}"


async def test_a_store_works_over_it(tmp_path: Path, directory: Path, database_url: str) -> None:
    signer = Signer()
    doors = {tunnel.PATH: tunnel.door(server_of(database_url))}
    async with secured(1, issue(tmp_path, 1, signer), doors=doors) as one:
        port = conninfo_to_dict(database_url)["port"]
        way = tunnel.Tunnel(
            directory / "run" / f".s.PGSQL.{port}", lambda: [one.address], issue(tmp_path, 2, signer).contexts, CLUSTER
        )
        async with way.running():
            assert (directory / "run").stat().st_mode & 0o777 == 0o700
            url = through(directory, database_url)
            async with open_store(url) as store, trio.open_nursery() as nursery:
                nursery.start_soon(store.run)
                assert (await store.cluster.identity()).id
                for number in range(30):
                    assert await store.cluster.region(f"r{number}")
                # Large answers, and a notification that comes by itself.
                large = await store.units.read(
                    lambda cursor: len(cursor.execute("select repeat('x', 3000000) as x").fetchone()["x"]), name="x"
                )
                assert large == 3_000_000
                nursery.cancel_scope.cancel()
        assert not (directory / "run").exists()


async def test_what_is_cancelled_can_still_write(tmp_path: Path, directory: Path, database_url: str) -> None:
    signer = Signer()
    doors = {tunnel.PATH: tunnel.door(server_of(database_url))}
    async with secured(1, issue(tmp_path, 1, signer), doors=doors) as one:
        port = conninfo_to_dict(database_url)["port"]
        files = issue(tmp_path, 2, signer)
        way = tunnel.Tunnel(directory / "run" / f".s.PGSQL.{port}", lambda: [one.address], files.contexts, CLUSTER)
        written = []
        with trio.CancelScope() as scope:
            async with way.running(), open_store(through(directory, database_url)) as store:
                try:
                    scope.cancel()
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True), trio.fail_after(SOON):
                        written.append(await store.cluster.region("last-word"))
        assert written


async def test_it_needs_a_certificate_of_the_cluster(tmp_path: Path, directory: Path, database_url: str) -> None:
    signer = Signer()
    doors = {tunnel.PATH: tunnel.door(server_of(database_url))}
    foreign = issue(tmp_path / "foreign", 2, Signer())
    async with secured(1, issue(tmp_path, 1, signer), doors=doors) as one:
        way = tunnel.Tunnel(directory / "run" / ".s.PGSQL.5432", lambda: [one.address], foreign.contexts, CLUSTER)
        async with way.running():
            stream = await trio.open_unix_socket(str(directory / "run" / ".s.PGSQL.5432"))
            await stream.send_all(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
            assert await ended(stream) == b""  # type: ignore[arg-type]


async def test_a_host_that_was_removed_loses_it_whatever_its_certificate_says(
    tmp_path: Path, directory: Path, database_url: str
) -> None:
    signer = Signer()
    doors = {tunnel.PATH: tunnel.door(server_of(database_url))}
    port = conninfo_to_dict(database_url)["port"]
    url = through(directory, database_url)
    async with secured(1, issue(tmp_path, 1, signer), doors=doors) as one:
        files, told = issue(tmp_path, 2, signer), trio.Event()
        way = tunnel.Tunnel(
            directory / "run" / f".s.PGSQL.{port}", lambda: [one.address], files.contexts, CLUSTER, told.set
        )
        async with way.running():
            stream = await trio.open_unix_socket(str(directory / "run" / f".s.PGSQL.{port}"))
            await stream.send_all(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
            assert await stream.receive_some(1) == b"N"  # it is Postgres, which has no TLS of its own
            # What is open ends, and nothing is opened again; other hosts are as they were.
            one.links.tell(Forget(UUID(int=2), refuse=True))
            assert await ended(stream) == b""  # type: ignore[arg-type]
            assert not told.is_set()
            with pytest.raises(Problem):
                async with open_store(url):
                    pass
            # It is told that it is no longer of the cluster, which is another thing than a database that is away.
            assert told.is_set()
        other = issue(tmp_path, 3, signer)
        way = tunnel.Tunnel(directory / "run" / f".s.PGSQL.{port}", lambda: [one.address], other.contexts, CLUSTER)
        async with way.running(), open_store(url) as store:
            assert await store.cluster.identity()


async def test_another_host_is_tried_and_none_is_an_error(tmp_path: Path, directory: Path, database_url: str) -> None:
    signer = Signer()
    doors = {tunnel.PATH: tunnel.door(server_of(database_url))}
    port = conninfo_to_dict(database_url)["port"]
    addresses = [Address("127.0.0.1", 1)]
    async with secured(1, issue(tmp_path, 1, signer), doors=doors) as one:
        files = issue(tmp_path, 2, signer)
        told = trio.Event()
        path = directory / "run" / f".s.PGSQL.{port}"
        way = tunnel.Tunnel(path, lambda: addresses, files.contexts, CLUSTER, told.set)
        url = through(directory, database_url)
        async with way.running():
            with pytest.raises(Problem):
                async with open_store(url):
                    pass
            assert not told.is_set()
            addresses.append(one.address)
            async with open_store(url) as store:
                assert await store.cluster.identity()


async def test_a_database_that_is_away_ends_the_connection(tmp_path: Path, directory: Path) -> None:
    signer = Signer()
    doors = {tunnel.PATH: tunnel.door(directory / "nothing")}
    async with secured(1, issue(tmp_path, 1, signer), doors=doors) as one:
        files = issue(tmp_path, 2, signer)
        way = tunnel.Tunnel(directory / "run" / ".s.PGSQL.5432", lambda: [one.address], files.contexts, CLUSTER)
        async with way.running():
            for _ in range(3):
                with pytest.raises(psycopg.OperationalError):
                    await trio.to_thread.run_sync(
                        lambda: psycopg.connect(f"host={directory}/run port=5432 connect_timeout=10 user=x dbname=x")
                    )


async def test_a_start_without_the_host_that_has_the_database_names_that_host(public_directory: Path) -> None:
    # Short, for a socket: a run directory beside the data directory.
    data = public_directory / f"t{os.urandom(3).hex()}"
    files = issue(data, 2, Signer())
    files.directory.rename(trust_directory(data))
    address = f"127.0.0.1:{free_port()}"
    membership = Membership(CLUSTER, None, (address,), "127.0.0.1:7946")
    with pytest.raises(ExceptionGroup) as told:
        async with tunnelled(load({"data_dir": str(data)}), membership, trio.Event()) as dsn, open_store(dsn):
            pass
    (problem,) = told.value.exceptions
    assert isinstance(problem, Unavailable)
    assert f"is on another host, which is not reached ({address}: connection refused)" in problem.detail
    assert "--peers" in problem.fix
    assert problem.field is None
