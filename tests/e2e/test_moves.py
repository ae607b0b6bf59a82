"""Two real hosts on one Postgres: one dies with its machine and comes back, the other is drained."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import HostProcess, answers, running, until


@pytest.fixture
def directories() -> Iterator[tuple[Path, Path]]:
    roots = [Path(tempfile.mkdtemp(prefix="zeitwork-e2e-", dir="/var/tmp")) for _ in range(2)]
    try:
        for root in roots:
            root.chmod(0o755)
        yield roots[0] / "data", roots[1] / "data"
    finally:
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)


def me(host: HostProcess) -> str:
    return str(host.get("/health")["node_id"])


def node(host: HostProcess, node_id: str) -> Any:
    return host.get(f"/api/v1/nodes/{node_id}")


def tries(host: HostProcess, instance: Any) -> list[Any]:
    return list(host.get(f"/api/v1/instances/{instance['id']}/placements")["items"])


def runs_on(host: HostProcess, instance: Any, node_id: str) -> Any:
    """Return the instance once it runs there, else None."""
    found = host.get(f"/api/v1/instances/{instance['id']}")
    there = (found["state"], found["node_id"]) == ("running", node_id)
    return found if there and found["observed_generation"] == found["generation"] else None


def test_an_instance_outlives_its_host_and_leaves_one_that_is_drained(
    assets: Path, directories: tuple[Path, Path], database_url: str
) -> None:
    arguments = ["--hypervisor", "qemu", "--database-url", database_url]
    one, two = (HostProcess(path, assets, arguments) for path in directories)
    with ExitStack() as stack:
        stack.enter_context(running(one))
        made = one.cli("deploy", str(assets / "hello.tar"), "--memory", "128MiB", "--name", "web", "--json")
        # Hosts do not yet fetch images from each other.
        shutil.copytree(one.config.paths.images, two.config.paths.images)
        stack.enter_context(running(two))
        first, second = me(one), me(two)
        assert made["node_id"] == first

        # A machine that loses power takes the process and the virtual machine with it.
        (old,) = tries(one, made)
        assert one.process is not None
        one.process.send_signal(signal.SIGSTOP)  # it must not see the other's end
        os.kill(old["pid"], signal.SIGKILL)
        one.kill()
        moved = until(lambda: runs_on(two, made, second), "the instance on the other host", 180)
        assert moved["generation"] == 2
        assert node(two, first)["state"] == "down"
        assert "no sign of life" in node(two, first)["reason"]
        until(lambda: answers(f"http://{moved['ipv4']}:8080/"), "its answer", 60)
        lost, new = tries(two, made)
        assert (lost["id"], lost["state"], lost["kept"], new["node_id"]) == (old["id"], "running", False, second)
        assert lost["lost_at"]

        # Back again, its host removes what is not its own any more.
        one.start()
        until(lambda: tries(one, made)[0]["state"] == "removed", "the end of what was lost", 90)
        until(lambda: node(one, first)["state"] == "ready", "its return", 60)
        assert runs_on(one, made, second)

        # A drain starts the replacement first.
        two.cli("drain", second, "--no-wait")
        back = until(lambda: runs_on(one, made, first), "the instance back on the first host", 180)
        assert back["generation"] == 3
        until(lambda: answers(f"http://{back['ipv4']}:8080/"), "its answer", 60)
        until(lambda: tries(one, made)[1]["state"] == "removed", "the end of the one before", 90)
        events = one.get(f"/api/v1/instances/{made['id']}/events?limit=200")["items"]
        whats = [event["what"] for event in events]
        assert whats.count("instance.moved") == 2
        states = [(event["subject_id"], event["data"]["to"]) for event in events if event["what"] == "placement.state"]
        assert states.index((back["placement_id"], "running")) < states.index((new["id"], "stopping"))
