"""Doctor on what a host needs of others: real certificates and listeners, and each trouble named with its mend."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.ports import free_port
from tests.zeitwork.doctor.test_doctor import only, patient
from tests.zeitwork.setup.world import World
from tests.zeitwork.trust.secured import Signer, issue
from zeitwork.advertised import advertise_file
from zeitwork.cluster import Membership, MembershipFile
from zeitwork.doctor import cluster
from zeitwork.store.embedded.holding import mark_moved
from zeitwork.trust.certificates import HOST_LIFE
from zeitwork.trust.files import TrustFiles, trust_directory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a host's key is root's")
SIGNER = Signer()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    # Whatever answers here may take its time on a busy machine.
    monkeypatch.setattr(cluster, "_REACH", 90.0)
    monkeypatch.setattr(cluster, "_ANSWER", 90)
    return World(tmp_path)


def credentials(world: World, signer: Signer = SIGNER, **more: timedelta) -> TrustFiles:
    """Give the host a certificate."""
    data = world.options().paths.data
    made = issue(data.parent, 1, signer, **more)
    files = TrustFiles(trust_directory(data))
    known = made.load()
    assert known is not None
    files.save(known)
    return files


def joined(world: World, *peers: str, database: str | None = None, advertise: str = "192.0.2.7:7946") -> None:
    MembershipFile(world.options().paths.data).save(Membership(uuid4(), database, peers, advertise))


@contextmanager
def held(world: World) -> Iterator[None]:
    """A host that runs."""
    data = world.options().paths.data
    data.mkdir(parents=True, exist_ok=True)
    with (data / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def listening(files: TrustFiles) -> Iterator[str]:
    """Another host's port: it shows its certificate to whoever comes."""
    context = files.contexts().server
    address = ("127.0.0.1", free_port())
    with socket.create_server(address) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    plain, _ = server.accept()
                    with plain, contextlib.suppress(OSError, ssl.SSLError):
                        context.wrap_socket(plain, server_side=True).close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"{address[0]}:{address[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(90)


def test_a_host_that_is_alone(world: World) -> None:
    assert only(cluster.links(patient(world))).status == "ok"
    assert only(cluster.certificate(patient(world))).status == "ok"
    assert cluster.peers(patient(world)) == cluster.clock_skew(patient(world)) == []
    check = only(cluster.one_server(patient(world)))
    assert check.status == "ok"
    assert "zeitwork db backup" in check.detail


def test_an_address_that_nobody_reaches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "on loopback" in only(cluster.links(patient(world, advertise="localhost:7946"))).detail
    check = only(cluster.links(patient(world, advertise="192.0.2.7:7946")))
    assert check.status == "warn"
    assert "no address of this machine" in check.detail
    check = only(cluster.links(patient(world, advertise="nowhere.invalid:7946")))
    assert (check.status, check.fix) == ("fail", "--advertise an IP address")


def test_an_address_of_the_last_start_is_known(world: World) -> None:
    # As after `zeitwork run --advertise`: nothing of it is in the configuration.
    path = advertise_file(world.options().paths.data)
    path.parent.mkdir(parents=True)
    path.write_text("192.0.2.7:7946\n")
    assert "192.0.2.7:7946 is no address of this machine" in only(cluster.links(patient(world))).detail
    assert "one server, on this host" in only(cluster.one_server(patient(world))).detail
    path.write_text("a b\n")
    assert only(cluster.links(patient(world))).fix == f"rm {path}, and start with --advertise ADDRESS"


def own_address() -> str:
    found = cluster._usable()
    if not found:
        pytest.skip("this machine has no address beside loopback")
    return f"[{found[0]}]" if ":" in found[0] else found[0]


def test_the_port_for_links(world: World) -> None:
    port = free_port()
    with socket.create_server(("", port)):
        check = only(cluster.links(patient(world, advertise=f"{own_address()}:{port}")))
        assert check.status == "fail"
        assert f"port {port} can't be had" in check.detail
    assert only(cluster.links(patient(world, advertise=f"{own_address()}:{port}"))).status == "ok"
    # A host runs, and something keeps its port from us.
    credentials(world)
    with held(world):
        check = only(cluster.links(patient(world, advertise=f"{own_address()}:{port}")))
    assert check.status == "warn"
    assert "connection refused" in check.detail


def test_the_certificate(world: World) -> None:
    files = credentials(world)
    assert "valid for 7.0 days" in only(cluster.certificate(patient(world))).detail
    files.path.chmod(0o644)
    check = only(cluster.certificate(patient(world)))
    assert (check.status, check.fix) == ("fail", f"chmod 600 {files.path}")
    files.path.write_text("nonsense")
    assert only(cluster.certificate(patient(world))).status == "fail"
    files.path.unlink()
    joined(world, "192.0.2.1:7946")
    check = only(cluster.certificate(patient(world)))
    assert check.status == "fail"
    assert "join the cluster anew" in (check.fix or "")


def test_a_certificate_that_was_not_renewed(world: World) -> None:
    credentials(world, ago=timedelta(days=5))
    assert only(cluster.certificate(patient(world))).status == "ok"  # it is off, and renews itself when it starts
    with held(world):
        check = only(cluster.certificate(patient(world)))
    assert check.status == "warn"
    assert "was not renewed in time" in check.detail


