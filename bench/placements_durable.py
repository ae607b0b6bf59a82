"""How many instances a second does the leader place, planned and committed to a Postgres that waits for its disk?

From the look at what is pending to the commit of the last placement, with addresses, leases, events and notifications.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from bench._host import ROOT, environment
from bench._placing import add_hosts
from bench.question import Answer, Question
from zeitwork.store import open_store
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.system_user import find_user

#: Hosts, and instances that are placed on them at once. The first one is what the target is about.
SIZES = ((5000, 20_000), (1000, 20_000), (100, 20_000), (5000, 100_000))
QUICK = ((100, 500),)


@dataclass(frozen=True, slots=True)
class _Placed:
    rate: float
    peak: float
    grown: float


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; placements a second."""
    sizes = QUICK if quick else SIZES
    if find_user() is None:
        yield Answer(_name(*sizes[0]), None, "the database's system user does not exist; zeitwork setup makes it")
        return
    for hosts, instances in sizes:
        done = _measure(hosts, instances)
        note = f"the leader's process: {done.peak:,.0f} MiB at most, {done.grown:,.0f} of them for this"
        yield Answer(_name(hosts, instances), done.rate, note)
    yield Answer("kube-scheduler, published, up to", 810.0, "its CI's floor for 5,000 nodes: 680 to 810", apart=True)
    yield Answer(
        "Nomad, published: C1M", 3750.0, "1,000,000 containers on 5,000 hosts; not waited for a disk", apart=True
    )
    yield Answer("Nomad, published: C2M", 1500.0, "2,000,000 containers on 6,100 hosts", apart=True)


def _name(hosts: int, instances: int) -> str:
    return f"{hosts:,} hosts, {instances:,} instances"


def _measure(hosts: int, instances: int) -> _Placed:
    # Not in memory, where waiting for the disk would cost nothing.
    directory = Path(tempfile.mkdtemp(prefix="zeitwork-bench-", dir="/var/tmp"))
    try:
        directory.chmod(0o755)  # the database's own user passes through it
        return trio.run(_run, directory, hosts, instances)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _run(directory: Path, hosts: int, instances: int) -> _Placed:
    server = EmbeddedServer(directory / "data", directory / "postgres")
    await server.start()
    try:
        async with open_store(server.dsn):
            pass
        await trio.to_thread.run_sync(add_hosts, server.dsn, hosts)
        done = await trio.run_process(
            [sys.executable, "-m", "bench._placing", server.dsn, str(instances)],
            cwd=ROOT,
            env=environment(directory / "pycache"),
            capture_stdout=True,
        )
    finally:
        await server.stop()
    said = json.loads(done.stdout)
    if said["placed"] != instances:
        raise RuntimeError(f"{said['placed']} of {instances} instances were placed")
    return _Placed(instances / said["seconds"], said["peak"], said["grown"])


QUESTION = Question("placements_durable", "placements, durable and planned", "a second", "higher", ask, target=5000)
