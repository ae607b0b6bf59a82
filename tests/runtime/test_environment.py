"""Clocks and chance, real and simulated."""

from __future__ import annotations

import time

import trio
import trio.testing

from runtime import RealEnvironment, SimulatedEnvironment


async def test_the_real_one_uses_the_clock_that_counts_suspends() -> None:
    env = RealEnvironment()
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= env.monotonic() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert abs(env.now() - time.time()) < 60
    assert len(env.entropy(16)) == 16
    assert env.entropy(16) != env.entropy(16)
    end = env.monotonic() + 0.02
    await env.sleep_until(end)
    assert env.monotonic() >= end


async def test_the_simulated_one_repeats_itself(autojump_clock: trio.testing.MockClock) -> None:
    one, two, other = SimulatedEnvironment(7), SimulatedEnvironment(7), SimulatedEnvironment(8)
    assert one.entropy(8) == two.entropy(8) != other.entropy(8)
    assert one.random.random() == two.random.random()
    began = one.now()
    await one.sleep_until(one.monotonic() + 1000)
    assert one.now() == began + 1000
