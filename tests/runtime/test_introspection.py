"""What the system shows of itself, and what it says about slow handlers."""

from __future__ import annotations

import structlog.testing
import trio
import trio.testing

from runtime import Backoff
from tests.runtime.parts import Crash, Do, Note, Player, Query, nap, player, settled, simulated


async def test_a_snapshot_tells_what_an_actor_is_at(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a", mailbox=9))
        (idle,) = system.snapshot()
        assert (idle.state, idle.depth, idle.oldest_age, idle.current, idle.handled) == ("running", 0, None, None, 0)
        ref.tell(Note())
        ref.tell(Do(nap(60)))
        await trio.sleep(4)
        ref.tell(Note("x"))
        await trio.sleep(3)
        ref.tell(Note("y"))
        (busy,) = system.snapshot()
        assert (busy.name, busy.parent, busy.limit, busy.depth, busy.handled) == ("a", "system", 9, 2, 1)
        assert (busy.oldest_age, busy.current, busy.current_age) == (3, "Do", 7)


async def test_a_snapshot_tells_of_failures_and_of_requests_put_by(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        slots = []
        ref = await system.start(player("a", backoff=Backoff(free=0, first=100)))
        async with trio.open_nursery() as nursery:
            query = Query(lambda a: slots.append(a.ctx.reply_slot()))
            nursery.start_soon(lambda: ref.ask(query, timeout=10))
            await settled()
            assert system.snapshot()[0].open_requests == 1
            slots[0].reply("")
        assert system.snapshot()[0].open_requests == 0
        ref.tell(Crash(KeyError("x")))
        await ref.ended()
        (info,) = system.snapshot()
        assert (info.state, info.generation, info.last_error) == ("restarting", 0, "KeyError: 'x'")
        await trio.sleep(200)
        (info,) = system.snapshot()
        assert (info.state, info.restarts, info.handled) == ("running", 1, 0)


async def test_a_handler_that_takes_long_is_reported_once(autojump_clock: trio.testing.MockClock) -> None:
    with structlog.testing.capture_logs() as logs:
        async with simulated() as system:
            ref = await system.start(player("a"))
            ref.tell(Do(nap(30)))
            ref.tell(Do(nap(0.5)))
            await trio.sleep(60)
            assert system.watchdog.slow == 1
    (log,) = logs
    assert (log["event"], log["log_level"], log["actor"], log["message"]) == ("handler is slow", "warning", "a", "Do")
    assert 1 < log["seconds"] <= 3


async def test_a_handler_that_blocks_the_loop_is_reported_when_it_ends(autojump_clock: trio.testing.MockClock) -> None:
    with structlog.testing.capture_logs() as logs:
        async with simulated() as system:
            ref = await system.start(player("a"))
            # No turn for the watchdog while this jumps: that is how a blocking handler looks.
            ref.tell(Do(lambda _: autojump_clock.jump(5)))
            await settled()
            assert system.watchdog.slow == 1
    assert [(log["event"], log["seconds"]) for log in logs] == [("handler was slow", 5)]


async def test_tracing_is_switched_on_by_name_and_survives_restarts(autojump_clock: trio.testing.MockClock) -> None:
    async with simulated() as system:
        ref = await system.start(player("a"))
        assert not system.trace("b")
        assert system.trace("a")
        with structlog.testing.capture_logs() as logs:
            ref.tell(Crash(ValueError()))
            await ref.ended()
            await settled()
            system.name("a").tell(Note())
            await settled()
            system.trace("a", on=False)
            system.name("a").tell(Note())
            await settled()
        traced = [(log["actor"], log["type"]) for log in logs if log["event"] == "message"]
        assert traced == [("a", "Crash"), ("a", "Note")]


async def test_context_logs_name_the_actor(autojump_clock: trio.testing.MockClock) -> None:
    def say(actor: Player) -> None:
        actor.ctx.log.info("hello", size=1)

    async with simulated() as system:
        with structlog.testing.capture_logs() as logs:
            ref = await system.start(player("a"))
            ref.tell(Do(say))
            await settled()
        assert logs == [{"event": "hello", "actor": "a", "size": 1, "log_level": "info"}]
