"""The leader's inviter over simulated time: retries, time-outs, a store that is away, and another leader by now."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from actors.model.errors import Unavailable
from actors.model.states import NodeState
from actors.registrar.invite import Invited, Outcome
from actors.registrar.inviter import Inviter
from runtime import SimulatedEnvironment, Spec, System
from runtime.lease import Fenced, Term
from runtime.office import Office
from tests.actors.registrar.test_invite import NEW

TERM = Term(4, UUID(int=9), 10.0)


class World:
    """The store, and the way to one host, which accepts at ``up_at`` and is ready five seconds later."""

    def __init__(self, *, up_at: float = 0.0, timeout: float = 600.0) -> None:
        self.one: Invited | None = replace(NEW, left=timeout, timeout=timeout)
        self.up_at = up_at
        self.until = timeout
        self.away = (0.0, 0.0)
        self.fenced = False
        self.hangs = False
        self.final = ""
        self.tries: list[float] = []
        self.under_way = 0
        self.failed = ""
        self.finished_at: float | None = None
        self.accepted_at: float | None = None

    async def _reach(self) -> None:
        await trio.sleep(0.01)
        if self.away[0] <= trio.current_time() < self.away[1]:
            raise Unavailable("away")

    async def expected(self) -> tuple[Invited, ...]:
        await self._reach()
        if self.one is None:
            return ()
        come = self.accepted_at is not None and trio.current_time() > self.accepted_at + 5
        return (
            replace(
                self.one,
                left=self.until - trio.current_time(),
                generation=int(come),
                state=NodeState.READY if come else NodeState.BOOTING,
            ),
        )

    async def tried(self, invited: Invited, outcome: Outcome, term: Term) -> None:
        await self._reach()
        self._fence(term)
        assert self.one is not None
        self.one = replace(self.one, tries=self.one.tries + 1, accepted=outcome.accepted, reason=outcome.reason)
        if outcome.final:
            self.one, self.failed = None, outcome.reason

    async def give_up(self, invited: Invited, reason: str, term: Term) -> None:
        await self._reach()
        self._fence(term)
        self.one, self.failed = None, reason

    async def finish(self, invited: Invited, term: Term) -> None:
        await self._reach()
        self._fence(term)
        self.one, self.finished_at = None, trio.current_time()

    def _fence(self, term: Term) -> None:
        assert term == TERM
        if self.fenced:
            raise Fenced(term, "epoch 5 has begun")

    async def invite(self, one: Invited, term: Term) -> Outcome:
        self._fence(term)
        self.tries.append(trio.current_time())
        self.under_way += 1
        try:
            assert self.under_way == 1
            await trio.sleep(0.2)
            if self.hangs:
                await trio.sleep_forever()
        finally:
            self.under_way -= 1
        if self.final:
            return Outcome(False, self.final, final=True)
        if trio.current_time() < self.up_at:
            return Outcome(False, "it can't be reached")
        self.accepted_at = trio.current_time()
        return Outcome(True, "")


async def run(world: World, seconds: float, office: Office | None = None) -> None:
    office = office or Office(TERM, float("inf"), trio.current_time)
    async with System(SimulatedEnvironment()) as system:
        await system.start(Spec("inviter", lambda: Inviter(world, world, office)))
        await trio.sleep(seconds)


async def test_a_host_that_is_there_is_invited_and_forgotten_when_it_is_ready(autojump_clock: MockClock) -> None:
    world = World()
    await run(world, 30)
    assert len(world.tries) == 1
    assert world.finished_at is not None
    assert 5 < world.finished_at < 10


async def test_one_that_comes_later_is_tried_until_then(autojump_clock: MockClock) -> None:
    world = World(up_at=200)
    await run(world, 400)
    assert world.finished_at is not None
    gaps = [later - earlier for earlier, later in zip(world.tries, world.tries[1:], strict=False)]
    assert max(gaps) < 35
    assert len(world.tries) < 25


async def test_one_that_never_comes_is_given_up_in_time(autojump_clock: MockClock) -> None:
    world = World(up_at=1e9, timeout=60)
    await run(world, 70)
    assert "not joined within 60 s" in world.failed
    assert "can't be reached" in world.failed
    tries = len(world.tries)
    await run(world, 60)
    assert len(world.tries) == tries


async def test_what_no_other_try_changes_is_given_up_at_once(autojump_clock: MockClock) -> None:
    world = World()
    world.final = "the code is wrong"
    await run(world, 60)
    assert (world.failed, len(world.tries)) == ("the code is wrong", 1)


async def test_one_that_hangs_is_broken_off_and_tried_again(autojump_clock: MockClock) -> None:
    world = World()
    world.hangs = True
    await run(world, 100)
    assert len(world.tries) == 2
    world.hangs = False
    await run(world, 100)
    assert world.finished_at is not None


async def test_an_outage_of_the_store_ends_nothing(autojump_clock: MockClock) -> None:
    world = World(up_at=30)
    world.away = (10, 60)
    await run(world, 200)
    assert world.finished_at is not None


async def test_a_leader_that_is_none_any_more_invites_nobody(autojump_clock: MockClock) -> None:
    doubts: list[str] = []
    world = World(up_at=1e9)
    world.fenced = True
    await run(world, 60, Office(TERM, float("inf"), trio.current_time, doubts.append))
    assert doubts
    assert world.tries == []
    # One that knows by itself does not even ask.
    world = World()
    await run(world, 60, Office(TERM, 0.0, trio.current_time))
    assert world.tries == []


@pytest.mark.parametrize("seconds", [0.05, 0.15, 2.5])
async def test_the_next_leader_goes_on(autojump_clock: MockClock, seconds: float) -> None:
    """Whenever the one before ends, in the middle of a try too."""
    world = World()
    await run(world, seconds)
    assert world.under_way == 0
    await run(world, 60)
    assert world.finished_at is not None
