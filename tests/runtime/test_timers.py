"""Timers on the environment's clock."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing

from runtime import RealEnvironment, System
from runtime.timers import COMPACT_FROM
from tests.runtime.parts import Do, Note, Player, nap, player, settled, simulated


async def test_timers_fire_in_order_and_once(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        actors: list[Player] = []
        await system.start(player("a", on_init=actors.append))
        context = actors[0].ctx
        for seconds in (3, 1, 2, 0):
            context.after(seconds, Note(str(seconds)))
        context.after(1.5, Note("never")).cancel()
        await trio.sleep(10)
        assert [note.text for note in actors[0].seen] == ["0", "1", "2", "3"]
        assert len(system.timers) == 0


async def test_a_period_ticks_with_jitter_until_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        times: list[float] = []
        actors: list[Player] = []
        await system.start(player("a", on_init=actors.append))
        tick = Do(lambda _: times.append(trio.current_time()))
        periodic = actors[0].ctx.every(10, tick, jitter=0.1)
        await trio.sleep(1000)
        assert 90 <= len(times) <= 111
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert 9 <= min(gaps) < max(gaps) <= 11
        assert periodic.active
        periodic.cancel()
        assert not periodic.active
        count = len(times)
        await trio.sleep(100)
        assert len(times) == count
        with pytest.raises(ValueError):
            actors[0].ctx.every(0, tick)


async def test_ticks_that_nobody_takes_do_not_pile_up(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        actors: list[Player] = []
        ref = await system.start(player("a", on_init=actors.append))
        actors[0].ctx.every(1, Note("tick"))
        ref.tell(Do(nap(100.5)))
        await trio.sleep(100)
        assert system.snapshot()[0].lane_depth == 1
        await trio.sleep(1)
        assert 1 <= len(actors[0].seen) - 1 <= 2


async def test_timers_end_with_the_life(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        actors: list[Player] = []
        await system.start(player("a", on_init=actors.append))
        actors[0].ctx.every(1, Note())
        actors[0].ctx.after(5, Note())
        await system.stop("a")
        await trio.sleep(20)
        assert actors[0].seen == []
        assert len(system.timers) == 0
        assert system.dead_letters.count == 0


async def test_cancelled_timers_are_swept(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        kept = system.timers.after(1e6, lambda: None)
        for _ in range(COMPACT_FROM * 10):
            system.timers.after(1e6, lambda: None).cancel()
        assert len(system.timers) == 1
        assert len(system.timers._heap) < COMPACT_FROM * 2
        assert kept.active


async def test_an_earlier_timer_does_not_wait_for_a_later_one() -> None:
    async with System(RealEnvironment()) as system:
        fired = trio.Event()
        system.timers.after(3600, lambda: None)
        await settled()
        system.timers.after(0.01, fired.set)
        with trio.fail_after(30):
            await fired.wait()
