"""The leader's watch over hosts: simulated hours, and a store that is away, slow, or another leader's by now."""

from __future__ import annotations

from itertools import pairwise
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from actors.model.errors import Unavailable
from actors.model.states import NodeState
from actors.registrar.pulse import Pulse
from actors.registrar.sightings import Seen, Sighting, Sightings, nothing
from actors.registrar.store import Beat
from actors.registrar.watch import DOWN_AFTER, GRACE, MISSED_AFTER
from actors.registrar.watch_actor import Watch
from runtime import SimulatedEnvironment, Spec, System
from runtime.lease import Fenced, Term
from runtime.office import Office

OWN, OTHER, THIRD = UUID(int=1), UUID(int=2), UUID(int=3)
TERM = Term(4, UUID(int=9), 10.0)


class Store:
    """Hosts beat every 3 s until they die; ``away`` are spans in which neither reads nor writes succeed."""

    def __init__(self, dies_at: float = float("inf"), away: tuple[tuple[float, float], ...] = ()) -> None:
        self.dies_at = dies_at
        self.away = away
        self.fenced = False
        #: Whose row is locked until when, and how often somebody waited for that in vain.
        self.locked: dict[UUID, float] = {}
        self.in_vain: list[float] = []
        self.down: list[tuple[float, str]] = []
        self.graces: list[float] = []
        self.looks = 0

    def is_away(self, at: float) -> bool:
        return any(begin <= at < end for begin, end in self.away)

    def seen(self, until: float) -> float:
        last = until // 3 * 3
        while self.is_away(last):
            last -= 3
        return last

    async def beats(self) -> tuple[Beat, ...]:
        self.looks += 1
        now = trio.current_time()
        await trio.sleep(0.01)
        if self.is_away(now):
            raise Unavailable("away")
        return tuple(
            Beat(node, name, NodeState.READY, 1, last, now - last)
            for node, name, last in (
                (OWN, "h1", self.seen(now)),
                (OTHER, "h2", self.seen(min(now, self.dies_at))),
            )
            if node == OWN or not self.down
        )

    async def mark_down(self, beat: Beat, reason: str, term: Term, *, grace: float = 0.0) -> bool:
        assert term == TERM
        assert "no sign of life" in reason
        if self.is_away(trio.current_time()):
            raise Unavailable("away")
        if trio.current_time() < self.locked.get(beat.node_id, 0.0):
            await trio.sleep(3)
            self.in_vain.append(trio.current_time())
            raise Unavailable("the database is busy: a lock was not to be had in time", code="database-busy")
        if self.fenced:
            raise Fenced(term, "epoch 5 has begun")
        self.down.append((trio.current_time(), beat.hostname))
        self.graces.append(grace)
        return True


def said(state: Seen) -> Sightings:
    """Say from 105 s on that the host which dies at 100 s is in that state."""

    def sightings() -> dict[UUID, Sighting]:
        age = trio.current_time() - 105
        found = Sighting(OTHER, 1, state, age=age) if age >= 0 else Sighting(OTHER, 1, Seen.ALIVE)
        return {OTHER: found, THIRD: Sighting(THIRD, 1, Seen.ALIVE)}

    return sightings


async def run(
    store: Store,
    seconds: float,
    office: Office | None = None,
    sightings: Sightings = nothing,
    beats_from: float = 0.0,
) -> None:
    office = office or Office(TERM, float("inf"), trio.current_time)
    pulse = Pulse()
    async with System(SimulatedEnvironment()) as system, trio.open_nursery() as tasks:

        async def beat() -> None:
            await trio.sleep_until(beats_from)
            while True:
                if not store.is_away(trio.current_time()):
                    pulse.beat(trio.current_time())
                await trio.sleep(3)

        tasks.start_soon(beat)
        await system.start(Spec("registrar", lambda: Watch(store, office, OWN, sightings, pulse)))
        await trio.sleep(seconds)
        tasks.cancel_scope.cancel()


async def test_hosts_that_live_are_left_alone_for_hours(autojump_clock: MockClock) -> None:
    store = Store(away=((100, 400), (1000, 1004), (2000, 2020), (2021, 2030)))
    await run(store, 3 * 3600)
    assert store.down == []
    assert store.looks > 9000


