"""How much memory does an idle actor take, and can there be 100,000 in one process?

Growth of the resident set over many, each subject in a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pykka
import trio

from bench._parts import Idle
from bench.question import Answer, Question
from runtime import Spec, System

DEADLINE = 300.0


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; bytes."""
    many, more, threads = (1000, 2000, 50) if quick else (10_000, 100_000, 1000)
    yield Answer("zeitwork actor", _apart("actor", many), f"{many:,} of them")
    yield Answer("zeitwork actor, many", _apart("actor", more), f"{more:,} of them")
    yield Answer("trio task with a memory channel", _apart("task", many), f"{many:,} of them")
    yield Answer("asyncio task with a queue", _apart("asyncio", many), f"{many:,} of them")
    yield Answer("pykka actor", _apart("pykka", threads), f"{threads:,} of them, a thread each")


def _apart(subject: str, count: int) -> float:
    command = [sys.executable, "-m", "bench.idle_memory", subject, str(count)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=DEADLINE, check=True)
    return float(done.stdout) / count


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


async def _actor(count: int) -> int:
    taken = 0
    async with System() as system:
        await system.start(Spec("warm", Idle))
        before = _resident()
        for number in range(count):
            await system.start(Spec(f"a/{number}", Idle))
        taken += _resident() - before
    return taken


async def _task(count: int) -> int:
    async def serve(task_status: trio.TaskStatus[trio.MemorySendChannel[int]]) -> None:
        put, get = trio.open_memory_channel[int](1024)
        task_status.started(put)
        async for _ in get:
            pass

    taken = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        before = _resident()
        doors = [await nursery.start(serve) for _ in range(count)]
        taken = _resident() - before
        nursery.cancel_scope.cancel()
        assert len(doors) == count
    return taken


async def _asyncio(count: int) -> int:
    async def serve(queue: asyncio.Queue[int]) -> None:
        await queue.get()

    before = _resident()
    doors: list[asyncio.Queue[int]] = [asyncio.Queue(1024) for _ in range(count)]
    tasks = [asyncio.create_task(serve(door)) for door in doors]
    await asyncio.sleep(0)
    taken = _resident() - before
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return taken


class _PykkaIdle(pykka.ThreadingActor):
    pass


def _pykka(count: int) -> int:
    before = _resident()
    refs = [_PykkaIdle.start() for _ in range(count)]
    taken = _resident() - before
    for ref in refs:
        ref.stop(block=False)
    pykka.ActorRegistry.stop_all()
    return taken


def main() -> None:
    """Measure one subject and print the growth in bytes."""
    subject, count = sys.argv[1], int(sys.argv[2])
    match subject:
        case "actor":
            taken = trio.run(_actor, count)
        case "task":
            taken = trio.run(_task, count)
        case "asyncio":
            taken = asyncio.run(_asyncio(count))
        case "pykka":
            taken = _pykka(count)
        case _:
            raise SystemExit(f"no such subject: {subject}")
    print(taken)


QUESTION = Question("idle_memory", "memory of an idle actor", "bytes", "lower", ask, target=8000)

if __name__ == "__main__":
    main()
