"""The leader's dispatcher as a machine: what it sends, when, and what it makes of answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.commands import dispatch
from actors.commands.dispatch import (
    MOST_FLYING,
    MOST_TO_ONE,
    NOTED_AGAIN,
    TAKEN_FIRST,
    TAKEN_MAX,
    UNREACHABLE_MAX,
    Answered,
    Effect,
    Failed,
    Looked,
    Send,
    State,
    Write,
    Wrong,
    backoff,
    step,
)
from actors.commands.messages import CommandKind, Taken
from actors.commands.store import Note, Order
from tests.actors.commands.orders import EPOCH, order

STOP = CommandKind.STOP


class Run:
    """A state, what came of its steps, and the time."""

    def __init__(self) -> None:
        self.state, self.now, self.effects = State(EPOCH), 100.0, list[Effect]()

    def do(self, event: dispatch.Event, chance: float = 0.5) -> list[Effect]:
        self.state, effects = step(self.state, event, self.now, chance)
        self.effects += effects
        return list(effects)

    def look(self, *orders: Order) -> list[Send]:
        return sent(self.do(Looked(orders)))

    def answer(self, one: Send, **changes: Any) -> list[Effect]:
        order = one.order
        answer = replace(Taken(order.placement_id, order.generation, EPOCH), **changes)
        return self.do(Answered(one.number, order.placement_id, answer))

    def fail(self, one: Send, reason: str = "nobody there", unreachable: bool = True) -> list[Effect]:
        return self.do(Failed(one.number, one.order.placement_id, reason, unreachable))

    def steps(self) -> list[tuple[str, int]]:
        """Return the steps that were noted, and of which placement."""
        notes = [effect.note for effect in self.effects if isinstance(effect, Write)]
        return [(note.step, note.order.placement_id.int) for note in notes]


def sent(effects: list[Effect]) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send)]


def test_an_order_is_sent_once_and_again_only_after_a_while() -> None:
    run = Run()
    (one,) = run.look(order())
    assert run.look(order()) == []  # it is on its way
    run.answer(one)
    assert run.look(order()) == []
    assert run.state.wake() == run.now + backoff(TAKEN_FIRST, TAKEN_MAX, 1, 0.5)
    run.now = run.state.wake() or 0.0
    (again,) = run.look(order())
    assert again.number != one.number
    run.answer(again)
    # It was sent and taken: that it was so twice is told by the attempts of what comes next.
    assert run.steps() == [("sent", 1), ("taken", 1)]
    assert run.look() == []
    assert not run.state.entries
    assert run.state.wake() is None


def test_what_is_wanted_now_is_sent_at_once_and_the_answer_to_what_was_before_counts_nothing() -> None:
    run = Run()
    (create,) = run.look(order())
    (stop,) = run.look(order(kind=STOP, stop_timeout=30.0))
    assert run.answer(create) == []
    assert run.state.entries[UUID(int=1)].number == stop.number
    run.answer(stop)
    (force,) = run.look(order(kind=STOP, stop_timeout=30.0, force=True))
    assert force.order.force


def test_an_answer_that_does_not_belong_to_its_command_is_told_and_counts_for_nothing() -> None:
    for wrong in ({"placement_id": UUID(int=99)}, {"generation": 2}, {"epoch": EPOCH + 1}):
        run = Run()
        (one,) = run.look(order())
        (effect,) = run.answer(one, **wrong)
        assert isinstance(effect, Wrong)
        assert ("taken", 1) not in run.steps()
        run.now = run.state.wake() or 0.0
        assert len(run.look(order())) == 1
    run = Run()
    (one,) = run.look(order())
    assert isinstance(run.do(Answered(one.number, one.order.placement_id, "yes"))[0], Wrong)


def test_a_refusal_is_noted_once_for_each_reason_and_tried_again() -> None:
    run = Run()
    for reason in ("too late", "too late", "another"):
        (one,) = run.look(order())
        run.fail(one, reason, unreachable=False)
        run.now = run.state.wake() or 0.0
    (one,) = run.look(order())
    run.answer(one, superseded=True)
    notes = [effect.note for effect in run.effects if isinstance(effect, Write)]
    assert [(note.step, note.reason) for note in notes[1:]] == [
        ("refused", "too late"),
        ("refused", "another"),
        ("refused", "its host knows of a newer command"),
    ]


def test_a_host_that_is_not_reached_is_tried_with_one_order_at_a_time() -> None:
    run = Run()
    orders = [order(number) for number in range(1, 40)]
    first = run.look(*orders)
    assert len(first) == MOST_TO_ONE
    for one in first:
        run.fail(one)
    # All that wait for it are told of it, also those that were not sent; once.
    assert sorted(run.steps()) == sorted(
        [("sent", one.order.placement_id.int) for one in first] + [("unreachable", n) for n in range(1, 40)]
    )
    assert run.look(*orders) == []
    waits = []
    for _ in range(8):
        wake = run.state.wake()
        assert wake is not None
        waits.append(wake - run.now)
        run.now = wake
        (probe,) = run.look(*orders)
        run.fail(probe)
    assert waits == sorted(waits)
    assert waits[-1] <= UNREACHABLE_MAX
    assert len(run.steps()) == MOST_TO_ONE + 39
    run.now = run.state.wake() or 0.0
    (probe,) = run.look(*orders)
    # With its answer the others follow.
    more = sent(run.answer(probe))
    assert len(more) == MOST_TO_ONE
    # That it is not reached again is another streak.
    run.fail(more[-1])
    assert run.steps().count(("unreachable", 39)) == 2


def test_one_that_is_away_is_waited_for_and_told_at_once_when_it_is_back() -> None:
    run = Run()
    assert run.look(order(away=True)) == []
    assert run.state.wake() is None
    (one,) = run.look(order())
    run.fail(one)
    assert run.look(order(away=True)) == []
    assert len(run.look(order())) == 1


def test_other_hosts_do_not_wait_for_one_that_is_not_reached() -> None:
    run = Run()
    run.fail(run.look(order(1, node=1))[0])
    assert [one.order.placement_id.int for one in run.look(order(1, node=1), order(2, node=2))] == [2]


def test_more_is_sent_as_answers_come() -> None:
    run = Run()
    orders = [order(number, node=number % 50) for number in range(400)]
    flying = run.look(*orders)
    assert len(flying) == MOST_FLYING
    answered = 0
    while flying:
        flying += sent(run.answer(flying.pop(0)))
        answered += 1
    assert answered == 400


class Hosts(RuleBasedStateMachine):
    """Any orders, any answers, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.run = Run()
        self.orders: dict[UUID, Order] = {}
        self.flying: dict[int, Send] = {}
        self.streak: set[UUID] = set()
        self.noted: dict[UUID, list[Note]] = {}

    def do(self, event: dispatch.Event, chance: float) -> None:
        for effect in self.run.do(event, chance):
            match effect:
                case Send(number, one):
                    assert number not in self.flying
                    trouble = self.run.state.troubles.get(one.node_id)
                    assert trouble is None or trouble.until <= self.run.now
                    assert not one.away
                    assert self.run.state.entries[one.placement_id].order == one
                    self.flying[number] = effect
                case Write(note):
                    self.noted.setdefault(note.order.placement_id, []).append(note)

    @rule(
        numbers=st.sets(st.integers(1, 30), max_size=30),
        kinds=st.lists(st.sampled_from(CommandKind), min_size=31, max_size=31),
        away=st.sets(st.integers(0, 3), max_size=2),
        chance=st.floats(0, 1, exclude_max=True),
    )
    def look(self, numbers: set[int], kinds: list[CommandKind], away: set[int], chance: float) -> None:
        found = [order(one, one % 4, kinds[one], away=one % 4 in away) for one in sorted(numbers)]
        self.orders = {one.placement_id: one for one in found}
        self.do(Looked(tuple(found)), chance)

    @rule(chance=st.floats(0, 1, exclude_max=True))
    def look_again(self, chance: float) -> None:
        self.do(Looked(tuple(self.orders.values())), chance)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), how=st.integers(0, 4), chance=st.floats(0, 1, exclude_max=True))
    def hear(self, data: st.DataObject, how: int, chance: float) -> None:
        one = self.flying.pop(data.draw(st.sampled_from(sorted(self.flying))))
        placement = one.order.placement_id
        match how:
            case 0 | 1:
                self.do(Failed(one.number, placement, "nobody there", how == 0), chance)
            case 2:
                self.do(Answered(one.number, placement, None), chance)
            case _:
                taken = Taken(placement, one.order.generation, EPOCH, superseded=how == 3)
                self.do(Answered(one.number, placement, taken), chance)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.run.now += seconds

    @rule()
    def wait_as_told(self) -> None:
        """What is due is sent at the time that it asks to be looked at."""
        wake = self.run.state.wake()
        if wake is None or self.flying:
            return
        self.run.now = max(self.run.now, wake)
        self.do(Looked(tuple(self.orders.values())), 0.5)
        assert self.flying

    @invariant()
    def bounds(self) -> None:
        state = self.run.state
        assert set(state.entries) == set(self.orders)
        assert state.flying == len(self.flying) <= MOST_FLYING
        on_their_way = [entry.number for entry in state.entries.values() if entry.number is not None]
        assert len(set(on_their_way)) == len(on_their_way)
        assert set(on_their_way) <= set(self.flying)
        for key, entry in state.entries.items():
            if entry.number is not None:
                assert self.flying[entry.number].order.placement_id == key

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """While something waits for a host that is there, there is a time to look again, or an answer to come."""
        state = self.run.state
        if any(not entry.order.away for entry in state.entries.values()):
            assert state.wake() is not None or self.flying


TestHosts = Hosts.TestCase
TestHosts.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_host_that_answers_now_and_then_is_noted_now_and_then() -> None:
    """What waits for it may be thousands: each of its silences is not worth as many lines."""
    run = Run()
    orders = [order(number) for number in range(1, 30)]
    begin = run.now
    probes = run.look(*orders)
    while run.now < begin + 8 * NOTED_AGAIN:
        for one in probes:
            run.fail(one)
        run.now = run.state.wake() or 0.0
        (probe,) = run.look(*orders)
        probes = sent(run.answer(probe)) or run.look(*orders)
    noted = [step for step, _ in run.steps()].count("unreachable")
    assert len(orders) <= noted <= 9 * len(orders)
