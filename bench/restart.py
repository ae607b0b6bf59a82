"""How long from the message that crashes an actor until its next life is ready?"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator

import structlog
import trio

from bench._parts import Item
from bench.question import Answer, Question, best_of
from runtime import Actor, Backoff, Intensity, Message, Spec, System

ROUNDS = 5


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; microseconds."""
    count = 50 if quick else 1000
    subjects: dict[str, Callable[[], float]] = {
        "zeitwork actor": lambda: trio.run(_actor, count),
        "zeitwork actor, its failure logged": lambda: _logged(count),
        "trio task in a loop with try": lambda: trio.run(_task, count),
        "asyncio task in a loop with try": lambda: asyncio.run(_asyncio(count)),
    }
    notes = {
        "zeitwork actor": "told, failed, judged, started again, init done",
        "zeitwork actor, its failure logged": "as JSON with its traceback",
        "trio task in a loop with try": "no supervision",
        "asyncio task in a loop with try": "no supervision",
    }
    yield from best_of(1 if quick else ROUNDS, "lower", subjects, notes)
    yield Answer("pykka", None, "has no supervision: a failed actor stays down")


def _logged(count: int) -> float:
    before = structlog.get_config()
    with open(os.devnull, "w") as nowhere:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(default=str),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(0),
            logger_factory=structlog.PrintLoggerFactory(nowhere),
            cache_logger_on_first_use=False,
        )
        try:
            return trio.run(_actor, count)
        finally:
            structlog.configure(**before)


class _Fragile(Actor):
    def __init__(self, born: list[trio.Event]) -> None:
        self._born = born

    async def init(self) -> None:
        self._born[0].set()

    async def receive(self, _: Message) -> None:
        raise ValueError("broken")


async def _actor(count: int) -> float:
    born = [trio.Event()]
    taken = 0.0
    async with System(intensity=Intensity(limit=count + 1)) as system:
        await system.start(Spec("a", lambda: _Fragile(born), backoff=Backoff(free=count + 1)))
        named = system.name("a")
        for number in range(count):
            born[0] = trio.Event()
            began = time.perf_counter()
            named.tell(Item(number))
            await born[0].wait()
            taken += time.perf_counter() - began
    return taken / count * 1e6


async def _task(count: int) -> float:
    put, get = trio.open_memory_channel[int](1)
    born = [trio.Event()]

    async def live() -> None:
        born[0].set()
        await get.receive()
        raise ValueError("broken")

    async def supervise() -> None:
        while True:
            try:
                await live()
            except ValueError:
                continue

    taken = 0.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise)
        await born[0].wait()
        for number in range(count):
            born[0] = trio.Event()
            began = time.perf_counter()
            put.send_nowait(number)
            await born[0].wait()
            taken += time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return taken / count * 1e6


async def _asyncio(count: int) -> float:
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    born = [asyncio.Event()]

    async def live() -> None:
        born[0].set()
        await queue.get()
        raise ValueError("broken")

    async def supervise() -> None:
        while True:
            try:
                await live()
            except ValueError:
                continue

    supervisor = asyncio.create_task(supervise())
    await born[0].wait()
    taken = 0.0
    for number in range(count):
        born[0] = asyncio.Event()
        began = time.perf_counter()
        queue.put_nowait(number)
        await born[0].wait()
        taken += time.perf_counter() - began
    supervisor.cancel()
    return taken / count * 1e6


QUESTION = Question("restart", "crash to restarted", "µs", "lower", ask, target=1000)
