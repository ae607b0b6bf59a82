"""How much memory does the host process take while nothing happens?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bench._host import a_host, assets, environment, memory_of, missing
from bench.host_start import LIBRARIES
from bench.question import Answer, Question

#: Seconds after the start: what it does at its beginning is done, what it does every few seconds has been done.
SETTLE = 5.0


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; MiB."""
    reason = missing()
    if reason is not None:
        yield Answer("host process", None, reason)
        return
    place = assets()
    assert place is not None
    with a_host() as host:
        host.start()
        host.stop()  # the first start makes the database
        host.start()
        time.sleep(0.5 if quick else SETTLE)
        resident, proportional = memory_of(host.pid)
        yield Answer("host process", resident, f"resident; {proportional:.1f} proportional")
        if not quick:
            host.cli("deploy", str(place / "hello.tar"), "--memory", "128MiB")
            resident, proportional = memory_of(host.pid)
            yield Answer(
                "host process with one VM",
                resident,
                f"resident; {proportional:.1f} proportional; image added, VM booted",
            )
        bare = _bare(LIBRARIES, host.directory / "pycache")
        yield Answer("python, trio starlette hypercorn psycopg", bare[0], f"resident; {bare[1]:.1f} proportional")
        bare = _bare("pass", host.directory / "pycache")
        yield Answer("python, no imports", bare[0], f"resident; {bare[1]:.1f} proportional")
        database = _shares(_children(host.pid))
        yield Answer("embedded Postgres", sum(database), f"proportional, {len(database)} processes")


def _bare(code: str, pycache: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", f"{code}\nprint(flush=True)\ninput()"]
    with subprocess.Popen(
        command, cwd="/", env=environment(pycache), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = memory_of(process.pid)
        process.communicate(b"\n", timeout=60)
    return found


def _shares(pids: list[int]) -> list[float]:
    """Return the proportional sets of those that still run: workers of a database come and go."""
    found = []
    for pid in pids:
        with suppress(OSError, KeyError):
            found.append(memory_of(pid)[1])
    return found


def _children(pid: int) -> list[int]:
    """Return the PIDs of all descendants that are Postgres."""
    found = []
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            name, _, rest = stat.rpartition(")")
            parents[int(entry.name)] = (int(rest.split()[1]), name.partition("(")[2])
    for child, (parent, name) in parents.items():
        line = [parent]
        while line[-1] in parents and line[-1] != pid:
            line.append(parents[line[-1]][0])
        if line[-1] == pid and name.startswith("postgres"):
            found.append(child)
    return found


QUESTION = Question("host_memory", "memory of an idle host process", "MiB", "lower", ask, target=80)
