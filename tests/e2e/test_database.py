"""The database is moved to a Postgres of one's own, then an old backup is restored: the VM runs through all of it."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID, uuid4

from actors.model.ids import short_id
from tests.e2e import process as machine
from tests.e2e.process import HostProcess, answers, running, until
from tests.e2e.test_leaders import leads
from tests.ports import free_port
from tests.zeitwork.store.own_server import own_servers
from zeitwork.store.system_user import require_user

QEMU = ["--hypervisor", "qemu"]


def states(host: HostProcess) -> list[str]:
    return sorted(one["state"] for one in host.get("/api/v1/nodes")["items"])


def test_two_hosts_move_with_their_database(assets: Path, data_dir: Path, public_directory: Path) -> None:
    links = [["--advertise", f"127.0.0.1:{free_port()}"] for _ in range(2)]
    first = HostProcess(data_dir, assets, [*QEMU, *links[0]])
    with own_servers(public_directory / uuid4().hex[:6], require_user()) as (own,):
        own.make()
        own.start()
        own.make_database()
        with ExitStack() as stack:
            stack.enter_context(running(first))
            joining = shlex.split(first.cli("token", "create").stdout)[2:]
            second = HostProcess(data_dir.with_name("other"), assets, [*QEMU, *joining, *links[1]])
            stack.enter_context(running(second))
            until(lambda: states(first) == ["ready", "ready"], "both are ready")
            # Only the host that has it can move it, and only when it does not run.
            move = ("db", "move", "--to", own.dsn(), "--json", "--data-dir")
            assert "with the host at" in second.cli(*move, str(second.data), check=False).stderr
            assert "in use by another" in first.cli(*move, str(first.data), check=False).stderr
            assert (second.terminate(), first.terminate()) == (0, 0)
            first.cli(*move, str(first.data))
            for host, link in ((first, links[0]), (second, links[1])):
                host.arguments = [*QEMU, *link, "--database-url", own.dsn()]
            # Whichever comes first leads, and gives the other one time.
            second.start()
            until(lambda: leads(second), "a leader")
            (waits,) = [one for one in second.get("/api/v1/nodes")["items"] if one["state"] == "down"]
            assert "has not been started since" in waits["reason"]
            first.start()
            for host in (first, second):
                until(lambda host=host: states(host) == ["ready", "ready"], f"both:\n{host.tail()}")  # type: ignore[misc]
            until(lambda: '"event": "link"' in first.log.read_text(), "a link")


def test_the_host_with_the_database_is_lost_and_a_backup_is_restored_on_another(
    assets: Path, data_dir: Path, tmp_path: Path
) -> None:
    first = HostProcess(data_dir, assets, [*QEMU, "--advertise", f"127.0.0.1:{free_port()}"])
    backup, address = tmp_path / "backup.dump", f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        stack.enter_context(running(first))
        joining = shlex.split(first.cli("token", "create").stdout)[2:]
        second = HostProcess(data_dir.with_name("second"), assets, [*QEMU, *joining])
        second.arguments += ["--advertise", f"127.0.0.1:{free_port()}"]
        stack.enter_context(running(second))
        epoch = until(lambda: leads(first) or leads(second), "a leader")
        first.cli("db", "backup", str(backup), "--data-dir", str(first.data), "--json")
        lost = first.get("/health")["node_id"]
        first.kill()
        # Nothing of it is left: another machine has the backup.
        third = HostProcess(data_dir.with_name("third"), assets, [*QEMU, "--advertise", address])
        third.cli("db", "restore", str(backup), "--data-dir", str(third.data), "--json")
        stack.enter_context(running(third))
        # The others are told where it is now.
        assert second.terminate() == 0
        second.arguments = [*second.arguments, "--peers", address]
        second.start()
        until(lambda: states(third) == ["down", "ready", "ready"], f"two of three:\n{third.tail()}")
        assert states(second) == states(third)
        assert [one["id"] for one in third.get("/api/v1/nodes")["items"] if one["state"] == "down"] == [lost]
        assert until(lambda: leads(third) or leads(second), "a leader") > epoch


def test_a_vm_runs_through_a_move_and_a_restored_backup(
    assets: Path, data_dir: Path, tmp_path: Path, public_directory: Path
) -> None:
    user = require_user()
    first, second = (public_directory / uuid4().hex[:6] for _ in range(2))
    host = HostProcess(data_dir, assets, [*QEMU])
    with own_servers(first, user) as (own,), own_servers(second, user) as (other,):
        for server in (own, other):
            server.make()
            server.start()
            server.make_database()
        with running(host):
            backup = tmp_path / "before.dump"
            told = host.cli("db", "backup", str(backup), "--data-dir", str(data_dir), "--json")
            instance = host.cli("deploy", str(assets / "hello.tar"), "--memory", "128MiB", "--name", "kept", "--json")
            url = f"http://{instance['ipv4']}:8080"
            until(lambda: answers(url), "an answer")
            placement = host.get(f"/api/v1/instances/{instance['id']}/placements")["items"][-1]
            short = short_id(UUID(placement["id"]))
            pids = machine.processes_with(short)
            epoch = until(lambda: leads(host), "a leader")

            # As documented: stop, move, start with the new address.
            move = ("db", "move", "--to", own.dsn(), "--data-dir", str(data_dir), "--json")
            assert "in use by another" in host.cli(*move, check=False).stderr
            assert host.terminate() == 0
            moved = host.cli(*move)
            assert moved["cluster"] == told["cluster"]
            assert answers(url, 30)
            host.arguments = [*QEMU, "--database-url", own.dsn()]
            host.start()
            path = f"/api/v1/instances/{instance['id']}"
            until(lambda: host.get(path)["state"] == "running", "its adoption")
            assert host.get(f"{path}/placements")["items"][-1]["id"] == placement["id"]
            epoch = until(lambda: leads(host, epoch), "a leader with a higher epoch")
            assert answers(url, 30)

            # A backup from before it was made, on another server: the host leads above all that it saw, and leaves
            # alone what that database does not know.
            assert host.terminate() == 0
            host.cli("db", "restore", str(backup), "--data-dir", str(data_dir), "--database-url", other.dsn(), "--json")
            host.arguments = [*QEMU, "--database-url", other.dsn()]
            host.start()
            restored = until(lambda: leads(host, epoch), "a leader with a higher epoch still")
            assert host.cli("ps", "--json") == []
            until(lambda: "does not know is left alone" in host.log.read_text(), f"a word about it\n{host.tail()}")
            assert answers(url, 30)
            assert machine.processes_with(short) == pids

            # With the database that knows it, all is as it was.
            assert host.terminate() == 0
            host.arguments = [*QEMU, "--database-url", own.dsn()]
            host.start()
            until(lambda: leads(host, restored), "a leader with a higher epoch again")
            until(lambda: host.get(path)["state"] == "running", "its adoption")
            assert machine.processes_with(short) == pids
            assert answers(url, 30)
            # Without any address the old one is not taken by mistake.
            assert host.terminate() == 0
            host.arguments = [*QEMU]
            try:
                host.start()
            except AssertionError as error:
                assert "was moved to owner@127.0.0.1" in str(error)
            else:
                raise AssertionError("it started on the old database")
            host.arguments = [*QEMU, "--database-url", own.dsn()]
            host.start()
            host.cli("rm", "kept", "--yes", "--json")
            assert machine.processes_with(short) == []
