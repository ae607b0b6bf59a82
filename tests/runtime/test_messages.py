"""tell, send and ask: order, bounds, cancellation, and what becomes of messages nobody takes."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from runtime import (
    ActorStopped,
    AskTimeout,
    MailboxFull,
    NamedRef,
    ProtocolError,
    RealEnvironment,
    RequestFailed,
    System,
    UnknownActor,
)
from tests.runtime.parts import Crash, Do, Note, Player, Query, Refused, player, settled, simulated


async def hold(system: System, name: str = "a", **more) -> tuple:
    """Start an actor and keep its handler busy until the returned event is set."""
    actors: list[Player] = []
    ref = await system.start(player(name, on_init=actors.append, **more))
    gate = trio.Event()
    ref.tell(Do(lambda _: gate.wait()))
    await settled()
    return ref, gate, actors[0]


async def test_messages_arrive_in_the_order_told(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref, gate, actor = await hold(system)
        for number in range(500):
            ref.tell(Note(str(number)))
        gate.set()
        await settled()
        assert [note.text for note in actor.seen[1:]] == [str(number) for number in range(500)]


async def test_a_full_mailbox_refuses_and_counts(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref, gate, actor = await hold(system, mailbox=2)
        ref.tell(Note("1"))
        ref.tell(Note("2"))
        with pytest.raises(MailboxFull):
            ref.tell(Note("3"))
        with pytest.raises(MailboxFull):
            await ref.ask(Query(lambda a: a.ctx.reply("")), timeout=1)
        assert system.dead_letters.by_cause == {"full": 2}
        gate.set()
        await settled()
        assert [note.text for note in actor.seen[1:]] == ["1", "2"]


async def test_send_waits_for_room_and_keeps_the_order_of_those_who_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with simulated() as system:
        ref, gate, actor = await hold(system, mailbox=1)
        await ref.send(Note("0"))
        async with trio.open_nursery() as nursery:
            for number in range(1, 5):
                nursery.start_soon(ref.send, Note(str(number)))
                await settled()
            with pytest.raises(MailboxFull):
                ref.tell(Note("ahead of those who wait"))
            gate.set()
        await settled()
        assert [note.text for note in actor.seen[1:]] == ["0", "1", "2", "3", "4"]


async def test_a_cancelled_send_is_withdrawn(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref, gate, actor = await hold(system, mailbox=1)
        await ref.send(Note("kept"))
        with trio.move_on_after(1) as scope:
            await ref.send(Note("withdrawn"))
        assert scope.cancelled_caught
        gate.set()
        await settled()
        assert [note.text for note in actor.seen[1:]] == ["kept"]


async def test_a_send_is_not_both_cancelled_and_delivered(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref, gate, actor = await hold(system, mailbox=1)
        await ref.send(Note("first"))
        outcomes = []

        async def send() -> None:
            with trio.CancelScope() as scope:
                outcomes.append(scope)
                await ref.send(Note("second"))
                outcomes.append("delivered")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await settled()
            gate.set()
            outcomes[0].cancel()
        await settled()
        assert ("second" in [note.text for note in actor.seen[1:]]) == ("delivered" in outcomes)


async def test_senders_who_wait_learn_of_the_end(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref, _, _ = await hold(system, mailbox=1)
        await ref.send(Note("queued"))
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ActorStopped):
                    await ref.send(Note("waiting"))

            nursery.start_soon(send)
            await settled()
            await system.stop("a")
        assert system.dead_letters.by_cause == {"stopped": 2}


async def test_sending_without_end_lets_others_run() -> None:
    async with System() as system:
        ref = await system.start(player("a", mailbox=10_000_000))
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            for _ in range(1000):
                await ref.send(Note())
            nursery.cancel_scope.cancel()
        assert turns > 10


async def test_an_actor_with_endless_work_lets_others_run() -> None:
    async with System() as system:
        ref = await system.start(player("a"))
        stop = False

        def again(actor: Player) -> None:
            if not stop:
                actor.ctx.ref.tell(Do(again))

        ref.tell(Do(again))
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        stop = True


async def test_an_answer_comes_back_and_an_error_made_for_the_asker_too(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        assert await ref.ask(Query(lambda a: a.ctx.reply("yes")), timeout=1) == "yes"

        def refuse(_: Player) -> None:
            raise Refused("not you")

        for what in (refuse, lambda a: a.ctx.fail(Refused("not you"))):
            with pytest.raises(Refused, match="not you"):
                await ref.ask(Query(what), timeout=1)
        assert ref.alive
        ref.tell(Query(refuse))
        await settled()
        assert ref.alive


async def test_any_other_error_ends_the_life_and_the_asker_hears_of_it(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))

        def fault(_: Player) -> None:
            raise ZeroDivisionError("a bug")

        with pytest.raises(RequestFailed, match="a bug") as raised:
            await ref.ask(Query(fault), timeout=1)
        assert isinstance(raised.value.__cause__, ZeroDivisionError)
        assert (await ref.ended()).kind == "failed"
        with pytest.raises(ActorStopped):
            ref.tell(Note())


async def test_an_error_of_the_runtime_met_further_down_is_not_taken_for_the_callees_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        with pytest.raises(RequestFailed) as raised:
            await ref.ask(Query(lambda a: a.ctx.fail(ActorStopped("b"))), timeout=1)
        assert isinstance(raised.value.__cause__, ActorStopped)


async def test_an_error_made_for_askers_is_a_failure_when_nobody_asked(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        ref.tell(Crash(Refused("nobody asked")))
        assert (await ref.ended()).kind == "failed"


async def test_a_request_that_is_not_answered_fails_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        with pytest.raises(RequestFailed, match="did not answer"):
            await ref.ask(Query(lambda _: None), timeout=3600)
        assert trio.current_time() < 3600


async def test_two_answers_are_a_fault(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))

        def twice(actor: Player) -> None:
            actor.ctx.reply("1")
            actor.ctx.reply("2")

        assert await ref.ask(Query(twice), timeout=1) == "1"
        reason = await ref.ended()
        assert isinstance(reason.error, ProtocolError)


async def test_an_answer_without_a_request_is_a_fault(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        ref.tell(Do(lambda a: a.ctx.reply("")))
        assert isinstance((await ref.ended()).error, ProtocolError)


async def test_a_request_that_was_told_may_be_answered_to_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        ref.tell(Query(lambda a: a.ctx.reply("")))
        ref.tell(Query(lambda a: a.ctx.reply_slot().reply("")))
        await settled()
        assert ref.alive
        assert system.dead_letters.count == 0


async def test_the_deadline_travels_and_a_late_answer_is_a_dead_letter(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        slots, deadlines = [], []

        def put_by(actor: Player) -> None:
            deadlines.append(actor.ctx.deadline)
            slots.append(actor.ctx.reply_slot())

        began = trio.current_time()
        with pytest.raises(AskTimeout):
            await ref.ask(Query(put_by), timeout=2)
        assert deadlines == [began + 2]
        assert trio.current_time() == began + 2
        assert not slots[0].open
        slots[0].reply("too late")
        assert system.dead_letters.by_cause == {"late": 1}
        assert [info.open_requests for info in system.snapshot()] == [0]
        with pytest.raises(ProtocolError):
            slots[0].reply("again")


async def test_a_request_whose_time_passed_in_the_queue_is_not_handled(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref, gate, actor = await hold(system)
        with pytest.raises(AskTimeout):
            await ref.ask(Query(lambda a: a.ctx.reply("")), timeout=1)
        with trio.move_on_after(1):
            await ref.ask(Query(lambda a: a.ctx.reply("")), timeout=60)
        gate.set()
        await settled()
        assert len(actor.seen) == 1
        assert system.dead_letters.by_cause == {"revoked": 2}


async def test_a_request_found_past_its_deadline_fails_its_asker_at_once() -> None:
    class Late(RealEnvironment):
        """Its clock runs away from trio's, as after a suspend."""

        def __init__(self) -> None:
            super().__init__()
            self.ahead = 0.0
            clock = self.monotonic
            self.monotonic = lambda: clock() + self.ahead

    env = Late()
    async with System(env) as system:
        ref, gate, actor = await hold(system)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(AskTimeout):
                    await ref.ask(Query(lambda a: a.ctx.reply("")), timeout=90)

            nursery.start_soon(ask)
            await settled()
            env.ahead = 100.0
            gate.set()
        assert len(actor.seen) == 1
        assert system.dead_letters.by_cause == {"expired": 1}


