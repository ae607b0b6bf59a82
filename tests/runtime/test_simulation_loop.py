"""The loop of simulations: a clock that jumps, one order for each seed, and an end to whatever spins."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing

from runtime.simulation import HostEnvironment, Spun, run


async def race(many: int) -> list[int]:
    order: list[int] = []

    async def one(number: int) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(many):
            nursery.start_soon(one, number)
    return order


def test_time_passes_at_once() -> None:
    async def main() -> float:
        await trio.sleep(30 * 24 * 3600)
        return trio.current_time()

    began = time.perf_counter()
    assert run(main) == 30 * 24 * 3600
    assert time.perf_counter() - began < 60


def test_a_seed_decides_the_order() -> None:
    orders = [run(race, 8, seed=seed) for seed in (1, 2, 3, 4)]
    assert len({tuple(order) for order in orders}) > 1
    assert [run(race, 8, seed=seed) for seed in (1, 2, 3, 4)] == orders


def test_a_task_that_spins_is_named() -> None:
    async def spin() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 5)
            nursery.start_soon(spin, name="the one that spins")

    with pytest.raises(Spun, match="the one that spins"):
        run(main, most_steps=2000)


def test_a_step_that_does_not_end_is_interrupted() -> None:
    async def main() -> None:
        while True:
            pass

    with pytest.raises(Spun, match="test_simulation_loop"):
        run(main, longest_step=0.2)


def test_many_steps_in_the_course_of_time_are_no_spin() -> None:
    async def main() -> int:
        steps = 0
        for _ in range(3000):
            await trio.sleep(0.001)
            steps += 1
        return steps

    assert run(main, most_steps=1000) == 3000


def test_waiting_for_ever_is_told() -> None:
    async def main() -> None:
        await trio.sleep(7)
        await trio.Event().wait()

    with pytest.raises(Spun, match=r"for ever, at 7\.000 s"):
        run(main)


def test_errors_come_through_and_trio_is_as_before() -> None:
    internals = trio._core._run
    before = internals._ALLOW_DETERMINISTIC_SCHEDULING, internals._r

    async def main() -> None:
        raise RuntimeError("as it was")

    with pytest.raises(RuntimeError, match="as it was"):
        run(main, seed=9)
    assert (internals._ALLOW_DETERMINISTIC_SCHEDULING, internals._r) == before


def test_a_wall_clock_steps_and_a_monotonic_one_does_not() -> None:
    async def main() -> None:
        env = HostEnvironment(1, epoch=1000.0)
        await trio.sleep(5)
        assert env.now() == 1005.0
        env.step_clock(-3600.0)
        assert env.now() == 1005.0 - 3600.0
        assert env.monotonic() == trio.current_time()
        env.step_clock(3600.0)
        assert env.now() == 1005.0

    run(main)


def test_timers_of_a_host_wait_while_it_is_held() -> None:
    async def main() -> list[float]:
        env, woken = HostEnvironment(1), []

        async def sleeper(when: float) -> None:
            await env.sleep_until(when)
            woken.append(env.monotonic())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper, 1.0)
            nursery.start_soon(sleeper, 3.0)
            nursery.start_soon(sleeper, 12.0)
            await trio.sleep(2.0)
            env.hold()
            env.hold()
            assert env.held
            await trio.sleep(8.0)
            env.release()
            assert not env.held
        return woken

    # What was due meanwhile comes at once, and time has passed.
    assert run(main) == [1.0, 10.0, 12.0]
