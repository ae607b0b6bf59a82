"""Actors and messages that the tests of the runtime share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
import trio.testing

from runtime import Actor, Exit, Message, Request, SimulatedEnvironment, Spec, System


class Refused(Exception):
    """Looks like ``actors.model.errors.Problem``, which the runtime must not import."""

    code = "refused"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Note(Message):
    text: str = ""


@dataclass(frozen=True, slots=True)
class Do(Message):
    """Runs ``what`` in the handler."""

    what: Callable[[Player], object]


@dataclass(frozen=True, slots=True)
class Query(Request[str]):
    """Runs ``what`` in the handler, which answers."""

    what: Callable[[Player], object]


@dataclass(frozen=True, slots=True)
class Crash(Message):
    error: Exception


class Player(Actor):
    """Does what messages say and writes down what happened."""

    def __init__(self, diary: list[str] | None = None, on_init: Callable[[Player], object] | None = None) -> None:
        self.diary = diary if diary is not None else []
        self.seen: list[Message] = []
        self._on_init = on_init

    async def init(self) -> None:
        if self._on_init is not None:
            await maybe(self._on_init(self))
        self.diary.append(f"{self.ctx.name} up")

    async def receive(self, message: Message) -> None:
        self.seen.append(message)
        match message:
            case Do(what=what) | Query(what=what):
                await maybe(what(self))
            case Crash(error=error):
                raise error

    async def stopped(self, reason: Exit) -> None:
        self.diary.append(f"{self.ctx.name} {reason.kind}")


async def maybe(result: object) -> None:
    if hasattr(result, "__await__"):
        await result


def player(
    name: str, diary: list[str] | None = None, on_init: Callable[[Player], object] | None = None, **more
) -> Spec:  # type: ignore[no-untyped-def]
    return Spec(name, lambda: Player(diary, on_init), **more)


@asynccontextmanager
async def simulated(**more) -> AsyncIterator[System]:  # type: ignore[no-untyped-def]
    """A system on trio's clock."""
    async with System(SimulatedEnvironment(), **more) as system:
        yield system


def nap(seconds: float) -> Callable[[Player], object]:
    """Return something for a handler or ``init`` to do that takes a while."""

    async def sleep(_: Player) -> None:
        await trio.sleep(seconds)

    return sleep


async def settled() -> None:
    """Wait until nothing but timers is left to run."""
    await trio.testing.wait_all_tasks_blocked()