async def test_death_fails_what_is_queued_handled_and_put_by(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        results: list[str] = []

        async def ask(what) -> None:
            try:
                await ref.ask(Query(what), timeout=3600)
            except ActorStopped:
                results.append("stopped")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, lambda a: a.ctx.reply_slot())
            await settled()
            nursery.start_soon(ask, lambda _: trio.Event().wait())
            await settled()
            nursery.start_soon(ask, lambda a: a.ctx.reply(""))
            await settled()
            nursery.start_soon(system.stop, "a")
        assert results == ["stopped"] * 3
        assert trio.current_time() < 60


async def test_an_actor_can_not_wait_for_itself(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        ref.tell(Do(lambda a: a.ctx.ref.ask(Query(lambda b: b.ctx.reply("")), timeout=3600)))
        assert isinstance((await ref.ended()).error, ProtocolError)


async def test_a_stale_ref_never_reaches_the_next_life_and_a_name_does(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        named: NamedRef = system.name("a")
        ref.tell(Crash(ValueError()))
        await ref.ended()
        await settled()
        for use in (lambda: ref.tell(Note()), lambda: system.name("b").tell(Note())):
            with pytest.raises(ActorStopped):
                use()
        with pytest.raises(ActorStopped):
            await ref.ask(Query(lambda a: a.ctx.reply("")), timeout=1)
        with pytest.raises(ActorStopped):
            await ref.send(Note())
        assert await named.ask(Query(lambda a: a.ctx.reply("again")), timeout=1) == "again"
        named.tell(Note())
        await named.send(Note())
        now = system.lookup("a")
        assert now is not None
        assert now.generation > ref.generation
        assert named.alive
        assert not ref.alive
        assert not system.name("b").alive
        with pytest.raises(UnknownActor):
            system.name("b").current()


async def test_dead_letters_are_counted_all_and_kept_few(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        await system.stop(ref)
        for number in range(1000):
            with pytest.raises(ActorStopped):
                ref.tell(Note(str(number)))
        assert system.dead_letters.count == 1000
        assert len(system.dead_letters) == 256
        latest = list(system.dead_letters)[-1]
        assert (latest.name, latest.cause, latest.message) == ("a", "stopped", Note("999"))
