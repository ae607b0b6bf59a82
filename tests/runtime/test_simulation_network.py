"""The simulated network: order, delay, cuts one way and both, stalls that reset, holds, and calls that are lost."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.simulation import Delay, Lost, Network, run

T = TypeVar("T")
QUICK = Delay(0.01, 0.02, 0.5)


def play(script: Callable[[Network, trio.Nursery], Awaitable[T]], *, seed: int = 1, delay: Delay = QUICK) -> T:
    """Run a script with a network."""

    async def main() -> T:
        async with trio.open_nursery() as nursery:
            network = Network(random.Random(seed), delay)
            await nursery.start(network.run)
            result = await script(network, nursery)
            nursery.cancel_scope.cancel()
        return result

    return run(main, seed=seed)


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_a_delay_is_within_its_bounds(seed: int) -> None:
    chance, delay = random.Random(seed), Delay(0.1, 5.0, 2.0)
    drawn = [delay.draw(chance) for _ in range(50)]
    assert all(0.1 <= one <= 2.0 for one in drawn)
    assert Delay(0.3, 0.0).draw(chance) == 0.3


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=30, deadline=None)
def test_what_is_sent_into_a_pipe_arrives_once_and_in_order(seed: int, cut: bool) -> None:
    async def script(network: Network, nursery: trio.Nursery) -> list[int]:
        heard: list[int] = []
        pipe = network.pipe("a", "b")
        for number in range(40):
            pipe.send(lambda number=number: heard.append(number))
            if number == 10 and cut:
                network.cut("a", "b")
            if number == 30 and cut:
                network.heal("a", "b")
            await trio.sleep(0.01)
        await trio.sleep(5)
        return heard

    assert play(script, seed=seed) == list(range(40))


def test_a_call_takes_the_way_there_and_back() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> tuple[str, float]:
        return await network.call("a", "b", lambda: "done", serve=Delay(1.0, 0.0)), trio.current_time()

    answer, at = play(script, delay=Delay(0.25, 0.0))
    assert answer == "done"
    assert at == pytest.approx(1.5)


def test_what_a_call_raises_there_is_raised_here() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        def work() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await network.call("a", "b", work)

    play(script)


@pytest.mark.parametrize(("way", "done"), [(("a", "b"), 0), (("b", "a"), 1)])
def test_a_cut_one_way_loses_the_request_or_the_answer(way: tuple[str, str], done: int) -> None:
    async def script(network: Network, nursery: trio.Nursery) -> list[int]:
        calls: list[int] = []
        network.cut(*way)
        with pytest.raises(Lost) as lost:
            await network.call("a", "b", lambda: calls.append(1))
        assert lost.value.sent is bool(done)
        assert trio.current_time() == pytest.approx(15, abs=1)  # no answer: TCP gives up
        return calls

    assert len(play(script)) == done


def test_a_cut_that_is_healed_in_time_is_a_delay() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> float:
        network.cut("a", "b")

        async def heal() -> None:
            await trio.sleep(5)
            network.heal_all()

        nursery.start_soon(heal)
        assert await network.call("a", "b", lambda: 7) == 7
        return trio.current_time()

    assert 5 < play(script) < 6


def test_a_stall_resets_what_had_something_to_say() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> float:
        network.stall("a", "b", 4.0)
        with pytest.raises(Lost):
            await network.call("a", "b", lambda: None)
        at = trio.current_time()
        await network.call("a", "b", lambda: None)  # a new connection works
        return at

    assert play(script) == pytest.approx(4.0)


def test_a_hold_is_no_reason_for_a_reset_however_long() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> float:
        network.hold("b")
        network.hold("b")

        async def release() -> None:
            await trio.sleep(50)
            network.release("b")
            await trio.sleep(50)
            network.release("b")

        nursery.start_soon(release)
        await network.call("a", "b", lambda: None)
        return trio.current_time()

    assert 100 < play(script) < 102


def test_a_reset_loses_what_is_under_way() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> bool:
        done: list[int] = []

        async def reset() -> None:
            await trio.sleep(0.5)
            network.reset("a", "b")

        nursery.start_soon(reset)
        with pytest.raises(Lost) as lost:
            await network.call("a", "b", lambda: done.append(1), serve=Delay(1.0, 0.0))
        await trio.sleep(5)
        assert not done
        return lost.value.sent

    assert play(script) is False


def test_a_request_arrives_although_its_caller_has_given_up() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> list[int]:
        done: list[int] = []
        network.delay("a", "b", Delay(3.0, 0.0, 3.0))
        with trio.move_on_after(1.0):
            await network.call("a", "b", lambda: done.append(1))
        assert not done
        await trio.sleep(3)
        network.delay("a", "b", None)
        return done

    assert play(script) == [1]


def test_links_are_independent() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        network.cut("a", "b")
        network.cut("b", "a")
        assert network.blocked("a", "b")
        assert not network.blocked("a", "c")
        assert await network.call("a", "c", lambda: 1) == 1
        assert await network.call("c", "b", lambda: 2) == 2

    play(script)


def test_nothing_is_left_of_calls_that_are_over() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> int:
        for _ in range(20):
            await network.call("a", "b", lambda: None)
        with trio.move_on_after(0.001):
            await network.call("a", "b", lambda: None)
        await trio.sleep(1)
        return sum(len(pipes) for pipes in network._pipes.values())

    assert play(script) == 0


def test_what_two_hosts_say_to_each_other_can_be_held_alone() -> None:
    async def script(network: Network, nursery: trio.Nursery) -> None:
        heard: list[str] = []
        lost: list[str] = []
        to_b = network.pipe("a", "b", lambda: lost.append("a-b"))
        to_c = network.pipe("a", "c")
        back = network.pipe("b", "a")
        network.hold_link("a", "b")
        network.hold_link("a", "b")
        for pipe, word in ((to_b, "b"), (to_c, "c"), (back, "a")):
            pipe.send(lambda word=word: heard.append(word))  # type: ignore[misc]
        await trio.sleep(60.0)
        assert sorted(heard) == ["a", "c"]
        network.release_link("a", "b")
        await trio.sleep(1.0)
        assert "b" not in heard, "it is held twice"
        network.release_link("a", "b")
        network.release_link("a", "b")  # one too many changes nothing
        await trio.sleep(1.0)
        assert "b" in heard
        assert not lost, "nothing is reset by a hold"

    play(script)
