"""The leader's part of placing in a process of its own: ``python -m bench._placing DSN INSTANCES``.

Fills the database with instances that want to be placed, evaluates until none does, and prints a JSON line: seconds,
how many were placed, and how much memory that took at most.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from uuid import UUID

import psycopg
import trio

from actors.scheduler.counts import Counts
from actors.scheduler.evaluation import Evaluation
from runtime.lease import Term
from zeitwork.store import Store, open_store
from zeitwork.store.election import TTL
from zeitwork.store.identifiers import new_id

#: The process that leads.
LEADER = UUID(int=1)
#: What each instance asks for: of CPUs, MiB of memory and MiB of disk; and how many images they are of.
VCPU, MEMORY, DISK, IMAGES = 1, 256, 1024, 20
#: What each host has: CPUs (with `OVERCOMMIT`) and MiB.
CPUS, HOST_MEMORY, OVERCOMMIT, OVERHEAD = 64, 256 * 1024, 16, 24


def add_hosts(dsn: str, count: int) -> None:
    """Write so many hosts that are ready, with pools of both families, and a leader; the schema must be there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        region = new_id()
        connection.execute(
            "insert into regions (id, name, v6, v4) values (%s, 'r', 'fd00:1::/48', '10.0.0.0/8')", (region,)
        )
        connection.execute(
            "insert into nodes (id, host_id, hostname, region_id, state, generation, vcpu_total, memory_total, "
            "vcpu_reserved, memory_reserved, vcpu_overcommit, memory_overcommit, memory_overhead, hypervisor) "
            "select gen_random_uuid(), gen_random_uuid(), 'h' || g, %s, 'ready', 1, %s, %s, 0, 0, %s, 1, %s, 'qemu' "
            "from generate_series(1, %s) g",
            (region, CPUS, HOST_MEMORY, OVERCOMMIT, OVERHEAD, count),
        )
        nodes = [row[0] for row in connection.execute("select id from nodes order by id")]
        with (
            connection.cursor() as cursor,
            cursor.copy("copy pools (network, node_id, first_offset, last_offset, next_offset) from stdin") as copy,
        ):
            for number, node in enumerate(nodes):
                copy.write_row((f"10.{number >> 6}.{(number & 63) << 2}.0/22", node, 1, 1022, 1))
                copy.write_row((f"fd00:1:0:{number:x}::/64", node, 2, (1 << 62) - 1, 2))
        for number in range(IMAGES):
            connection.execute(
                "insert into images (id, source, status, digest, config) values (%s, %s, 'ready', %s, '{}')",
                (new_id(), f"i{number}", f"sha256:{number}"),
            )
        # The term of this run; nobody else stands.
        connection.execute(
            "insert into leadership (epoch, node_id, generation, boot, expires_at) values (1, %s, 1, %s, 'infinity')",
            (nodes[0], LEADER),
        )
        connection.execute("analyze")


def add_instances(dsn: str, count: int) -> None:
    """Write so many instances that want to be placed."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        images = [row[0] for row in connection.execute("select id from images")]
        columns = "id, image_id, vcpu, memory, disk, default_port, stop_timeout"
        with (
            connection.cursor() as cursor,
            cursor.copy(f"copy instances ({columns}) from stdin".encode()) as copy,
        ):
            for number in range(count):
                copy.write_row((new_id(), images[number % IMAGES], VCPU, MEMORY, DISK, 8080, 30))
        connection.execute("analyze instances")


async def place_all(store: Store) -> tuple[float, int]:
    """Evaluate until nothing is pending, as the scheduler does; return the seconds and how many were placed."""
    term = Term(1, LEADER, TTL)
    counts = Counts()
    began = time.perf_counter()
    resume, more = None, True
    while more:
        evaluation = Evaluation(store.scheduling, lambda: term, time.monotonic, random.Random(1), counts, resume=resume)
        result = await evaluation.run()
        if result.failures:
            raise RuntimeError(str(result.failures))
        resume, more = result.resume, result.more
    return time.perf_counter() - began, counts.placed


async def _main(dsn: str, count: int) -> None:
    async with open_store(dsn) as store:
        await trio.to_thread.run_sync(add_instances, dsn, count)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds, placed = await place_all(store)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = {"seconds": seconds, "placed": placed, "peak": peak / 1024, "grown": (peak - before) / 1024}
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], int(sys.argv[2]))
