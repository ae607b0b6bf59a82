"""Counters of actors only grow, though actors come, fail and go."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from runtime.actor import Actor
from runtime.message import Message
from runtime.spec import Spec
from runtime.system import System
from zeitwork.metrics import catalogue
from zeitwork.metrics.actors import ActorTotals


@dataclass(frozen=True, slots=True)
class Work(Message):
    done: trio.Event
    fail: bool = False


class Worker(Actor):
    async def receive(self, message: Message) -> None:
        assert isinstance(message, Work)
        message.done.set()
        if message.fail:
            raise ValueError("as asked")


def read(totals: ActorTotals) -> dict[tuple[str, str], float]:
    return {
        (family.name, "/".join(sample.labels.values())): sample.value
        for family in totals.families()
        for sample in family.samples
    }


async def work(system: System, name: str, *, fail: bool = False) -> None:
    done = trio.Event()
    await system.name(name).send(Work(done, fail))
    await done.wait()
    await trio.testing.wait_all_tasks_blocked()


async def test_counters_grow_across_lives_and_deaths() -> None:
    with trio.fail_after(90):
        async with System() as system:
            totals = ActorTotals(system)
            for name in ("vm/a", "vm/b", "host"):
                await system.start(Spec(name=name, factory=Worker))
            for name in ("vm/a", "vm/a", "vm/b", "host"):
                await work(system, name)
            first = read(totals)
            assert first[catalogue.ACTORS.name, "vm"] == 2
            assert first[catalogue.ACTORS.name, "host"] == 1
            assert first[catalogue.ACTOR_HANDLED.name, "vm"] == 3
            assert first[catalogue.ACTOR_HANDLED.name, "host"] == 1
            assert first[catalogue.ACTOR_DEPTH.name, "vm"] == 0

            await work(system, "vm/a", fail=True)
            while not (life := system.lookup("vm/a")) or not life.alive:  # noqa: ASYNC110 - until its restart
                await trio.sleep(0.005)
            for _ in range(3):
                await work(system, "vm/a")
            second = read(totals)
            assert second[catalogue.ACTOR_RESTARTS.name, "vm"] == 1
            assert second[catalogue.ACTOR_HANDLED.name, "vm"] >= first[catalogue.ACTOR_HANDLED.name, "vm"] + 3

            await system.stop("vm/a")
            third = read(totals)
            assert third[catalogue.ACTORS.name, "vm"] == 1
            assert third[catalogue.ACTOR_HANDLED.name, "vm"] == second[catalogue.ACTOR_HANDLED.name, "vm"]
            assert third[catalogue.ACTOR_RESTARTS.name, "vm"] == 1
