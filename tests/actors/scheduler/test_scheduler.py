"""The scheduler actor over a store in memory: its order, its hints, its terms, its failures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from actors.model.errors import Unavailable
from actors.model.states import InstanceDesired, InstanceState, NodeState
from actors.scheduler import evaluation
from actors.scheduler.actor import SLOW_TIMER, Scheduler
from actors.scheduler.counts import Counts
from actors.scheduler.groups import AT_ONCE
from actors.scheduler.messages import Evaluate
from actors.scheduler.store import Displaced, GroupView, Member, Move
from runtime import Message, SimulatedEnvironment, Spec, System
from runtime.lease import Term
from runtime.office import Office
from tests.actors.scheduler.parts import node, pending
from tests.actors.scheduler.store import Store

TERM = Term(3, UUID(int=9), 10.0)


class Stage:
    def __init__(self, store: Store, until: float = 1e9) -> None:
        self.store = store
        self.doubts: list[str] = []
        self.office = Office(TERM, until, trio.current_time, self.doubts.append)
        self.counts = Counts()
        self.actor = Scheduler(store, self.office, self.counts)
        self.system = System(SimulatedEnvironment())

    def hint(self) -> None:
        self.system.name("scheduler").tell(Evaluate("test"))

    async def settled(self) -> None:
        """Return once nothing is going on any more, without a timer having come."""
        await trio.testing.wait_all_tasks_blocked(0.001)


@asynccontextmanager
async def running(store: Store, until: float = 1e9) -> AsyncIterator[Stage]:
    stage = Stage(store, until)
    async with stage.system:
        await stage.system.start(Spec("scheduler", lambda: stage.actor))
        await stage.settled()
        yield stage


def displaced(number: int, state: NodeState, *, singleton: bool = False) -> Displaced:
    return Displaced(pending(number), UUID(int=500 + number), UUID(int=1), "h1", state, singleton, "", False, "web")


async def test_what_waits_is_placed_at_the_start_and_on_a_hint(autojump_clock: MockClock) -> None:
    store = Store(node(1), node(2))
    store.want(pending(1), pending(2, vcpu=9))
    async with running(store) as stage:
        assert store.placed == {pending(1).id: UUID(int=1)}
        assert store.reasons == {pending(2).id: "2 hosts: 1 lacks 5 vCPU, 1 lacks 6 vCPU"}
        store.want(pending(3))
        stage.hint()
        await stage.settled()
        assert pending(3).id in store.placed
        assert stage.counts.placed == 2
        assert stage.counts.evaluations == 2


async def test_a_lost_hint_costs_the_slow_timer(autojump_clock: MockClock) -> None:
    store = Store(node(1))
    async with running(store):
        store.want(pending(1))
        await trio.sleep(SLOW_TIMER * 1.2)
        assert store.placed


async def test_many_hints_cost_one_evaluation_beside_the_one_that_runs(autojump_clock: MockClock) -> None:
    store = Store(node(1))
    store.seconds = 1.0
    store.want(pending(1))
    async with running(store) as stage:
        for _ in range(50):
            stage.hint()
        store.want(pending(2))
        await trio.sleep(5)
        assert stage.counts.evaluations == 2
        assert len(store.placed) == 2


async def test_groups_come_first_then_what_has_to_move_then_what_waits(autojump_clock: MockClock) -> None:
    store = Store(node(1, state=NodeState.DOWN), node(2))
    store.group_views = (GroupView(UUID(int=7), "web", 1, 2, False, 0, 0.0),)
    store.displaced_views = (displaced(1, NodeState.DOWN), displaced(2, NodeState.DRAINING, singleton=True))
    store.want(pending(5))
    async with running(store) as stage:
        assert store.calls == [
            "groups",
            "apply_groups",
            "displaced",
            "nodes",
            "apply_moves",
            "pending",
            "apply_plan",
        ]
        assert [change.create for change in store.changes] == [(0, 1)]
        assert [move.move for move in store.moves] == [Move.REPLACE, Move.STOP_FIRST]
        assert (stage.counts.members, stage.counts.moved, stage.counts.placed) == (2, 2, 1)


async def test_room_for_one_that_is_stopped_first_is_not_given_to_another_in_the_same_evaluation(
    autojump_clock: MockClock,
) -> None:
    store = Store(node(1, state=NodeState.DRAINING), node(2, vcpu=1))
    store.displaced_views = (displaced(1, NodeState.DRAINING, singleton=True),)
    store.want(pending(5))
    async with running(store):
        assert [move.move for move in store.moves] == [Move.STOP_FIRST]
        assert store.placed == {}


async def test_who_stays_on_a_host_that_is_to_be_emptied_can_be_asked_for(autojump_clock: MockClock) -> None:
    store = Store(node(1, state=NodeState.DRAINING))
    store.displaced_views = (displaced(1, NodeState.DRAINING, singleton=True),)
    async with running(store) as stage:
        assert [one.reason for one in stage.actor.staying] == ["h1 is being drained: 1 host: 1 draining"]
        assert store.moves == []


async def test_nodes_are_not_looked_at_when_nothing_waits(autojump_clock: MockClock) -> None:
    store = Store(node(1))
    async with running(store):
        assert store.calls == ["groups", "displaced", "pending"]


async def test_a_reason_is_written_once(autojump_clock: MockClock) -> None:
    store = Store(node(1))
    store.want(pending(1, vcpu=9))
    async with running(store) as stage:
        for _ in range(3):
            stage.hint()
            await stage.settled()
        assert store.calls.count("apply_plan") == 1
        assert stage.counts.postponed == 1


async def test_turns_are_kept_over_pages(autojump_clock: MockClock) -> None:
    store = Store(node(1, vcpu=2))
    store.page = 2
    old = pending(9, priority=10, waiting=6000)
    store.want(*(pending(n, priority=50) for n in range(6)), old, pending(10, priority=80))
    async with running(store):
        assert set(store.placed) == {old.id, pending(10, priority=80).id}


async def test_what_is_behind_the_pages_of_one_evaluation_is_the_next_ones(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "PAGES", 3)
    store = Store(node(1))
    store.page = 2
    # All that could be seen without going on fits nowhere.
    store.want(*(pending(n, vcpu=9, priority=90) for n in range(8)), pending(100, priority=10))
    async with running(store) as stage:
        assert pending(100).id in store.placed
        assert stage.counts.evaluations == 2
        await trio.sleep(SLOW_TIMER * 1.2)
        assert stage.counts.evaluations <= 4


async def test_an_evaluation_ends_after_a_while_and_the_next_one_looks_at_hosts_and_groups_first(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "BATCH", 1)
    monkeypatch.setattr(evaluation, "BATCH_MIN", 1)
    monkeypatch.setattr(evaluation, "STEP", 1)
    store = Store(node(1, vcpu=100, memory=100_000))
    store.seconds = evaluation.SLICE / 2
    store.want(*(pending(n) for n in range(6)))
    async with running(store) as stage:
        await trio.sleep(evaluation.SLICE * 4)
        assert len(store.placed) == 6
        assert stage.counts.evaluations >= 3
        looks = [call for call in store.calls if call in ("groups", "apply_plan")]
        assert looks[:7] == ["groups", "apply_plan", "apply_plan", "groups", "apply_plan", "apply_plan", "groups"]


async def test_batches_grow_while_writing_is_quick(autojump_clock: MockClock) -> None:
    store = Store(node(1, vcpu=9000, memory=9_000_000))
    store.want(*(pending(n) for n in range(6000)))
    async with running(store) as stage:
        assert [len(plan.assignments) for plan in store.plans] == [512, 1024, 2048, 2416]
        assert stage.counts.evaluations == 1


async def test_a_large_group_is_made_in_parts_without_a_hint_between(autojump_clock: MockClock) -> None:
    store = Store(node(1))
    store.group_views = (GroupView(UUID(int=7), "web", 1, 250, False, 0, 0.0),)
    async with running(store):
        (first,) = store.changes
        assert first.create == tuple(range(AT_ONCE))
        assert store.calls.count("groups") == 2


async def test_a_host_that_refuses_is_avoided_and_the_others_have_what_waits(autojump_clock: MockClock) -> None:
    store = Store(node(1, vcpu_free=2), node(2))
    store.refusing = {UUID(int=1)}
    store.want(pending(1))
    async with running(store) as stage:
        assert store.placed == {}
        assert store.reasons == {pending(1).id: "its pool is empty"}
        await trio.sleep(2)
        assert store.placed == {pending(1).id: UUID(int=2)}
        assert stage.counts.refused == 1


async def test_refusals_are_tried_again_with_waits_that_grow(autojump_clock: MockClock) -> None:
    store = Store(node(1))
    store.refusing = {UUID(int=1)}
    store.want(pending(1))
    async with running(store) as stage:
        await trio.sleep(60)
        assert 5 <= stage.counts.refused <= 20
        store.refusing.clear()
        await trio.sleep(SLOW_TIMER * 1.2)
        assert store.placed


async def test_a_fenced_write_casts_doubt_on_the_office_and_writes_nothing_more(autojump_clock: MockClock) -> None:
    store = Store(node(1))
    store.fenced = True
    store.group_views = (GroupView(UUID(int=7), "web", 1, 2, False, 0, 0.0),)
    store.want(pending(1))
    async with running(store) as stage:
        assert len(stage.doubts) == 1
        assert store.calls == ["groups", "apply_groups"]
        assert store.placed == {}
        await trio.sleep(30)
        assert len(stage.doubts) == 1
        assert "apply_plan" not in store.calls
        assert stage.counts.failures >= 1


async def test_nothing_is_written_once_the_term_is_over(autojump_clock: MockClock) -> None:
    store = Store(node(1))
    async with running(store, until=5.0) as stage:
        await trio.sleep(6)
        store.want(pending(1))
        stage.hint()
        await stage.settled()
        assert "apply_plan" not in store.calls


async def test_an_absent_store_is_asked_again_with_back_off_and_then_all_is_done(autojump_clock: MockClock) -> None:
    store = Store(node(1))
    store.errors = {"groups": [Unavailable("away")] * 4}
    store.want(pending(1))
    async with running(store) as stage:
        # The other parts would find the same.
        assert store.calls == ["groups"]
        await trio.sleep(30)
        assert store.placed
        assert stage.counts.failures == 4


async def test_a_part_that_is_broken_does_not_keep_the_others_from_working(autojump_clock: MockClock) -> None:
    store = Store(node(1))
    store.errors = {"groups": [ValueError("a bug")] * 100, "displaced": [ValueError("another one")]}
    store.want(pending(1))
    async with running(store) as stage:
        assert store.placed
        await trio.sleep(60)
        assert 5 <= stage.counts.failures <= 20


async def test_a_group_that_waits_is_looked_at_when_its_wait_is_over(autojump_clock: MockClock) -> None:
    failed = Member(UUID(int=1), 0, InstanceDesired.RUNNING, InstanceState.FAILED, 1, False)
    store = Store(node(1))
    store.group_views = (GroupView(UUID(int=7), "web", 1, 1, False, 0, 0.0, (failed,)),)
    async with running(store) as stage:
        (change,) = store.changes
        assert change.retry_in is not None
        assert stage.counts.evaluations == 1
        store.group_views = (GroupView(UUID(int=7), "web", 1, 1, False, 1, 0.0),)
        await trio.sleep(change.retry_in + 0.1)
        assert [change.create for change in store.changes] == [(), (0,)]


async def test_an_unknown_message_changes_nothing(autojump_clock: MockClock) -> None:
    store = Store(node(1))
    async with running(store) as stage:
        stage.system.name("scheduler").tell(Message())
        await stage.settled()
        stage.hint()
        await stage.settled()
        assert stage.counts.evaluations == 2
