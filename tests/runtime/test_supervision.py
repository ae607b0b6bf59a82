"""What follows when a child fails: who is started again, when, and who hears of it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from runtime import Backoff, Intensity, RestartsExhausted, StartFailed, System
from tests.runtime.parts import Crash, Do, Note, Player, player, settled, simulated

NO_WAIT = Backoff(free=1000)


async def crash(system: System, name: str) -> None:
    """Crash the present life of ``name`` and wait until all that follows at once has happened."""
    ref = system.name(name).current()
    ref.tell(Crash(ValueError(f"{name} broke")))
    await ref.ended()
    await settled()


def lives(system: System) -> dict[str, int]:
    return {info.name: info.generation for info in system.snapshot() if info.state == "running"}


@pytest.mark.parametrize(
    ("strategy", "restarted"),
    [
        ("one_for_one", ["b failed", "b up"]),
        ("rest_for_one", ["b failed", "c stopped", "b up", "c up"]),
        ("one_for_all", ["b failed", "c stopped", "a stopped", "a up", "b up", "c up"]),
    ],
)
async def test_strategies(autojump_clock: trio.testing.MockClock, strategy: str, restarted: list[str]) -> None:
    diary: list[str] = []
    async with simulated(strategy=strategy) as system:
        for name in "abc":
            await system.start(player(name, diary))
        diary.clear()
        await crash(system, "b")
        assert diary == restarted
        assert sorted(lives(system)) == ["a", "b", "c"]
        assert {info.name: info.restarts for info in system.snapshot()} == {
            name: int(f"{name} up" in restarted) for name in "abc"
        }
        diary.clear()
    assert diary == ["c stopped", "b stopped", "a stopped"]


@pytest.mark.parametrize(
    ("restart", "after_crash", "after_normal_end"),
    [("permanent", True, True), ("transient", True, False), ("temporary", False, False)],
)
async def test_kinds_of_children(
    autojump_clock: trio.testing.MockClock, restart: str, after_crash: bool, after_normal_end: bool
) -> None:
    for end, expected in (
        (Crash(ValueError()), after_crash),
        (Do(lambda a: a.ctx.stop()), after_normal_end),
    ):
        async with simulated() as system:
            ref = await system.start(player("a", restart=restart))
            ref.tell(end)
            await ref.ended()
            await settled()
            assert (system.lookup("a") is not None) == expected
            assert ("a" in system.registry) == expected


async def test_waits_grow_and_the_name_is_kept_meanwhile(autojump_clock: trio.testing.MockClock) -> None:
    backoff = Backoff(free=1, first=1.0, factor=2.0, longest=60, jitter=0.0)
    async with simulated(intensity=Intensity(10, 1000)) as system:
        born: list[float] = []
        await system.start(player("a", on_init=lambda _: born.append(trio.current_time()), backoff=backoff))
        waits = []
        for _ in range(5):
            died = trio.current_time()
            ref = system.name("a").current()
            ref.tell(Crash(ValueError("again")))
            await ref.ended()
            if system.lookup("a") is None:
                assert [info.state for info in system.snapshot()] in (["restarting"], ["starting"])
            await trio.sleep(20)
            waits.append(born[-1] - died)
        assert waits == pytest.approx([0, 1, 2, 4, 8])
        assert system.snapshot()[0].restarts == 5
        assert system.snapshot()[0].last_error == "ValueError: again"


async def test_a_stop_while_a_restart_is_due(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        diary: list[str] = []
        await system.start(player("a", diary, backoff=Backoff(free=0, first=10)))
        await crash_and_stay(system, "a")
        await system.stop("a")
        await trio.sleep(100)
        assert diary == ["a up", "a failed"]
        assert system.snapshot() == []


async def crash_and_stay(system: System, name: str) -> None:
    ref = system.name(name).current()
    ref.tell(Crash(ValueError()))
    await ref.ended()


async def test_an_init_that_fails_after_a_restart_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    attempts = 0

    def init(_: Player) -> None:
        nonlocal attempts
        attempts += 1
        if 1 < attempts < 4:
            raise OSError("not yet")

    async with simulated() as system:
        await system.start(player("a", on_init=init))
        await crash(system, "a")
        await trio.sleep(10)
        assert attempts == 4
        assert system.lookup("a") is not None
        assert system.snapshot()[0].restarts == 3


async def test_exhausted_intensity_ends_the_root_with_the_reason(autojump_clock: trio.testing.MockClock) -> None:
    diary: list[str] = []
    with pytest.raises(RestartsExhausted) as raised:
        async with simulated(intensity=Intensity(2, 60)) as system:
            await system.start(player("sibling", diary))
            await system.start(player("a", diary, backoff=NO_WAIT))
            for _ in range(2):
                await crash(system, "a")
            await crash_and_stay(system, "a")
            await trio.sleep_forever()
    assert isinstance(raised.value.__cause__, ValueError)
    assert raised.value.child == "a"
    assert diary == ["sibling up"] + ["a up", "a failed"] * 3 + ["sibling stopped"]


async def test_restarts_long_ago_do_not_count(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated(intensity=Intensity(2, 60)) as system:
        await system.start(player("a", backoff=NO_WAIT))
        for _ in range(20):
            await crash(system, "a")
            await trio.sleep(31)
        assert system.snapshot()[0].restarts == 20


async def test_siblings_that_fail_once_each_are_not_one_that_fails_often(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with simulated(intensity=Intensity(1, 60)) as system:
        for number in range(10):
            await system.start(player(f"vm/{number}"))
        for number in range(10):
            await crash(system, f"vm/{number}")
        assert len(lives(system)) == 10


async def test_under_a_group_strategy_all_children_are_counted_together(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(RestartsExhausted):
        async with simulated(strategy="one_for_all", intensity=Intensity(1, 60)) as system:
            await system.start(player("a", backoff=NO_WAIT))
            await system.start(player("b", backoff=NO_WAIT))
            await crash(system, "a")
            await crash_and_stay(system, "b")
            await trio.sleep_forever()


async def test_a_nested_supervisor_fails_in_its_turn_and_starts_afresh(autojump_clock: trio.testing.MockClock) -> None:
    diary: list[str] = []

    async def family(actor: Player) -> None:
        await actor.ctx.start(player("p/x", diary, backoff=NO_WAIT))
        await actor.ctx.start(player("p/y", diary, backoff=NO_WAIT))

    async with simulated() as system:
        await system.start(player("p", diary, family, intensity=Intensity(1, 60)))
        await crash(system, "p/x")
        diary.clear()
        await crash(system, "p/x")
        assert diary == ["p/x failed", "p/y stopped", "p failed", "p/x up", "p/y up", "p up"]
        infos = {info.name: info for info in system.snapshot()}
        assert sorted(infos) == ["p", "p/x", "p/y"]
        assert infos["p"].last_error is not None
        assert "RestartsExhausted" in infos["p"].last_error


async def test_a_parent_that_fails_takes_its_children_along(autojump_clock: trio.testing.MockClock) -> None:
    diary: list[str] = []

    async def family(actor: Player) -> None:
        await actor.ctx.start(player("p/x", diary))

    async with simulated() as system:
        await system.start(player("p", diary, family))
        stale = system.name("p/x").current()
        await crash(system, "p")
        assert diary == ["p/x up", "p up", "p/x stopped", "p failed", "p/x up", "p up"]
        assert not stale.alive


async def test_a_failure_during_the_restart_of_a_group_begins_another_round(
    autojump_clock: trio.testing.MockClock,
) -> None:
    diary: list[str] = []
    tries = {"b": 0}

    def fail_once(actor: Player) -> None:
        tries["b"] += 1
        if tries["b"] == 2:
            raise OSError("not yet")

    async with simulated(strategy="one_for_all") as system:
        await system.start(player("a", diary, backoff=NO_WAIT))
        await system.start(player("b", diary, fail_once, backoff=NO_WAIT))
        await system.start(player("c", diary, backoff=NO_WAIT))
        diary.clear()
        await crash(system, "c")
        assert diary == [
            *("c failed", "b stopped", "a stopped"),
            *("a up", "b failed", "a stopped"),
            *("a up", "b up", "c up"),
        ]
        assert sorted(lives(system)) == ["a", "b", "c"]


async def test_an_elder_that_fails_while_the_younger_wait_joins_their_round(
    autojump_clock: trio.testing.MockClock,
) -> None:
    diary: list[str] = []
    async with simulated(strategy="rest_for_one") as system:
        for name in "abc":
            await system.start(player(name, diary, backoff=Backoff(free=0, first=10, jitter=0)))
        diary.clear()
        await crash_and_stay(system, "c")
        await crash_and_stay(system, "b")
        await trio.sleep(100)
        assert diary == ["c failed", "b failed", "b up", "c up"]
        assert sorted(lives(system)) == ["a", "b", "c"]


async def test_one_of_a_group_is_stopped_for_good_while_the_group_waits(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated(strategy="one_for_all") as system:
        for name in "abc":
            await system.start(player(name, backoff=Backoff(free=0, first=10, jitter=0)))
        await crash_and_stay(system, "a")
        await system.stop("b")
        await trio.sleep(100)
        assert sorted(lives(system)) == ["a", "c"]


async def test_a_temporary_child_stopped_with_its_group_does_not_come_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with simulated(strategy="one_for_all") as system:
        await system.start(player("a"))
        await system.start(player("t", restart="temporary"))
        await crash(system, "a")
        assert sorted(lives(system)) == ["a"]


async def test_a_system_ends_while_restarts_are_due(autojump_clock: trio.testing.MockClock) -> None:
    for strategy in ("one_for_one", "one_for_all"):
        async with simulated(strategy=strategy) as system:
            await system.start(player("a", backoff=Backoff(free=0, first=1000, longest=1000)))
            await system.start(player("b"))
            await crash_and_stay(system, "a")
    assert trio.current_time() < 1000


async def test_a_child_that_can_not_start_is_not_restarted(autojump_clock: trio.testing.MockClock) -> None:
    attempts = []

    def fail(_: Player) -> None:
        attempts.append(1)
        raise OSError

    async with simulated(strategy="one_for_all") as system:
        survivor = await system.start(player("a"))
        with pytest.raises(StartFailed):
            await system.start(player("b", on_init=fail))
        await trio.sleep(100)
        assert len(attempts) == 1
        assert survivor.alive


async def test_cancelled_is_never_a_failure(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))

        async def own_scope(_: Player) -> None:
            with trio.move_on_after(1):
                await trio.sleep_forever()

        async def group(_: Player) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep_forever)

        ref.tell(Do(own_scope))
        await trio.sleep(2)
        assert ref.alive
        ref.tell(Do(group))
        await settled()
        await system.stop("a")
        assert (await ref.ended()).kind == "stopped"


async def test_groups_of_errors_are_failures_even_with_a_cancelled_among_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with simulated() as system:
        ref = await system.start(player("a", restart="temporary", stop_timeout=1))

        async def group(_: Player) -> None:
            async def stubborn() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    raise OSError("while it was cancelled")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(stubborn)

        ref.tell(Do(group))
        await settled()
        await system.stop("a")
        reason = await ref.ended()
        assert reason.kind == "failed"
        assert isinstance(reason.error, ExceptionGroup)


async def test_what_was_queued_dies_with_the_life(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        actors: list[Player] = []
        ref = await system.start(player("a", on_init=actors.append))
        ref.tell(Crash(ValueError()))
        ref.tell(Note("lost"))
        await ref.ended()
        await settled()
        assert actors[1].seen == []
        assert system.dead_letters.by_cause == {"stopped": 1}


async def test_who_joins_a_group_that_waits_waits_as_long_as_it_must(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated(strategy="rest_for_one") as system:
        await system.start(player("a", backoff=NO_WAIT))
        await system.start(player("b", backoff=Backoff(free=0, first=10, jitter=0)))
        await crash_and_stay(system, "b")
        await crash_and_stay(system, "a")
        await trio.sleep(9)
        assert lives(system) == {}
        await trio.sleep(2)
        assert sorted(lives(system)) == ["a", "b"]


async def test_siblings_drawn_in_are_stopped_at_once_though_others_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with simulated(strategy="rest_for_one") as system:
        for name in "abc":
            await system.start(player(name, backoff=Backoff(free=0, first=10, jitter=0)))
        sibling = system.name("b").current()
        await crash_and_stay(system, "c")
        await trio.sleep(5)
        await crash_and_stay(system, "a")
        await trio.sleep(1)
        assert not sibling.alive
        assert lives(system) == {}
        await trio.sleep(10)
        assert lives(system) == {}
        await trio.sleep(10)
        assert sorted(lives(system)) == ["a", "b", "c"]
