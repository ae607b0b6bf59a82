"""How many messages a second can ten senders get through one receiver, with back-pressure?"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import trio

from bench._parts import Item
from bench.question import Answer, Question, best_of
from runtime import Actor, Message, Ref, Spec, System

SENDERS = 10
ROOM = 1024
ROUNDS = 9


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; messages per second."""
    each = 500 if quick else 15_000
    subjects: dict[str, Callable[[], float]] = {
        "zeitwork actor, await send": lambda: trio.run(_actor, each),
        "trio memory channel, send": lambda: trio.run(_channel, each),
        "asyncio queue, put": lambda: asyncio.run(_queue(each)),
        "pykka, tell from ten threads": lambda: _pykka(each // 3),
    }
    notes = {"zeitwork actor, await send": "introspection on", "pykka, tell from ten threads": "unbounded"}
    yield from best_of(1 if quick else ROUNDS, "higher", subjects, notes)


class _Sink(Actor):
    def __init__(self, total: int) -> None:
        self._left = total
        self.done = trio.Event()

    async def receive(self, _: Message) -> None:
        self._left -= 1
        if not self._left:
            self.done.set()


async def _actor(each: int) -> float:
    async def sender(ref: Ref) -> None:
        for number in range(each):
            await ref.send(Item(number))

    taken = 0.0
    async with System() as system:
        sink = _Sink(each * SENDERS)
        ref = await system.start(Spec("sink", lambda: sink, mailbox=ROOM))
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(SENDERS):
                nursery.start_soon(sender, ref)
            await sink.done.wait()
        taken = time.perf_counter() - began
        (info,) = system.snapshot()
        assert info.handled == each * SENDERS
    return each * SENDERS / taken


async def _channel(each: int) -> float:
    put, get = trio.open_memory_channel[Item](ROOM)

    async def sender() -> None:
        for number in range(each):
            await put.send(Item(number))

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(SENDERS):
            nursery.start_soon(sender)
        for _ in range(each * SENDERS):
            await get.receive()
    return each * SENDERS / (time.perf_counter() - began)


async def _queue(each: int) -> float:
    queue: asyncio.Queue[Item] = asyncio.Queue(ROOM)

    async def sender() -> None:
        for number in range(each):
            await queue.put(Item(number))

    began = time.perf_counter()
    tasks = [asyncio.create_task(sender()) for _ in range(SENDERS)]
    for _ in range(each * SENDERS):
        await queue.get()
    await asyncio.gather(*tasks)
    return each * SENDERS / (time.perf_counter() - began)


class _PykkaSink(pykka.ThreadingActor):
    def __init__(self, total: int, done: threading.Event) -> None:
        super().__init__()
        self._left = total
        self._done = done

    def on_receive(self, _: Any) -> None:
        self._left -= 1
        if not self._left:
            self._done.set()


def _pykka(each: int) -> float:
    done = threading.Event()
    ref = _PykkaSink.start(each * SENDERS, done)

    def sender() -> None:
        for number in range(each):
            ref.tell(Item(number))

    began = time.perf_counter()
    threads = [threading.Thread(target=sender) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    done.wait()
    taken = time.perf_counter() - began
    for thread in threads:
        thread.join()
    ref.stop()
    return each * SENDERS / taken


QUESTION = Question("fan_in", "fan-in, 10 senders to 1 receiver", "messages/s", "higher", ask, target=500_000)