def test_a_certificate_that_has_ended(world: World) -> None:
    credentials(world, ago=HOST_LIFE + timedelta(days=2))
    check = only(cluster.certificate(patient(world)))
    assert check.status == "warn"
    assert "ended 2.0 days ago" in check.detail
    # With the database by DSN it gets another one, through the tunnel it does not.
    joined(world, "192.0.2.1:7946", database="host=db")
    assert only(cluster.certificate(patient(world))).status == "warn"
    joined(world, "192.0.2.1:7946")
    check = only(cluster.certificate(patient(world)))
    assert check.status == "fail"
    assert "token create" in (check.fix or "")


def test_a_clock_that_is_behind(world: World) -> None:
    credentials(world, ago=-timedelta(days=1))
    check = only(cluster.certificate(patient(world)))
    assert check.status == "fail"
    assert "clock is behind" in check.detail


def test_peers(world: World, tmp_path: Path) -> None:
    credentials(world)
    with listening(issue(tmp_path, 2, SIGNER)) as good, listening(issue(tmp_path, 3, Signer())) as foreign:
        assert only(cluster.peers(patient(world, peers=(good,)))).status == "ok"
        joined(world, good, foreign)
        check = only(cluster.peers(patient(world)))
        assert check.status == "warn"
        assert f"{foreign}: TLS failed" in check.detail
        assert good not in check.detail
        other = issue(tmp_path, 4, SIGNER, cluster=UUID(int=99))
        with listening(other) as stranger:
            check = only(cluster.peers(patient(world, peers=(stranger,))))
            assert f"{stranger}: the certificate is for cluster" in check.detail
        joined(world, foreign)
        assert only(cluster.peers(patient(world))).status == "fail"
    joined(world, good)
    check = only(cluster.peers(patient(world)))
    assert check.status == "fail", "nothing leads to the database"
    assert "connection refused" in check.detail
    assert only(cluster.peers(patient(world, database_url="host=db"))).status == "warn"


def test_a_clock_that_differs_from_the_databases(
    world: World, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    asked = patient(world, database_url=database_url)
    assert only(cluster.clock_skew(asked)).status == "ok"
    monkeypatch.setattr(cluster.time, "time", lambda: real() + 60)
    assert only(cluster.clock_skew(asked)).status == "warn"
    monkeypatch.setattr(cluster.time, "time", lambda: real() - 600)
    check = only(cluster.clock_skew(asked))
    assert check.status == "fail"
    # Less by how long the answer took.
    told = re.search(r"differ by (\d+) s", check.detail)
    assert told is not None
    assert 500 < int(told[1]) <= 600
    check = only(cluster.clock_skew(patient(world, database_url="host=127.0.0.1 port=1 user=x dbname=x")))
    assert check.status == "warn"


def test_a_database_that_is_one_server(world: World) -> None:
    check = only(cluster.one_server(patient(world, advertise="192.0.2.7:7946")))
    assert check.status == "warn"
    assert "one server, on this host" in check.detail
    assert "zeitwork db move" in (check.fix or "")
    joined(world, "192.0.2.1:7946")
    assert "on the host at 192.0.2.1:7946" in only(cluster.one_server(patient(world))).detail
    both = "host=db1,db2 user=z dbname=z"
    assert "target_session_attrs" in (only(cluster.one_server(patient(world, database_url=both))).fix or "")
    assert only(cluster.one_server(patient(world, database_url=f"{both} target_session_attrs=read-write"))).status == (
        "ok"
    )
    check = only(cluster.one_server(patient(world, database_url="postgresql://z@localhost/z")))
    assert check.status == "warn"
    assert "this machine only" in check.detail


def test_a_database_that_was_moved(world: World) -> None:
    directory = world.options().paths.postgres
    directory.mkdir(parents=True)
    mark_moved(directory, "z@db:5432/z")
    check = only(cluster.one_server(patient(world)))
    assert check.status == "fail"
    assert "moved to z@db:5432/z" in check.detail
    assert "database_url" in (check.fix or "")


def test_a_file_of_the_cluster_that_can_not_be_read(world: World) -> None:
    joined(world, "192.0.2.1:7946")
    MembershipFile(world.options().paths.data).path.write_text("{")
    assert only(cluster.links(patient(world))).status == "fail"
    assert cluster.peers(patient(world)) == []


@contextmanager
def at_the_door(files: TrustFiles, answer: bytes) -> Iterator[str]:
    """Another host's port, which says ``answer`` to whoever asks for the database."""
    context = files.contexts().server
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    plain, _ = server.accept()
                    with plain, contextlib.suppress(OSError, ssl.SSLError):
                        secured = context.wrap_socket(plain, server_side=True)
                        secured.recv(1024)
                        secured.sendall(answer)
                        secured.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_a_host_that_was_removed_is_told_so(world: World) -> None:
    files = credentials(world)
    with at_the_door(files, b"HTTP/1.1 403 Forbidden\r\n\r\n") as shut:
        joined(world, shut)
        check = only(cluster.removed(patient(world)))
        assert check.status == "fail"
        assert "was removed from the cluster" in check.detail
        assert "zeitwork leave --force" in str(check.fix)
        # One that runs finds out by itself.
        with held(world):
            assert cluster.removed(patient(world)) == []
        # A host that lets it through, or is away, says nothing of the kind.
        with at_the_door(files, b"HTTP/1.1 101 Switching Protocols\r\n\r\n") as door:
            joined(world, shut, door)
            assert cluster.removed(patient(world)) == []
    joined(world, shut)
    assert cluster.removed(patient(world)) == []
