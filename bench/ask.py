"""How long does a question to another actor take, with a deadline, until its answer is here?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pykka
import trio

from bench._parts import Echo, Get
from bench.question import Answer, Question, best_of
from runtime import Spec, System

TIMEOUT = 5.0
ROUNDS = 5


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; microseconds."""
    count = 500 if quick else 10_000
    subjects: dict[str, Callable[[], float]] = {
        "zeitwork actor": lambda: trio.run(_actor, count),
        "trio channels, with fail_after": lambda: trio.run(_channels, count, True),
        "trio channels, no deadline": lambda: trio.run(_channels, count, False),
        "asyncio queue and future, with wait_for": lambda: asyncio.run(_asyncio(count, True)),
        "asyncio queue and future, no deadline": lambda: asyncio.run(_asyncio(count, False)),
        "pykka, ask(timeout=5)": lambda: _pykka(count),
    }
    yield from best_of(1 if quick else ROUNDS, "lower", subjects, {"pykka, ask(timeout=5)": "a thread each"})


async def _timed(count: int, once: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    for _ in range(count):
        await once()
    return (time.perf_counter() - began) / count * 1e6


async def _actor(count: int) -> float:
    taken = 0.0
    async with System() as system:
        ref = await system.start(Spec("echo", Echo))
        taken += await _timed(count, lambda: ref.ask(Get(1), timeout=TIMEOUT))
    return taken


async def _channels(count: int, deadline: bool) -> float:
    send, receive = trio.open_memory_channel[tuple[int, trio.MemorySendChannel[int]]](1024)

    async def serve() -> None:
        async for number, answer in receive:
            answer.send_nowait(number)

    async def once() -> int:
        put, get = trio.open_memory_channel[int](1)
        with trio.fail_after(TIMEOUT) if deadline else contextlib.nullcontext():
            await send.send((1, put))
            return await get.receive()

    taken = 0.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        taken = await _timed(count, once)
        nursery.cancel_scope.cancel()
    return taken


async def _asyncio(count: int, deadline: bool) -> float:
    queue: asyncio.Queue[tuple[int, asyncio.Future[int]]] = asyncio.Queue(1024)
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        while True:
            number, answer = await queue.get()
            answer.set_result(number)

    async def once() -> int:
        answer: asyncio.Future[int] = loop.create_future()
        await queue.put((1, answer))
        return await (asyncio.wait_for(answer, TIMEOUT) if deadline else answer)

    server = asyncio.create_task(serve())
    taken = await _timed(count, once)
    server.cancel()
    return taken


class _PykkaEcho(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> Any:
        return message


def _pykka(count: int) -> float:
    ref = _PykkaEcho.start()
    try:
        began = time.perf_counter()
        for _ in range(count):
            ref.ask(1, timeout=TIMEOUT)
        return (time.perf_counter() - began) / count * 1e6
    finally:
        ref.stop()


QUESTION = Question("ask", "ask with deadline, in one process", "µs", "lower", ask, target=25)
