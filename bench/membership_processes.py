"""The same with ten real processes: how soon do all know that one has died, and what does knowing it cost?

Each is a process of its own with real links, mutual TLS included, on this machine's loopback. One is killed: its port
refuses. One is stopped (SIGSTOP): its machine still takes connections, and nobody answers. Bytes are those of its
sockets, CPU is the process's own, both at rest but for metadata that changes.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench._crowd import Crowd
from bench.question import Answer, Question

PROCESSES = 10
#: All know by then (seconds), as in the simulation of a hundred.
TARGET = 8.0
#: Seconds at rest.
REST = 20.0


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; seconds, and other units where it says so."""
    count, rest = (4, 1.0) if quick else (PROCESSES, REST)
    with tempfile.TemporaryDirectory(prefix="zeitwork-bench-") as made, ExitStack() as stack:
        crowd = Crowd(Path(made), count, stack)
        joined = crowd.all_know()
        time.sleep(rest / 2)
        sent, cpu = crowd.spent()
        time.sleep(rest)
        then_sent, then_cpu = crowd.spent()
        stopped = crowd.lose(count, signal.SIGSTOP)
        killed = crowd.lose(count - 1, signal.SIGKILL)
        false = crowd.false
    yield Answer(f"{count} processes: one stops answering, until all know it", stopped, f"{false} false deaths")
    yield Answer("  one is killed: its port refuses", killed, "", apart=True)
    yield Answer("  all started at once: all know all", joined, "since the last one stood", apart=True)
    per = rest * count
    yield Answer("  kB/s sent by each", (then_sent - sent) / per / 1000, "TLS included", apart=True)
    yield Answer("  ms of CPU/s of each", (then_cpu - cpu) / per * 1000, "the whole process", apart=True)


QUESTION = Question(
    "membership_processes", "real process gone to all others knowing it", "s", "lower", ask, target=TARGET
)
