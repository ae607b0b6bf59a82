"""How long is nobody the leader when the one that leads is killed, or ends in good order?

Three processes of their own stand for election on a real Postgres; whichever leads is ended. What a lease allows at
best is what was left of it at that moment: until then nobody can know.
"""

from __future__ import annotations

import ipaddress
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import trio

from bench._host import ROOT, environment
from bench.question import Answer, Question
from zeitwork.store import open_store
from zeitwork.store.election import TTL
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.rows import HostRegistration
from zeitwork.store.system_user import find_user

CANDIDATES, KILLS, RESIGNATIONS = 3, 6, 6
#: A new leader by then: the lease and one second (seconds).
TARGET = TTL + 1.0


@dataclass
class _Candidate:
    process: subprocess.Popen[str]
    node: UUID
    said: queue.SimpleQueue[tuple[int, str, float]]
    number: int
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.put((self.number, line.strip(), time.monotonic()))


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; seconds."""
    ours = "killed: until another leads"
    if find_user() is None:
        yield Answer(ours, None, "the database's system user does not exist; zeitwork setup makes it")
        return
    with tempfile.TemporaryDirectory(prefix="zeitwork-bench-", dir="/run") as made:
        directory = Path(made)
        directory.chmod(0o755)  # the database's own user passes through it
        killed, left, resigned = trio.run(_measure, directory, 1 if quick else KILLS, 1 if quick else RESIGNATIONS)
    worst = max(killed)
    yield Answer(ours, worst, f"the worst of {len(killed)}; median {statistics.median(killed):.2f} s")
    beyond = max(taken - rest for taken, rest in zip(killed, left, strict=True))
    yield Answer("what was left of the lease then", max(left), "nobody can know before it is over")
    yield Answer("beyond the end of the lease", beyond, "the worst", apart=True)
    yield Answer("ended in good order: until another leads", max(resigned), "lease given back", apart=True)


async def _measure(directory: Path, kills: int, resignations: int) -> tuple[list[float], list[float], list[float]]:
    server = EmbeddedServer(directory / "data", directory / "postgres")
    await server.start()
    try:
        nodes = await _register(server.dsn)
        return await trio.to_thread.run_sync(_run, server.dsn, nodes, directory / "pycache", kills, resignations)
    finally:
        await server.stop()


async def _register(dsn: str) -> list[UUID]:
    async with open_store(dsn) as store:
        network = ipaddress.IPv4Network("10.128.0.0/16")
        return [
            (await store.nodes.register(HostRegistration(uuid4(), f"h{number}", "boot", region_v4=network))).id
            for number in range(CANDIDATES)
        ]


def _run(
    dsn: str, nodes: list[UUID], pycache: Path, kills: int, resignations: int
) -> tuple[list[float], list[float], list[float]]:
    said: queue.SimpleQueue[tuple[int, str, float]] = queue.SimpleQueue()
    candidates: dict[int, _Candidate] = {}
    generations = dict.fromkeys(nodes, 1)
    numbers = iter(range(10_000))

    with ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile("a+"))

        def stand(node: UUID) -> None:
            """Start a candidate and return once it stands; its host's earlier process is gone."""
            number = next(numbers)
            command = [sys.executable, "-m", "bench._candidate", dsn, str(node), str(generations[node])]
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(pycache),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            stack.callback(process.wait, 60)
            stack.callback(process.kill)
            candidates[number] = _Candidate(process, node, said, number)
            generations[node] += 1

        def next_leader(since: float) -> tuple[int, float]:
            while True:
                try:
                    number, line, at = said.get(timeout=120)
                except queue.Empty:
                    errors.seek(0)
                    raise TimeoutError(f"nobody leads; the candidates said:\n{errors.read()[-4000:]}") from None
                if line.startswith("leads ") and at >= since:
                    return number, at

        def present(leader: int) -> int:
            """Return who leads by now: another one, where the machine stood still for as long as a lease is."""
            with suppress(queue.Empty):
                while True:
                    number, line, _ = said.get_nowait()
                    if line.startswith("leads "):
                        leader = number
            return leader

        def end(leader: int, how: signal.Signals) -> tuple[int, float]:
            """End the leader; return who follows and after how many seconds."""
            began = time.monotonic()
            candidates[leader].process.send_signal(how)
            follower, at = next_leader(began)
            candidates[leader].process.wait(60)
            return follower, at - began

        for node in nodes:
            stand(node)
        leader, _ = next_leader(0.0)
        killed, left, resigned = [], [], []
        with psycopg.connect(dsn, autocommit=True) as connection:
            for round_ in range(kills + resignations):
                # Not always at the same time after a renewal; and all three stand by then.
                time.sleep(3.0 + 0.7 * (round_ % 5))
                leader = present(leader)
                if round_ < kills:
                    row = connection.execute(
                        "select extract(epoch from expires_at - clock_timestamp())::float from leadership"
                    ).fetchone()
                    assert row is not None
                    follower, taken = end(leader, signal.SIGKILL)
                    killed.append(taken)
                    left.append(row[0])
                else:
                    follower, taken = end(leader, signal.SIGINT)
                    resigned.append(taken)
                # Its host stands again, but only now: it would take its own earlier lease over without a wait.
                stand(candidates[leader].node)
                leader = follower
        return killed, left, resigned


QUESTION = Question("leader_failover", "leader killed to another one leading", "s", "lower", ask, target=TARGET)
