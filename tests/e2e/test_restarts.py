"""What ends by itself and what does not answer, in real VMs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.archives import write_image
from tests.e2e.process import HostProcess, until

LOOP = {"Entrypoint": ["/bin/sh", "-c", "echo no licence key; exit 3"]}


def test_a_crash_loop_is_told_tried_again_at_once_and_ended(shared_host: HostProcess, tmp_path: Path) -> None:
    image = write_image(tmp_path / "loop.tar", LOOP)
    done = shared_host.cli("deploy", str(image), "--memory", "128MiB", "--name", "loop", check=False)
    assert isinstance(done, subprocess.CompletedProcess)
    assert done.returncode != 0
    assert "crash_loop" in done.stderr
    assert "no licence key" in done.stderr

    def waits() -> Any:
        # Its next try may be under way when it is asked for. Each wait is longer than the one before.
        (found,) = shared_host.cli("ps", "--json")
        return found if found["state"] == "crash_loop" else None

    item = until(waits, "a crash loop")
    assert item["exit_status"] == 3
    assert "next try at" in item["reason"]
    assert item["next_try_at"]
    address = item["ipv4"]
    shared_host.cli("start", "loop", "--no-wait", "--json")
    until(lambda: shared_host.cli("ps", "--json")[0]["restarts"] > item["restarts"], "another try")
    assert shared_host.cli("ps", "--json")[0]["ipv4"] == address
    assert shared_host.cli("stop", "loop", "--json")["state"] == "stopped"
    assert shared_host.cli("logs", "loop").stdout.count("no licence key") >= 2
    shared_host.cli("rm", "loop", "--json")


def test_health_is_seen_and_what_does_not_answer_is_started_again(shared_host: HostProcess, assets: Path) -> None:
    check = ("--health", "http:/")
    made = shared_host.cli(
        "deploy", str(assets / "hello.tar"), "--memory", "128MiB", "--name", "well", *check, "--json"
    )
    path = f"/api/v1/instances/{made['id']}/health"
    until(lambda: shared_host.get(path)["status"] == "healthy", "a healthy app")
    shared_host.cli("rm", "well", "--yes", "--force", "--json")
