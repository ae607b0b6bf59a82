"""How long from asking for an actor until it is ready for messages?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pykka
import trio

from bench._parts import Idle
from bench.question import Answer, Question, best_of
from runtime import Spec, System

ROUNDS = 3


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; microseconds."""
    count = 100 if quick else 5_000
    subjects: dict[str, Callable[[], float]] = {
        "zeitwork actor, await start": lambda: trio.run(_actor, count),
        "trio task, await nursery.start": lambda: trio.run(_task, count),
        "asyncio task that says it runs": lambda: asyncio.run(_asyncio(count)),
        "pykka, start": lambda: _pykka(min(count, 500)),
    }
    notes = {"zeitwork actor, await start": "init done, named", "pykka, start": "a thread each, perhaps not yet ready"}
    yield from best_of(1 if quick else ROUNDS, "lower", subjects, notes)


async def _actor(count: int) -> float:
    taken = 0.0
    async with System() as system:
        began = time.perf_counter()
        for number in range(count):
            await system.start(Spec(f"a/{number}", Idle))
        taken = time.perf_counter() - began
    return taken / count * 1e6


async def _task(count: int) -> float:
    async def serve(task_status: trio.TaskStatus[trio.MemorySendChannel[int]]) -> None:
        put, get = trio.open_memory_channel[int](1024)
        task_status.started(put)
        async for _ in get:
            pass

    taken = 0.0
    async with trio.open_nursery() as nursery:
        began = time.perf_counter()
        for _ in range(count):
            await nursery.start(serve)
        taken = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return taken / count * 1e6


async def _asyncio(count: int) -> float:
    async def serve(ready: asyncio.Event) -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(1024)
        ready.set()
        await queue.get()

    tasks = []
    began = time.perf_counter()
    for _ in range(count):
        ready = asyncio.Event()
        tasks.append(asyncio.create_task(serve(ready)))
        await ready.wait()
    taken = time.perf_counter() - began
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return taken / count * 1e6


class _PykkaIdle(pykka.ThreadingActor):
    pass


def _pykka(count: int) -> float:
    began = time.perf_counter()
    refs = [_PykkaIdle.start() for _ in range(count)]
    taken = time.perf_counter() - began
    for ref in refs:
        ref.stop(block=False)
    pykka.ActorRegistry.stop_all()
    return taken / count * 1e6


QUESTION = Question("spawn", "spawn to ready", "µs", "lower", ask)
