"""Work beside the actor: results as messages, deadlines, cancellation, and its end with the actor's."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
import trio.testing

from runtime import ActorStopped, EffectTimeout, Message, Spec, TooManyEffects
from tests.runtime.parts import Crash, Do, Note, Player, Refused, nap, player, settled, simulated


@dataclass(frozen=True, slots=True)
class Failed(Message):
    error: Exception


async def one(system, **more) -> Player:
    actors: list[Player] = []
    await system.start(player("a", on_init=actors.append, **more))
    return actors[0]


async def text(value: str, seconds: float = 1) -> str:
    await trio.sleep(seconds)
    return value


async def test_results_and_failures_come_as_messages_ahead_of_others(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        actor = await one(system)
        context = actor.ctx

        async def fail() -> str:
            raise Refused("no")

        context.effect(text, "done", name="ok", deadline=5, then=Note, failed=Failed)
        context.effect(fail, name="bad", deadline=None, then=Note, failed=Failed)
        context.ref.tell(Do(nap(3)))
        context.ref.tell(Note("ordinary"))
        await trio.sleep(4)
        kinds = [m.text if isinstance(m, Note) else type(m).__name__ for m in actor.seen]
        assert sorted(kinds[:2]) == ["Do", "Failed"]
        assert kinds[2:] == ["done", "ordinary"]
        assert system.snapshot()[0].effects == ()


async def test_an_effect_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        actor = await one(system)
        actor.ctx.effect(text, "late", 60, name="slow", deadline=2, then=Note, failed=Failed)
        await settled()
        assert system.snapshot()[0].effects == ("slow",)
        await trio.sleep(3)
        (message,) = actor.seen
        assert isinstance(message, Failed)
        assert isinstance(message.error, EffectTimeout)


async def test_a_cancelled_effect_says_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        actor = await one(system)
        effect = actor.ctx.effect(text, "never", name="e", deadline=2, then=Note, failed=Failed)
        effect.cancel()
        await trio.sleep(5)
        assert actor.seen == []
        assert system.snapshot()[0].effects == ()


async def test_effects_end_before_clean_up_whatever_ends_the_life(autojump_clock: trio.testing.MockClock) -> None:
    diary: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            diary.append("effect cleaned up")

    for crash in (True, False):
        diary.clear()
        async with simulated() as system:
            actor = await one(system, restart="temporary")
            actor.diary = diary
            ref = actor.ctx.ref
            actor.ctx.effect(work, name="w", deadline=None)
            await settled()
            if crash:
                ref.tell(Crash(ValueError()))
                await ref.ended()
            else:
                await system.stop("a")
        assert diary == ["effect cleaned up", f"a {'failed' if crash else 'stopped'}"]


async def test_an_effect_that_will_not_end_holds_nobody_up_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    async with simulated() as system:
        actor = await one(system, stop_timeout=2)
        actor.ctx.effect(stubborn, name="s", deadline=None)
        await settled()
        await system.stop("a")
        assert trio.current_time() == pytest.approx(2)


async def test_a_result_that_comes_after_the_end_is_a_dead_letter(autojump_clock: trio.testing.MockClock) -> None:
    async def stubborn() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        return "result"

    async with simulated() as system:
        actor = await one(system, stop_timeout=2, restart="temporary")
        actor.ctx.after(1, Note("tick"))
        actor.ctx.effect(stubborn, name="s", deadline=None, then=Note, failed=Failed)
        await settled()
        await system.stop("a")
        await trio.sleep(100)
        assert actor.seen == []


async def test_an_effect_whose_failure_nobody_wants_ends_the_life(autojump_clock: trio.testing.MockClock) -> None:
    async def fail() -> None:
        raise OSError("disk")

    async with simulated() as system:
        actor = await one(system)
        actor.ctx.effect(fail, name="f", deadline=None)
        reason = await actor.ctx.ref.ended()
        assert isinstance(reason.error, OSError)


async def test_callbacks_that_fail_end_the_life(autojump_clock: trio.testing.MockClock) -> None:
    def broken(_: object) -> Message:
        raise KeyError("bug")

    async with simulated() as system:
        for deadline in (None, 0.5):
            actor = await one(system, restart="temporary")
            actor.ctx.effect(text, "x", name="f", deadline=deadline, then=broken, failed=broken)
            reason = await actor.ctx.ref.ended()
            assert isinstance(reason.error, KeyError)


async def test_callbacks_may_want_no_message(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        actor = await one(system)
        actor.ctx.effect(text, "x", name="a", deadline=None, then=lambda _: None)
        actor.ctx.effect(text, "x", name="b", deadline=None)
        await trio.sleep(5)
        assert actor.seen == []
        assert actor.ctx.ref.alive


async def test_effects_are_bounded_and_end_with_the_life(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        actor = await one(system, effects=2)
        for number in range(2):
            actor.ctx.effect(text, "x", name=f"e{number}", deadline=None, then=Note)
        with pytest.raises(TooManyEffects):
            actor.ctx.effect(text, "x", name="e2", deadline=None, then=Note)
        await trio.sleep(2)
        actor.ctx.effect(text, "x", name="e3", deadline=None, then=Note)
        context = actor.ctx
        await system.stop("a")
        for use in (
            lambda: context.effect(text, "x", name="late", deadline=None),
            lambda: context.after(1, Note()),
            lambda: context.every(1, Note()),
            lambda: context.monitor(context.ref),
        ):
            with pytest.raises(ActorStopped):
                use()


async def test_a_group_raised_by_an_effect_is_its_failure(autojump_clock: trio.testing.MockClock) -> None:
    async def several() -> None:
        async def fail() -> None:
            raise OSError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)

    async with simulated() as system:
        actor = await one(system)
        actor.ctx.effect(several, name="s", deadline=None, failed=Failed)
        await settled()
        (message,) = actor.seen
        assert isinstance(message, Failed)
        assert isinstance(message.error, ExceptionGroup)


async def test_init_may_start_effects_and_fail_afterwards(autojump_clock: trio.testing.MockClock) -> None:
    ended = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(1)

    async def init(actor: Player) -> None:
        actor.ctx.effect(work, name="w", deadline=None)
        await settled()
        raise OSError

    async with simulated() as system:
        with pytest.raises(Exception, match="did not start"):
            await system.start(player("a", on_init=init))
        assert ended == [1]


def test_a_spec_is_checked() -> None:
    for bad in ({"mailbox": 0}, {"effects": 0}, {"init_timeout": 0}, {"stop_timeout": -1}):
        with pytest.raises(ValueError):
            Spec("a", Player, **bad)
