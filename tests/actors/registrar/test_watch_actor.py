"""The leader's watch over hosts: simulated hours, and a store that is away, slow, or another leader's by now."""

from __future__ import annotations

from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from actors.model.errors import Unavailable
from actors.model.states import NodeState
from actors.registrar.store import Beat
from actors.registrar.watch import DOWN_AFTER
from actors.registrar.watch_actor import Watch
from runtime import SimulatedEnvironment, Spec, System
from runtime.lease import Fenced, Term
from runtime.office import Office

OWN, OTHER = UUID(int=1), UUID(int=2)
TERM = Term(4, UUID(int=9), 10.0)


class Store:
    """Hosts beat every 3 s until they die; ``away`` are spans in which neither reads nor writes succeed."""

    def __init__(self, dies_at: float = float("inf"), away: tuple[tuple[float, float], ...] = ()) -> None:
        self.dies_at = dies_at
        self.away = away
        self.fenced = False
        self.down: list[tuple[float, str]] = []
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
        dead = [Beat(OTHER, "h2", NodeState.READY, 1, self.seen(min(now, self.dies_at)))]
        return (Beat(OWN, "h1", NodeState.READY, 1, self.seen(now)), *([] if self.down else dead))

    async def mark_down(self, beat: Beat, reason: str, term: Term) -> bool:
        assert term == TERM
        assert "no sign of life" in reason
        if self.is_away(trio.current_time()):
            raise Unavailable("away")
        if self.fenced:
            raise Fenced(term, "epoch 5 has begun")
        self.down.append((trio.current_time(), beat.hostname))
        return True


async def run(store: Store, seconds: float, office: Office | None = None) -> None:
    office = office or Office(TERM, float("inf"), trio.current_time)
    async with System(SimulatedEnvironment()) as system:
        await system.start(Spec("registrar", lambda: Watch(store, office, OWN)))
        await trio.sleep(seconds)


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
