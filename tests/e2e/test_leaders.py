"""Real host processes that elect their leader: one that is killed and comes back, and two on one Postgres."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.e2e.process import HostProcess, running, until


def leader(host: HostProcess) -> dict[str, Any] | None:
    found: dict[str, Any] | None = host.get("/health")["leader"]
    return found


def leads(host: HostProcess, above: int = 0) -> int:
    """Return the epoch with which this host leads if that is higher than ``above``, else 0."""
    health = host.get("/health")
    found = health["leader"]
    return found["epoch"] if found and found["node_id"] == health["node_id"] and found["epoch"] > above else 0


def test_a_host_that_was_killed_leads_again_with_a_higher_epoch(host: HostProcess) -> None:
    first = until(lambda: leads(host), "the first election")
    host.kill()
    host.start()
    second = until(lambda: leads(host, first), "the next election")
    # A machine that stood still for long has elected it once more.
    until(lambda: (host.data / "epoch").read_text() == f"{leads(host, second - 1)}\n", "its epoch on disk")
    assert host.terminate() == 0
    log = host.log.read_text()
    assert log.count("elected as leader") >= 2
    assert "leadership resigned" in log


def test_another_host_follows_a_paused_leader_which_then_leads_no_more(
    assets: Path, directories: tuple[Path, Path, Path], database_url: str
) -> None:
    arguments = ["--hypervisor", "qemu", "--database-url", database_url]
    with ExitStack() as stack:
        one, two = (stack.enter_context(running(HostProcess(path, assets, arguments))) for path in directories[:2])
        first = until(lambda: leads(one) or leads(two), "the first election")
        paused, other = (one, two) if leads(one) else (two, one)
        until(lambda: leader(other) == leader(paused), "both know it")
        assert paused.process is not None
        os.kill(paused.process.pid, signal.SIGSTOP)
        try:
            second = until(lambda: leads(other, first), "a successor")
        finally:
            os.kill(paused.process.pid, signal.SIGCONT)
        until(lambda: "leadership lost" in paused.log.read_text(), "that it notices")
        until(lambda: (paused.data / "epoch").read_text() == f"{second}\n", "that it remembers the new epoch")
        # An orderly end is an end at once, and the one that was paused follows.
        assert other.terminate() == 0
        assert until(lambda: leads(paused, second), "the next election") > second
