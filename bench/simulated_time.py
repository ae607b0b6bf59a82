"""How many seconds of a world of hosts are simulated in one second?

The worlds of `tests.simulation`: every host runs the real election, scheduler, host and machine actors, over the
store's double, with faults. What it stands beside is the clock alone: as many tasks as the world has hosts, that do
nothing but sleep a second at a time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import trio
import trio.testing

from bench.question import Answer, Question
from tests.simulation.generate import generate
from tests.simulation.world import simulate

#: Worlds of each size, and their length in minutes.
WORLDS, MINUTES = 4, 3.0
SIZES = (6, 3, 12)


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; simulated seconds per second of one process."""
    worlds, minutes = (1, 0.5) if quick else (WORLDS, MINUTES)
    for hosts in SIZES:
        seconds = taken = 0.0
        broken = 0
        for seed in range(1, worlds + 1):
            result = simulate(generate(seed, hosts, minutes), frozenset())
            seconds += result.seconds
            taken += result.took
            broken += len(result.violations)
        note = f"{worlds} worlds of {minutes:g} minutes with faults; {broken} violations"
        yield Answer(f"worlds of {hosts} hosts", seconds / taken, note)
    yield Answer("the clock alone", _clock(60.0 if quick else 3600.0, SIZES[0]), f"{SIZES[0]} tasks that sleep")


def _clock(seconds: float, tasks: int) -> float:
    async def sleeper() -> None:
        for second in itertools.count(1):
            await trio.sleep_until(second)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(sleeper)
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()

    began = time.perf_counter()
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return seconds / (time.perf_counter() - began)


QUESTION = Question("simulated_time", "simulated seconds per second", "s/s", "higher", ask)
