"""An app on a host that has joined: told by the leader over the link, removed and confirmed, and all of it logged."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any
from uuid import UUID

from actors.model.ids import short_id
from tests.e2e.process import HostProcess, answers, cgroups_of, links, processes_with, running, until
from tests.e2e.test_moves import in_registry
from tests.ports import free_port


def told(host: HostProcess, instance: Any) -> list[tuple[str, str]]:
    """Return the steps of commands in an instance's log."""
    events = host.get(f"/api/v1/instances/{instance['id']}/events?limit=500")["items"]
    return [(one["what"], one["data"]["command"]) for one in events if one["what"].startswith("command.")]


def left(host: HostProcess, placement: Any) -> list[str]:
    """Return what a host has of a placement: its logs, which are kept for a while, aside."""
    name, paths = short_id(UUID(placement["id"])), host.config.paths
    found = [link for link in links() if name in link]
    found += [str(path) for path in cgroups_of(name)]
    found += [str(path) for path in (paths.run / "vm").glob(f"*{name}*")]
    found += [str(path) for path in paths.placements.glob(f"*{placement['id']}*/*.ext4")]
    found += [f"process {one}" for one in processes_with(placement["id"])]
    return found


def test_an_app_on_another_host_is_told_to_it_and_its_end_is_confirmed(
    assets: Path, directories: tuple[Path, Path, Path]
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
            until(lambda: answers(f"http://{made['ipv4']}:8080/"), "its answer")
            # It stands still, and so does not end before its host is told, as Postgres' notification would have it do.
            second.cli("exec", "web", "--", "/bin/sh", "-c", "kill -STOP -1")
            gone = first.cli("rm", "web", "--yes", "--timeout", "5", "--json")
            assert gone["state"] == "terminated"
            until(
                lambda: told(first, made)[-2:] == [("command.sent", "delete"), ("command.taken", "delete")],
                f"the end is told: {told(first, made)}\n{first.tail()}",
            )
            # Of its beginning, the notification may have left nothing to tell, or to take.
            begun = told(first, made)[:-2]
            assert begun == [("command.sent", "create"), ("command.taken", "create")][: len(begun)]
            (placement,) = first.get(f"/api/v1/instances/{made['id']}/placements")["items"]
            assert placement["state"] == "removed"
            assert left(second, placement) == []
            die_in_the_middle(first, second, image)


def die_in_the_middle(first: HostProcess, second: HostProcess, image: str) -> None:
    """The host dies while it starts an app, which is deleted before it is back: then nothing of it stays there."""
    there = ("--require-label", "where=there")
    made = first.cli("deploy", image, "--memory", "128MiB", "--name", "web", *there, "--json")
    first.cli("stop", "web", "--force")
    first.cli("start", "web", "--no-wait")
    path = f"/api/v1/instances/{made['id']}/placements"
    begun = until(
        lambda: next((one for one in first.get(path)["items"] if one["generation"] == 2 and one["pid"]), None),
        "its monitor",
    )
    second.kill()
    assert left(second, begun) != []
    gone = first.cli("rm", "web", "--yes", "--force", "--no-wait", "--json")
    assert (gone["desired_state"], gone["state"] == "terminated") == ("terminated", False)
    until(lambda: first.get(f"/api/v1/nodes/{begun['node_id']}")["state"] == "down", "its host is found dead")
    # Whoever asks once more learns what it waits for.
    assert "once that host is back" in first.cli("rm", "web", "--yes").stdout
    second.start()
    found = f"/api/v1/instances/{made['id']}"
    until(lambda: first.get(found)["state"] == "terminated", f"its host confirms the end:\n{second.tail()}")
    assert left(second, begun) == []
