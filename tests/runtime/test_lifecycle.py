"""Starts that fail or are broken off, stops in every moment, and the order of things when a system ends."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from runtime import (
    Actor,
    ActorStopped,
    Down,
    Exit,
    InitTimeout,
    Message,
    Name,
    NameTaken,
    RestartsExhausted,
    Spec,
    StartFailed,
    System,
    SystemStopped,
    branch,
)
from tests.runtime.parts import Crash, Do, Note, Player, Query, Refused, nap, player, settled, simulated


async def test_start_returns_after_init(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        diary: list[str] = []
        await system.start(player("a", diary, nap(5)))
        assert diary == ["a up"]
        assert trio.current_time() >= 5


async def test_messages_told_during_init_wait_for_it(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        actors: list[Player] = []

        async def init(actor: Player) -> None:
            actors.append(actor)
            actor.ctx.ref.tell(Note("first"))
            await trio.sleep(1)
            assert actor.seen == []

        await system.start(player("a", on_init=init))
        await settled()
        assert actors[0].seen == [Note("first")]


async def test_a_failed_init_fails_the_start_and_leaves_no_name(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        diary: list[str] = []

        def fail(_: Player) -> None:
            raise Refused("no disk")

        with pytest.raises(StartFailed, match="no disk") as raised:
            await system.start(player("a", diary, fail))
        assert isinstance(raised.value.__cause__, Refused)
        assert diary == ["a failed"]
        assert system.snapshot() == []
        assert system.lookup("a") is None
        await system.start(player("a"))


async def test_a_factory_that_raises_is_a_failed_start(autojump_clock: trio.testing.MockClock) -> None:
    def factory() -> Actor:
        raise OSError("nothing there")

    async with simulated() as system:
        with pytest.raises(StartFailed, match="nothing there"):
            await system.start(Spec("a", factory))
        assert system.snapshot() == []


async def test_init_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        with pytest.raises(StartFailed) as raised:
            await system.start(player("a", on_init=lambda _: trio.Event().wait(), init_timeout=3))
        assert isinstance(raised.value.__cause__, InitTimeout)
        assert trio.current_time() == pytest.approx(3)


async def test_a_cancelled_start_leaves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        diary: list[str] = []
        with trio.move_on_after(1) as scope:
            await system.start(player("a", diary, lambda _: trio.Event().wait()))
        assert scope.cancelled_caught
        assert diary == ["a stopped"]
        assert system.snapshot() == []


async def test_stop_in_the_middle_of_init(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        diary: list[str] = []

        async def start() -> None:
            with pytest.raises(StartFailed, match="stopped"):
                await system.start(player("a", diary, lambda _: trio.Event().wait()))
            diary.append("starter knows")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await settled()
            await system.stop("a")
            assert system.snapshot() == []
        assert diary == ["a stopped", "starter knows"]


async def test_stop_before_the_first_step_of_a_life(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        diary: list[str] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            await system.start(player("a", diary))
        assert scope.cancelled_caught
        # Which of the two runs first is up to trio.
        assert diary in ([], ["a up", "a stopped"])
        assert system.snapshot() == []


async def test_a_stop_lets_the_handler_finish_but_not_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        diary: list[str] = []

        async def work(seconds: float) -> None:
            await trio.sleep(seconds)
            diary.append(f"worked {seconds}")

        for seconds in (2, 60):
            ref = await system.start(player("a", diary, stop_timeout=5))
            ref.tell(Do(lambda _, s=seconds: work(s)))
            ref.tell(Note("never handled"))
            await settled()
            began = trio.current_time()
            await system.stop("a")
            assert trio.current_time() - began == pytest.approx(min(seconds, 5))
        assert diary == ["a up", "worked 2", "a stopped", "a up", "a stopped"]


async def test_clean_up_is_shielded_and_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(Actor):
        async def receive(self, message: Message) -> None:
            raise AssertionError

        async def stopped(self, reason: Exit) -> None:
            await trio.sleep(2)
            ended.append(str(reason))
            await trio.sleep_forever()

    ended: list[str] = []
    async with simulated() as system:
        await system.start(Spec("a", Slow, stop_timeout=4))
        with trio.move_on_after(1):
            await system.stop("a")
        assert ended == []
        assert system.lookup("a") is None
        with pytest.raises(NameTaken):
            await system.start(player("a"))
        await trio.sleep(2)
        assert ended == ["stopped"]
        await trio.sleep(2)
        await settled()
        # Whoever waited for the stop is gone; the name is free all the same.
        assert system.snapshot() == []


async def test_clean_up_that_fails_is_not_a_reason_to_restart(autojump_clock: trio.testing.MockClock) -> None:
    class Clumsy(Actor):
        async def stopped(self, reason: Exit) -> None:
            raise OSError("busy")

    async with simulated() as system:
        ref = await system.start(Spec("a", Clumsy))
        await system.stop("a")
        assert await ref.ended() == Exit("stopped")
        assert system.snapshot() == []


async def test_an_actor_ends_itself(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        diary: list[str] = []
        ref = await system.start(player("a", diary, restart="transient"))

        def leave(actor: Player) -> None:
            actor.ctx.stop()
            diary.append("the handler goes on")

        ref.tell(Do(leave))
        assert (await ref.ended()).kind == "normal"
        assert diary == ["a up", "the handler goes on", "a normal"]
        assert system.snapshot() == []


async def test_a_system_stops_its_tree_in_reverse_order_children_before_parents(
    autojump_clock: trio.testing.MockClock,
) -> None:
    diary: list[str] = []

    async def family(actor: Player) -> None:
        for key in ("x", "y"):
            await actor.ctx.start(player(f"{actor.ctx.name}/{key}", diary))

    async with simulated() as system:
        await system.start(player("a", diary, family))
        await system.start(player("b", diary, family))
        assert [info.parent for info in system.snapshot()] == ["system", "a", "a", "system", "b", "b"]
        diary.clear()
    assert diary == ["b/y stopped", "b/x stopped", "b stopped", "a/y stopped", "a/x stopped", "a stopped"]


async def test_a_cancelled_block_stops_its_actors_in_order_too(autojump_clock: trio.testing.MockClock) -> None:
    diary: list[str] = []
    with trio.move_on_after(1) as scope:
        async with simulated() as system:
            await system.start(player("a", diary))
            await system.start(player("b", diary))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert diary == ["a up", "b up", "b stopped", "a stopped"]


async def test_an_error_in_the_block_comes_out_as_it_is(autojump_clock: trio.testing.MockClock) -> None:
    diary: list[str] = []
    with pytest.raises(ZeroDivisionError):
        async with simulated() as system:
            await system.start(player("a", diary))
            raise ZeroDivisionError
    assert diary == ["a up", "a stopped"]


async def test_nothing_starts_after_the_end(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
    with pytest.raises(SystemStopped):
        await system.start(player("b"))
    with pytest.raises(ActorStopped):
        ref.tell(Note())


async def test_a_start_that_waits_while_the_system_ends_is_told(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery, simulated() as system:

        async def start() -> None:
            with pytest.raises(StartFailed):
                await system.start(player("a", on_init=lambda _: trio.Event().wait()))

        nursery.start_soon(start)
        await settled()


async def test_names_are_unique_checked_and_free_again_after_a_stop(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("vm/1"))
        assert (ref.name.kind, ref.name.key) == ("vm", "1")
        assert ref.name == Name.of("vm", 1)
        with pytest.raises(NameTaken):
            await system.start(player("vm/1"))
        for bad in ("", "/", "a b", "a//b", "-a", "a/", "x" * 300):
            with pytest.raises(ValueError):
                await system.start(player(bad))
        await system.stop(ref)
        await system.stop(ref)
        await system.stop("nobody")
        again = await system.start(player("vm/1"))
        # A ref to what once had this name must not stop its successor.
        await system.stop(ref)
        assert again.alive


async def test_a_child_is_stopped_by_a_ref_to_any_of_its_lives(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        ref.tell(Crash(ValueError()))
        await ref.ended()
        await settled()
        assert system.lookup("a") is not None
        await system.stop(ref)
        assert system.snapshot() == []


async def test_a_monitor_hears_of_the_end_once_also_of_one_in_the_past(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        actors: list[Player] = []
        await system.start(player("watcher", on_init=actors.append))
        watcher = actors[0]
        targets = [await system.start(player(f"t/{n}", restart="temporary")) for n in range(4)]
        for target in [*targets, targets[0]]:
            watcher.ctx.monitor(target)
        watcher.ctx.demonitor(targets[3])
        error = ValueError("broken")
        targets[0].tell(Crash(error))
        await settled()
        targets[1].tell(Do(lambda a: a.ctx.stop()))
        await settled()
        await system.stop(targets[2])
        await system.stop(targets[3])
        await settled()
        assert watcher.seen == [
            Down(targets[0], Exit("failed", error)),
            Down(targets[1], Exit("normal")),
            Down(targets[2], Exit("stopped")),
        ]
        watcher.ctx.monitor(targets[2])
        await settled()
        assert watcher.seen[3:] == [Down(targets[2], Exit("stopped"))]


async def test_a_dead_watcher_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        target = await system.start(player("target"))
        for _ in range(3):
            watcher = await system.start(player("watcher", on_init=lambda a: a.ctx.monitor(target)))
            await system.stop(watcher)
        await system.stop(target)
        assert system.dead_letters.count == 0


async def test_a_branch_starts_in_order_and_fails_as_one(autojump_clock: trio.testing.MockClock) -> None:
    diary: list[str] = []

    def fail(_: Player) -> None:
        raise Refused("no")

    async with simulated() as system:
        await system.start(branch("top", lambda: [player("x", diary), player("y", diary)]))
        assert diary == ["x up", "y up"]
        await system.stop("top")
        assert diary == ["x up", "y up", "y stopped", "x stopped"]
        diary.clear()
        with pytest.raises(StartFailed):
            await system.start(branch("top", lambda: [player("x", diary), player("y", diary, fail)]))
        assert diary == ["x up", "y failed", "x stopped"]
        assert system.snapshot() == []


async def test_children_can_be_stopped_one_by_one(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        parents: list[Player] = []
        await system.start(player("a", on_init=parents.append))
        context = parents[0].ctx
        assert context.children is None
        await context.stop_child("a/x")
        child = await context.start(player("a/x"))
        assert context.children is not None
        assert context.children.children == ["a/x"]
        await context.stop_child(child)
        assert context.children.children == []
        await system.stop("a")
        with pytest.raises(SystemStopped):
            await context.start(player("a/y"))


async def test_interrupts_end_the_system(autojump_clock: trio.testing.MockClock) -> None:
    diary: list[str] = []

    def interrupt(_: Player) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with simulated() as system:
            await system.start(player("a", diary))
            ref = await system.start(player("b", diary))
            ref.tell(Do(interrupt))
            await trio.sleep_forever()
    assert diary[-1] == "a stopped"


async def test_the_failure_of_system_and_block_are_both_reported(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        async with simulated() as system:
            system.fail(RestartsExhausted("system", "a", 1, 1))
            raise ZeroDivisionError
    assert [type(error) for error in raised.value.exceptions] == [RestartsExhausted, ZeroDivisionError]


async def test_queued_questions_do_not_hold_up_the_end() -> None:
    async with trio.open_nursery() as nursery, System() as system:
        ref = await system.start(player("a"))

        async def ask() -> None:
            with pytest.raises(ActorStopped):
                await ref.ask(Query(lambda a: a.ctx.reply_slot()), timeout=3600)

        for _ in range(10):
            nursery.start_soon(ask)
        await settled()


async def test_a_parent_may_fail_before_its_supervisor_has_begun(autojump_clock: trio.testing.MockClock) -> None:
    async def init(actor: Player) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await actor.ctx.start(player("a/x"))
        raise OSError

    async with simulated() as system:
        with trio.fail_after(60), pytest.raises(StartFailed):
            await system.start(player("a", on_init=init))
        assert system.snapshot() == []


async def test_clean_up_completes_even_when_the_tree_breaks_down(autojump_clock: trio.testing.MockClock) -> None:
    class Careful(Actor):
        async def stopped(self, reason: Exit) -> None:
            await trio.sleep(1)
            ended.append(reason.kind)

    ended: list[str] = []
    async with simulated() as system:
        await system.start(Spec("a", Careful))
        assert system.supervisor._nursery is not None
        system.supervisor._nursery.cancel_scope.cancel()
        await trio.sleep(2)
        assert ended == ["stopped"]
        assert system.snapshot() == []
        with pytest.raises(SystemStopped):
            await system.start(player("b"))
