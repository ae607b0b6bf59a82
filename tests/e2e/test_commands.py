"""An app on a host that has joined: told by the leader over the link, removed and confirmed, and all of it logged."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import HostProcess, answers, free_port, running, until
from tests.e2e.test_moves import in_registry


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


def told(host: HostProcess, instance: Any) -> list[tuple[str, str]]:
    """Return the steps of commands in an instance's log."""
    events = host.get(f"/api/v1/instances/{instance['id']}/events?limit=500")["items"]
    return [(one["what"], one["data"]["command"]) for one in events if one["what"].startswith("command.")]


def test_an_app_on_another_host_is_told_to_it_and_its_end_is_confirmed(
    assets: Path, directories: tuple[Path, Path]
) -> None:
    qemu = ["--hypervisor", "qemu"]
    first = HostProcess(directories[0], assets, [*qemu, "--advertise", f"127.0.0.1:{free_port()}"])
    with in_registry(assets / "hello.tar") as image, running(first):
        joining = shlex.split(first.cli("token", "create").stdout.strip())[2:]
        own = ["--advertise", f"127.0.0.1:{free_port()}", "--label", "where=there"]
        with running(second := HostProcess(directories[1], assets, [*qemu, *joining, *own])):
            until(lambda: '"event": "link"' in first.log.read_text(), f"a link:\n{first.tail()}")
            made = first.cli(
                "deploy", image, "--memory", "128MiB", "--name", "web", "--require-label", "where=there", "--json"
            )
            assert made["node_id"] == second.get("/health")["node_id"]
            assert answers(f"http://{made['ipv4']}:8080/")
            # Postgres' notification may have come before it, so that there was nothing left to tell.
            begun = told(first, made)
            assert begun in ([], [("command.sent", "create"), ("command.taken", "create")])
            gone = first.cli("rm", "web", "--yes", "--timeout", "5", "--json")
            assert gone["state"] == "terminated"
            until(
                lambda: told(first, made)[len(begun) :] == [("command.sent", "delete"), ("command.taken", "delete")],
                f"the end is told: {told(first, made)}\n{first.tail()}",
            )
            (placement,) = first.get(f"/api/v1/instances/{made['id']}/placements")["items"]
            assert placement["state"] == "removed"
            # Of its writable layer nothing is left; its logs are kept for a while.
            assert list(second.config.paths.placements.glob("*/*.ext4")) == []
