"""A second host joins with the printed command, over the first one's embedded Postgres."""

from __future__ import annotations

import shlex
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.process import HostProcess, running, until
from tests.ports import free_port


def ready(host: HostProcess) -> bool:
    """Whether a host sees both as ready."""
    try:
        return [one["state"] for one in host.get("/api/v1/nodes")["items"]] == ["ready", "ready"]
    except OSError:
        return False


def status(host: HostProcess, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{host.port}{path}", timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def heard(host: HostProcess) -> list[str]:
    """What a host knows by gossip of all that have told how they are."""
    return [one["state"] for one in host.get("/api/v1/members")["items"] if one["load"]]


def test_a_second_host_joins(assets: Path, directories: tuple[Path, Path, Path]) -> None:
    qemu = ["--hypervisor", "qemu"]
    first = HostProcess(directories[0], assets, [*qemu, "--advertise", f"127.0.0.1:{free_port()}"])
    with running(first):
        printed = first.cli("token", "create").stdout.strip()
        assert printed.startswith("zeitwork run --join https://127.0.0.1:")
        joining = shlex.split(printed)[2:]
        own = ["--advertise", f"127.0.0.1:{free_port()}"]
        second = HostProcess(directories[1], assets, [*qemu, *joining, *own])
        with running(second):
            for host in (first, second):
                until(lambda host=host: ready(host), f"both are ready:\n{host.tail()}")  # type: ignore[misc]
                until(lambda host=host: '"event": "link"' in host.log.read_text(), f"a link:\n{host.tail()}")  # type: ignore[misc]
                until(lambda host=host: '"event": "membership"' in host.log.read_text(), f"gossip:\n{host.tail()}")  # type: ignore[misc]
            for host in (first, second):
                until(lambda host=host: heard(host) == ["alive", "alive"], "each knows how the other is")  # type: ignore[misc]
                assert "MEMBER" in host.cli("nodes").stdout
            (token,) = first.cli("token", "ls", "--json")
            assert token["state"] == "used"
            assert not (directories[1] / "postgres").exists()
            secret = directories[1] / "trust"
            assert {item.name for item in secret.iterdir()} == {"host.pem", "cluster.json"}
            assert {item.stat().st_mode & 0o777 for item in secret.iterdir()} == {0o600}

            # It remembers: neither address nor token is needed again.
            second.terminate()
            # Its goodbye went through the tunnel, too.
            assert "down" in [one["state"] for one in first.get("/api/v1/nodes")["items"]]
            # And through gossip: nobody needs to suspect it first.
            until(
                lambda: "left" in [one["state"] for one in first.get("/api/v1/members")["items"]],
                f"it is said to have left:\n{first.tail()}",
            )
            second.arguments = [*qemu, *own]
            second.start()
            until(lambda: ready(second), f"both are ready once more:\n{second.tail()}")

            # The host with the database dies. The other one lives on, and goes on when it is back.
            first.kill()
            until(lambda: status(second, "/api/v1/nodes") == 503, "the database is away")
            # Who there is can be asked all the same.
            until(lambda: sorted(heard(second)) == ["alive", "dead"], "gossip knows who died")
            # Whoever takes its silence for its end first learns in a moment that its machine is there.
            until(
                lambda: [
                    one["hostname"]
                    for one in second.cli("nodes", "--json")
                    if one["membership"]["state"] == "dead" and one["membership"]["refused"]
                ],
                "its machine says so",
            )
            assert second.process is not None
            assert second.process.poll() is None
            first.start()
            until(lambda: ready(second), f"both are ready again:\n{second.tail()}")
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(150) == 0
        # A used token lets nobody else in, and the refusal says so.
        third = HostProcess(directories[1].parent / "third", assets, [*qemu, *joining])
        try:
            third.start()
        except AssertionError as error:
            assert "used already" in str(error)
        else:
            pytest.fail("it was let in")
        finally:
            if third.process is not None and third.process.poll() is None:
                third.process.kill()
