"""How long from ``zeitwork run`` on warm data until its endpoint answers ``/health`` with 200?"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from bench._host import Host, a_host, environment, missing
from bench.question import Answer, Question, best_of
from zeitwork.store.embedded import EmbeddedServer

#: What a host is made of at least: on these libraries none starts faster.
LIBRARIES = "import trio, starlette.applications, hypercorn.trio.tcp_server, psycopg"
_OURS = "import zeitwork.cli.host, zeitwork.logs, zeitwork.tree"
ROUNDS = 4


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; milliseconds."""
    reason = missing()
    if reason is not None:
        yield Answer("zeitwork run, next start", None, reason)
        return
    with a_host() as host:
        first = _run(host)  # makes the database and the byte code
        pycache = host.directory / "pycache"
        subjects: dict[str, Callable[[], float]] = {
            "zeitwork run, next start": lambda: _run(host),
            "python with the imports of zeitwork run": lambda: _python(_OURS, pycache),
            "python with trio starlette hypercorn psycopg": lambda: _python(LIBRARIES, pycache),
            "embedded Postgres alone": lambda: _postgres(host.directory / "data" / "postgres"),
        }
        for subject in list(subjects)[1:]:
            subjects[subject]()
        yield from best_of(1 if quick else ROUNDS, "lower", subjects, {"zeitwork run, next start": "database included"})
        yield Answer("zeitwork run, first start", first, "makes the database and the byte code")


def _run(host: Host) -> float:
    taken = host.start()
    host.stop()
    return taken * 1000


def _python(code: str, pycache: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd="/", env=environment(pycache), timeout=60, check=True)
    return (time.perf_counter() - began) * 1000


def _postgres(directory: Path) -> float:
    async def start() -> float:
        began = time.perf_counter()
        server = EmbeddedServer(directory, run / "postgres")
        await server.start()
        try:
            return time.perf_counter() - began
        finally:
            await server.stop()

    with tempfile.TemporaryDirectory(prefix="zeitwork-bench-", dir="/run") as made:
        run = Path(made)
        run.chmod(0o755)  # the database's own user passes through it
        return trio.run(start) * 1000


QUESTION = Question("host_start", "zeitwork run to /health, warm data", "ms", "lower", ask, target=1500)