async def test_a_dead_one_is_found(autojump_clock: MockClock) -> None:
    store = Store(dies_at=100.0)
    await run(store, 300)
    ((when, hostname),) = store.down
    assert hostname == "h2"
    assert 100 + DOWN_AFTER - 3 <= when <= 100 + DOWN_AFTER + 3


@pytest.mark.parametrize("away", [(95.0, 200.0), (108.0, 130.0), (110.0, 111.0)])
async def test_one_that_died_in_an_outage_is_found_after_it(
    autojump_clock: MockClock, away: tuple[float, float]
) -> None:
    store = Store(dies_at=100.0, away=(away,))
    await run(store, 400)
    ((when, _),) = store.down
    assert when >= away[1] + DOWN_AFTER - 3


async def test_a_leader_that_was_replaced_judges_nobody(autojump_clock: MockClock) -> None:
    doubts: list[str] = []
    store = Store(dies_at=10.0)
    store.fenced = True
    await run(store, 100, Office(TERM, float("inf"), trio.current_time, doubts.append))
    assert store.down == []
    assert len(doubts) == 1
    over = Store(dies_at=10.0)
    await run(over, 100, Office(TERM, trio.current_time() + 5, trio.current_time))
    assert over.down == []


async def test_one_that_others_hold_dead_too_is_found_sooner(autojump_clock: MockClock) -> None:
    store = Store(dies_at=100.0)
    await run(store, 300, sightings=said(Seen.DEAD))
    ((when, _),) = store.down
    assert 105 <= when <= 107
    assert store.graces == [0.0]


async def test_one_that_others_still_reach_has_its_grace(autojump_clock: MockClock) -> None:
    store = Store(dies_at=100.0)
    await run(store, 300, sightings=said(Seen.SUSPECT))
    ((when, _),) = store.down
    assert when >= 100 + DOWN_AFTER - 3
    assert store.graces == [GRACE]


async def test_without_its_own_pulse_a_leader_waits(autojump_clock: MockClock) -> None:
    store = Store(dies_at=100.0)
    await run(store, 300, sightings=said(Seen.DEAD), beats_from=1000.0)
    ((when, _),) = store.down
    assert when >= 100 + DOWN_AFTER - 3


async def test_hosts_that_live_are_left_alone_whatever_is_said(autojump_clock: MockClock) -> None:
    store = Store(away=((100, 400), (1000, 1004), (2000, 2020), (2021, 2030)))
    await run(store, 3600, sightings=said(Seen.DEAD))
    assert store.down == []


async def test_a_lock_in_the_way_of_a_verdict_puts_it_off_for_one_sign_and_not_for_all(
    autojump_clock: MockClock,
) -> None:
    store = Store(dies_at=100.0)
    store.locked[OTHER] = 111.0
    await run(store, 300)
    (failed,) = store.in_vain
    ((when, hostname),) = store.down
    assert hostname == "h2"
    assert failed + MISSED_AFTER <= when <= failed + MISSED_AFTER + 3


async def test_a_lock_that_stays_is_no_busy_loop_and_keeps_no_other_from_being_found(
    autojump_clock: MockClock,
) -> None:
    store = Two(dies_at=100.0)
    store.locked[OTHER] = 400.0
    await run(store, 600)
    times = {hostname: when for when, hostname in store.down}
    assert 200 + DOWN_AFTER - 3 <= times["h3"] <= 200 + DOWN_AFTER + 12
    assert 400 <= times["h2"] <= 400 + 12
    assert all(after - before >= MISSED_AFTER for before, after in pairwise(store.in_vain))


class Two(Store):
    """One more host, which dies at 200 s."""

    async def beats(self) -> tuple[Beat, ...]:
        found = await super().beats()
        last = self.seen(min(trio.current_time(), 200.0))
        down = {hostname for _, hostname in self.down}
        own, other = found[0], Beat(OTHER, "h2", NodeState.READY, 1, self.seen(100.0), 0.0)
        third = Beat(THIRD, "h3", NodeState.READY, 1, last, trio.current_time() - last)
        return (own, *(beat for beat in (other, third) if beat.hostname not in down))
