"""Limits that the real kernel enforces, read by a process that is really inside."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.resource_monitor.cgroups import own_groups
from actors.vm.cgroup import Cgroup

ROOT = Path(__file__).parents[3]
LIMITS = {
    ("cpu", 1): {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"},
    ("cpu", 2): {"cpu.max": "50000 100000"},
    ("memory", 1): {"memory.limit_in_bytes": str(256 << 20)},
    ("memory", 2): {"memory.max": str(256 << 20)},
}
PROGRAM = {
    "cpu": "from actors.resource_monitor.cpu import usable_cpus; print(usable_cpus())",
    "memory": "from actors.resource_monitor.memory import read_memory; print(read_memory().total >> 20)",
}


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A fresh group with the controller's limit set, in whichever hierarchy of this machine can do it."""
    controller: str = request.param
    for groups in own_groups(controller):
        directory = groups.directories[-1] / f"zwtest-{uuid.uuid4().hex[:8]}"
        try:
            directory.mkdir()
        except OSError:
            continue
        try:
            for name, value in LIMITS[controller, groups.version].items():
                (directory / name).write_text(value)
        except OSError:
            directory.rmdir()
            continue
        yield directory
        Cgroup(directory.name, (directory.parent,)).remove()
        return
    pytest.skip(f"no control group with the controller {controller} can be made here")


@pytest.mark.parametrize(("group", "said"), [("cpu", "0.5"), ("memory", "256")], indirect=["group"])
def test_a_process_in_a_limited_group_knows_its_limit(group: Path, said: str) -> None:
    program = PROGRAM["cpu" if said == "0.5" else "memory"]
    enter = f"from pathlib import Path; Path({str(group)!r}, 'cgroup.procs').write_text('0'); "
    done = subprocess.run(
        [sys.executable, "-c", enter + program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == said, done.stderr


#: A process in a group: runs the real monitor and writes each capacity that it has recorded.
RUNNING = """
import sys
from pathlib import Path
from uuid import UUID

import structlog
import trio

Path(sys.argv[1], "cgroup.procs").write_text("0")

from actors.resource_monitor import actor
from runtime import Spec, System

actor.EVERY = 0.05
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


class Store:
    async def record_capacity(self, node_id, capacity):
        print(capacity.vcpu_total, capacity.memory_total, flush=True)

    async def closed(self, node_id):
        return ""

    async def record_closed(self, node_id, reason):
        pass


async def main():
    async with System() as system:
        await system.start(Spec("resource-monitor", lambda: actor.ResourceMonitor(Store(), UUID(int=1))))
        await trio.to_thread.run_sync(sys.stdin.read)


trio.run(main)
"""
MEMORY_LIMITS = ("memory.limit_in_bytes", "memory.max")


@pytest.mark.parametrize("group", ["memory"], indirect=True)
def test_a_limit_that_changes_while_it_runs_is_noticed(group: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUNNING, str(group)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline().split()[1] == "256"
            for name in MEMORY_LIMITS:
                if (group / name).exists():
                    (group / name).write_text(str(384 << 20))
            assert process.stdout.readline().split()[1] == "384"
        finally:
            process.stdin.close()
            process.wait(90)
