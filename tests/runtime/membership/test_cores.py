"""The small parts: suspicion, awareness, rumours, agenda, pools."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from runtime.membership.agenda import Agenda
from runtime.membership.awareness import Awareness
from runtime.membership.claim import State
from runtime.membership.pool import Pool, Round
from runtime.membership.rules import Rules
from runtime.membership.rumours import Rumours
from runtime.membership.suspicion import Suspicion
from tests.runtime.membership.parts import claim, host

# ---- suspicion


@given(
    st.floats(0.1, 100),
    st.floats(1, 10),
    st.integers(-1, 5),
    st.lists(st.integers(0, 8), max_size=12),
)
def test_a_suspicion_only_gets_shorter_and_stays_within_its_bounds(
    least: float, factor: float, needed: int, accusers: list[int]
) -> None:
    suspicion = Suspicion(10.0, least, least * factor, needed)
    before = suspicion.timeout
    for number in accusers:
        suspicion.accuse([host(number)])
        assert least <= suspicion.timeout <= max(before, least)
        assert suspicion.timeout <= least * factor or needed <= 0
        before = suspicion.timeout
    if len(set(accusers)) > needed:
        assert suspicion.timeout == least
    assert suspicion.confirmations <= max(needed, 0)


def test_one_accuser_confirms_nothing_however_often_it_says_so() -> None:
    suspicion = Suspicion(0.0, 4.0, 24.0, 2)
    assert suspicion.accuse([host(1)])
    assert not suspicion.accuse([host(1), host(1)])
    assert suspicion.timeout == 24.0
    assert suspicion.accuse([host(2)])
    assert 4.0 < suspicion.timeout < 24.0
    assert suspicion.accuse([host(3)])
    assert suspicion.until == 4.0
    assert not suspicion.accuse([host(4)])


@given(st.integers(0, 10_000))
def test_bounds_grow_with_the_cluster(hosts: int) -> None:
    rules = Rules()
    least, most = rules.suspicion_bounds(hosts)
    assert rules.suspicion_least <= least <= most
    assert rules.suspicion_bounds(hosts + 1) >= (least, most)
    assert 1 <= rules.tellings(hosts) <= rules.tellings(hosts + 1)
    assert rules.sync_every <= rules.sync_period(hosts) <= rules.sync_period(hosts + 1)


# ---- awareness


@given(st.lists(st.integers(-5, 5)))
def test_awareness_stays_in_bounds(deltas: list[int]) -> None:
    awareness = Awareness(8)
    for delta in deltas:
        before = awareness.score
        awareness.add(delta)
        assert 0 <= awareness.score <= 8
        assert (awareness.score - before) * delta >= 0
        assert awareness.scale == awareness.score + 1


# ---- rumours


class RumoursMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rumours = Rumours(5)
        self.told: dict[int, int] = {}
        self.tellings = 3

    @rule(number=st.integers(0, 9), meta=st.booleans())
    def put(self, number: int, meta: bool) -> None:
        self.rumours.put(claim(number, bare=meta))
        if number not in self.told and len(self.told) >= 5:
            most = max(self.told.values())
            gone = {other for other, times in self.told.items() if times == most} - self._waiting()
            assert len(gone) == 1
            del self.told[gone.pop()]
        self.told[number] = 0

    @rule(number=st.integers(0, 9))
    def drop(self, number: int) -> None:
        self.rumours.drop(host(number))
        self.told.pop(number, None)

    @rule(room=st.integers(0, 500), besides=st.none() | st.integers(0, 9))
    def take(self, room: int, besides: int | None) -> None:
        taken = self.rumours.take(room, self.tellings, None if besides is None else host(besides))
        assert sum(one.size for one in taken) <= room
        numbers = [one.host.int - 1 for one in taken]
        assert len(set(numbers)) == len(numbers)
        assert besides not in numbers
        # The least told come first.
        assert [self.told[number] for number in numbers] == sorted(self.told[number] for number in numbers)
        for number in numbers:
            self.told[number] += 1
            if self.told[number] == self.tellings:
                del self.told[number]

    def _waiting(self) -> set[int]:
        return {each.int - 1 for each in self.rumours._told}

    @invariant()
    def bounded(self) -> None:
        assert len(self.rumours) == len(self.told) <= 5
        assert self._waiting() == set(self.told)


TestRumours = RumoursMachine.TestCase
TestRumours.settings = settings(max_examples=60, stateful_step_count=40)


def test_the_newest_of_what_was_told_least_goes_first() -> None:
    rumours = Rumours(10)
    for number in (1, 2, 3):
        rumours.put(claim(number, bare=True))
    room = 2 * claim(1, bare=True).size
    assert [one.host.int - 1 for one in rumours.take(room, 9)] == [3, 2]
    rumours.put(claim(2, State.DEAD, bare=True))
    assert [one.host.int - 1 for one in rumours.take(room, 9)] == [2, 1]
    assert [one.host.int - 1 for one in rumours.take(10 * room, 9)] == [2, 1, 3]


# ---- agenda


class AgendaMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.agenda: Agenda[int] = Agenda()
        self.when: dict[int, float] = {}
        self.now = 0.0

    @rule(key=st.integers(0, 9), after=st.floats(0, 10))
    def set(self, key: int, after: float) -> None:
        self.agenda.set(key, self.now + after)
        self.when[key] = self.now + after

    @rule(key=st.integers(0, 9))
    def drop(self, key: int) -> None:
        self.agenda.drop(key)
        self.when.pop(key, None)

    @rule(seconds=st.floats(0, 20))
    def shift(self, seconds: float) -> None:
        self.agenda.shift(seconds)
        self.when = {key: when + seconds for key, when in self.when.items()}

    @rule(seconds=st.floats(0, 8))
    def due(self, seconds: float) -> None:
        self.now += seconds
        found = list(self.agenda.due(self.now))
        assert sorted(found) == sorted(key for key, when in self.when.items() if when <= self.now)
        assert [self.when[key] for key in found] == sorted(self.when[key] for key in found)
        for key in found:
            del self.when[key]

    @rule()
    def churn(self) -> None:
        """Set one key so often that the heap has to be swept."""
        for _ in range(100):
            self.set(0, 5.0)
        assert len(self.agenda._heap) < 200

    @invariant()
    def agrees(self) -> None:
        assert self.agenda.next == min(self.when.values(), default=None)
        assert len(self.agenda) == len(self.when)


TestAgenda = AgendaMachine.TestCase
TestAgenda.settings = settings(max_examples=60, stateful_step_count=40)


# ---- pools


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9))), st.integers(0, 12), st.integers(0, 9), st.integers())
def test_a_pool_holds_what_was_put_in(steps: list[tuple[bool, int]], count: int, besides: int, seed: int) -> None:
    pool, model = Pool(), set()
    for adds, number in steps:
        if adds:
            pool.add(host(number))
            model.add(host(number))
        else:
            pool.discard(host(number))
            model.discard(host(number))
    chance = random.Random(seed)
    assert set(pool) == model
    assert len(pool) == len(model)
    assert (pool.draw(chance) in model) is bool(model)
    sample = pool.sample(chance, count, host(besides))
    assert len(sample) == len(set(sample)) == min(count, len(model - {host(besides)}))
    assert set(sample) <= model - {host(besides)}


@given(st.integers(1, 12), st.integers())
def test_a_round_asks_everybody_once(count: int, seed: int) -> None:
    pool, order, chance = Pool(), Round(), random.Random(seed)
    for number in range(count):
        pool.add(host(number))
    for _ in range(3):
        assert sorted(order.next(pool, chance) or host(99) for _ in range(count)) == [host(n) for n in range(count)]
    late = host(50)
    order.next(pool, chance)
    pool.add(late)
    order.insert(late, chance)
    assert late in [order.next(pool, chance) for _ in range(count)]
    assert Round().next(Pool(), chance) is None
