"""Queues over time: what comes, runs for a while and goes. Whoever could run somewhere does, within a bound."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.model.records import PendingInstance
from actors.model.scheduling import MAX_PRIORITY
from actors.scheduler.plan import evaluate
from actors.scheduler.queue import AGEING, STARVED
from actors.scheduler.store import NodeView, Pending
from tests.actors.scheduler.parts import OVERHEAD, node, pending

#: Seconds between evaluations.
TICK = 30.0
#: Seconds after which anything has the highest priority and is the oldest of those that have it.
AGED = MAX_PRIORITY * AGEING


@dataclass
class Cluster:
    """Hosts with what runs on them and until when, and what waits."""

    views: list[NodeView]
    lifetime: Callable[[], int]  # in ticks
    now: int = 0
    waiting: dict[UUID, tuple[PendingInstance, int]] = field(default_factory=dict)
    running: list[tuple[int, UUID, PendingInstance]] = field(default_factory=list)
    placed: dict[UUID, int] = field(default_factory=dict)

    def ask(self, instance: PendingInstance) -> None:
        self.waiting[instance.id] = (instance, self.now)

    def tick(self) -> None:
        self.now += 1
        self.running = [one for one in self.running if one[0] > self.now]
        free = {view.id: [view.vcpu, view.memory] for view in self.views}
        for _, node_id, instance in self.running:
            free[node_id][0] -= instance.resources.vcpu
            free[node_id][1] -= instance.resources.memory + OVERHEAD
        assert all(vcpu >= 0 and memory >= 0 for vcpu, memory in free.values())
        views = [replace(v, vcpu_free=free[v.id][0], memory_free=free[v.id][1]) for v in self.views]
        page = [replace(one, waiting=(self.now - since) * TICK) for one, since in self.waiting.values()]
        for assignment in evaluate(Pending(tuple(page)), views).assignments:
            instance, since = self.waiting.pop(assignment.instance_id)
            self.placed[instance.id] = self.now - since
            self.running.append((self.now + self.lifetime(), assignment.node_id, instance))


seeds = st.integers(0, 2**32)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 4), st.integers(2, 10), st.integers(0, 100), st.integers(0, 100))
def test_small_ones_do_not_pass_a_large_one_for_ever(
    seed: int, hosts: int, longest: int, large_priority: int, small_priority: int
) -> None:
    chance = random.Random(seed)
    cluster = Cluster([node(n + 1) for n in range(hosts)], lambda: chance.randint(1, longest))
    number = 0
    large = pending(0, vcpu=4, memory=2048, priority=large_priority)
    # All hosts are busy when it comes, and more small ones come than can run.
    for tick in range(int(AGED / TICK) * 2 + hosts * longest * 4):
        for _ in range(chance.randint(hosts, 3 * hosts)):
            number += 1
            # What waits in vain goes away, or this would be about the queue's length.
            if len(cluster.waiting) < 8 * hosts:
                cluster.ask(pending(number, priority=small_priority))
        if tick == longest:
            assert large.id not in cluster.waiting
            cluster.ask(large)
        cluster.tick()
        if large.id in cluster.placed:
            break
    # When it is first in turn, all that is on the host that is kept for it ends within the longest life; those that
    # were there before it have their turns first.
    bound = max((MAX_PRIORITY - large_priority) * AGEING, STARVED) + (8 * hosts + 2) * longest * TICK
    assert cluster.placed[large.id] * TICK <= bound


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 3), st.integers(1, 6), st.integers(0, 60))
def test_high_priorities_do_not_starve_a_low_one(seed: int, hosts: int, longest: int, low: int) -> None:
    chance = random.Random(seed)
    cluster = Cluster([node(n + 1) for n in range(hosts)], lambda: chance.randint(1, longest))
    waits, number = pending(0, priority=low), 0
    for tick in range(int(AGED / TICK) * 2):
        for _ in range(5 * hosts):
            number += 1
            if len(cluster.waiting) < 8 * hosts:
                cluster.ask(pending(number, priority=MAX_PRIORITY))
        if tick == longest:
            cluster.ask(waits)
        cluster.tick()
        if waits.id in cluster.placed:
            break
    assert cluster.placed[waits.id] * TICK <= (MAX_PRIORITY - low) * AGEING + (8 * hosts + 2) * longest * TICK


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 5), st.integers(1, 8), st.integers(1, 40))
def test_everything_that_could_run_somewhere_does_once_no_more_comes(
    seed: int, hosts: int, longest: int, ticks: int
) -> None:
    chance = random.Random(seed)
    views = [node(n + 1, vcpu=chance.randint(1, 8), memory=chance.randint(512, 8192)) for n in range(hosts)]
    cluster = Cluster(views, lambda: chance.randint(1, longest))
    number, impossible = 0, set()
    for _ in range(ticks):
        for _ in range(chance.randint(0, 2 * hosts)):
            number += 1
            pin = chance.choice([None, None, None, *(view.id for view in views)])
            vcpu, memory = chance.randint(1, 8), chance.randint(64, 8192)
            one = pending(number, vcpu=vcpu, memory=memory, node_id=pin, priority=chance.randint(0, 100))
            places = [view for view in views if pin in (None, view.id)]
            if not any(vcpu <= view.vcpu and memory + OVERHEAD <= view.memory for view in places):
                impossible.add(one.id)
            cluster.ask(one)
        cluster.tick()
    left = len(cluster.waiting.keys() - impossible)
    for _ in range(int(AGED / TICK) + (left + 1) * longest):
        if cluster.waiting.keys() == impossible:
            break
        cluster.tick()
    assert cluster.waiting.keys() == impossible


def test_what_no_host_could_ever_hold_keeps_none() -> None:
    waits = pending(1, vcpu=99, waiting=1e6)
    plan = evaluate(Pending((waits, pending(2))), [node(1)])
    assert [one.instance_id for one in plan.assignments] == [pending(2).id]


def test_a_host_is_kept_for_the_first_that_starves_and_who_could_have_gone_there_is_told() -> None:
    views = [node(1, vcpu_free=3), node(2, vcpu_free=1)]
    waits = pending(1, vcpu=4, waiting=STARVED + 1)
    plan = evaluate(Pending((waits, pending(2), pending(3), pending(4))), views)
    assert [(one.instance_id, one.node_id.int) for one in plan.assignments] == [(pending(2).id, 2)]
    assert [one.reason for one in plan.postponed] == [
        "2 hosts: 1 lacks 1 vCPU, 1 lacks 3 vCPU",
        "2 hosts: 1 kept for one that waits longer, 1 lacks 1 vCPU",
        "2 hosts: 1 kept for one that waits longer, 1 lacks 1 vCPU",
    ]
    young = replace(waits, waiting=STARVED)
    assert len(evaluate(Pending((young, pending(2), pending(3), pending(4))), views).assignments) == 3


def test_a_pinned_one_keeps_its_own_host_and_no_other() -> None:
    views = [node(1, vcpu_free=3), node(2, vcpu_free=1)]
    waits = pending(1, vcpu=4, waiting=STARVED + 1, node_id=UUID(int=2))
    plan = evaluate(Pending((waits, *(pending(n) for n in range(2, 6)))), views)
    assert [one.node_id.int for one in plan.assignments] == [1, 1, 1]


def test_few_hosts_are_kept_however_many_starve() -> None:
    views = [node(n, vcpu_free=3) for n in range(1, 17)]
    starved = [pending(n, vcpu=4, waiting=STARVED + 1) for n in range(1, 40)]
    small = [pending(100 + n) for n in range(60)]
    plan = evaluate(Pending((*starved, *small)), views)
    assert len(plan.assignments) == (16 - 2) * 3
