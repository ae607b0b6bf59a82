"""A group comes to what is wanted of it from wherever it is, against a small model of the world."""

from __future__ import annotations

import itertools
from dataclasses import replace
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from actors.model.states import InstanceDesired, InstanceState, NodeState
from actors.scheduler.groups import AT_ONCE, BACKOFF_FIRST, BACKOFF_MAX, CALM, backoff, reconcile
from actors.scheduler.store import GroupChange, GroupView, Member

ID = UUID(int=5)


def member(slot: int, **changes: object) -> Member:
    values: dict[str, object] = {
        "desired": InstanceDesired.RUNNING,
        "state": InstanceState.RUNNING,
        "generation": 1,
        "placed": True,
        "node_state": NodeState.READY,
    }
    values.update(changes)
    return Member(UUID(int=100 + slot), slot, **values)  # type: ignore[arg-type]


def group(*members: Member, replicas: int, **changes: object) -> GroupView:
    values: dict[str, object] = {"deleted": False, "failures": 0, "retry_in": 0.0}
    values.update(changes)
    return GroupView(ID, "web", 7, replicas=replicas, members=members, **values)  # type: ignore[arg-type]


def ended(change: GroupChange | None) -> set[int]:
    return set() if change is None else {one.int - 100 for one in change.terminate}


class World(RuleBasedStateMachine):
    """What stores, hosts and people do to a group between two reconciliations, and then nobody does anything."""

    @initialize(replicas=st.integers(0, 6))
    def begin(self, replicas: int) -> None:
        self.view = group(replicas=replicas)
        self.gone = False
        self.numbers = itertools.count(1)

    def apply(self, change: GroupChange) -> None:
        assert change.group_id == ID
        assert change.generation == self.view.generation
        slots = [one.slot for one in self.view.members]
        assert not set(change.create) & set(slots)
        assert len(set(change.create)) == len(change.create)
        assert set(change.terminate) <= {one.id for one in self.view.members}
        members = [
            replace(one, desired=InstanceDesired.TERMINATED) if one.id in change.terminate else one
            for one in self.view.members
        ]
        members += [
            Member(UUID(int=next(self.numbers)), slot, InstanceDesired.RUNNING, InstanceState.PENDING, 1, False)
            for slot in change.create
        ]
        # What is not placed is gone at once, as in the store.
        members = [one for one in members if one.placed or one.desired is not InstanceDesired.TERMINATED]
        self.view = replace(
            self.view,
            members=tuple(members),
            failures=self.view.failures if change.failures is None else change.failures,
            retry_in=self.view.retry_in if change.retry_in is None else change.retry_in,
        )
        if change.gone:
            assert self.view.deleted
            assert not self.view.members
            self.gone = True

    def replace_one(self, index: int, **changes: object) -> None:
        members = list(self.view.members)
        members[index % len(members)] = replace(members[index % len(members)], **changes)  # type: ignore[arg-type]
        self.view = replace(self.view, members=tuple(members))

    def reconcile(self, chance: float = 0.5) -> bool:
        change = None if self.gone else reconcile(self.view, chance)
        if change is not None:
            wanted = [one for one in self.view.members if one.desired is not InstanceDesired.TERMINATED]
            assert len(wanted) + len(change.create) <= max(len(wanted), self.view.replicas)
            self.apply(change)
        return change is not None

    @rule(chance=st.floats(0, 1, exclude_max=True))
    def look(self, chance: float) -> None:
        self.reconcile(chance)

    @rule()
    def hosts_do_their_work(self) -> None:
        members = []
        for one in self.view.members:
            if one.desired is InstanceDesired.TERMINATED:
                continue
            if one.desired is InstanceDesired.STOPPED:
                one = replace(one, state=InstanceState.STOPPED, placed=False, node_state=None)
            elif one.state in (InstanceState.PENDING, InstanceState.STARTING, InstanceState.CRASH_LOOP):
                one = replace(one, state=InstanceState.RUNNING, placed=True, node_state=NodeState.READY)
            members.append(one)
        self.view = replace(self.view, members=tuple(members))

    @rule(seconds=st.floats(0, 400))
    def time_goes_by(self, seconds: float) -> None:
        self.view = replace(self.view, retry_in=max(0.0, self.view.retry_in - seconds))

    @precondition(lambda self: self.view.members)
    @rule(index=st.integers(0, 20), state=st.sampled_from([InstanceState.FAILED, InstanceState.STOPPED]))
    def one_ends_by_itself(self, index: int, state: InstanceState) -> None:
        self.replace_one(index, state=state, placed=False, node_state=None)

    @precondition(lambda self: self.view.members)
    @rule(index=st.integers(0, 20), state=st.sampled_from([InstanceState.CRASH_LOOP, InstanceState.UNKNOWN]))
    def one_is_in_trouble(self, index: int, state: InstanceState) -> None:
        self.replace_one(index, state=state, placed=True)

    @precondition(lambda self: self.view.members)
    @rule(index=st.integers(0, 20), desired=st.sampled_from(list(InstanceDesired)))
    def a_person_wants_something_of_one(self, index: int, desired: InstanceDesired) -> None:
        if self.view.members[index % len(self.view.members)].desired is not InstanceDesired.TERMINATED:
            self.replace_one(index, desired=desired)

    @rule(replicas=st.integers(0, 6))
    def a_person_scales(self, replicas: int) -> None:
        self.view = replace(self.view, replicas=replicas, generation=self.view.generation + 1)

    @rule()
    def a_person_deletes(self) -> None:
        self.view = replace(self.view, deleted=True)

    def teardown(self) -> None:
        if not hasattr(self, "view"):
            return
        for _ in range(200):
            done = not self.reconcile()
            self.hosts_do_their_work()
            self.time_goes_by(BACKOFF_MAX)
            if done and not self.reconcile():
                break
        else:
            raise AssertionError("it never came to rest")
        members = self.view.members
        if self.view.deleted:
            assert self.gone
            assert not members
        else:
            assert len(members) == self.view.replicas
            assert all(one.desired is not InstanceDesired.TERMINATED for one in members)
            assert self.view.failures == 0 or any(one.state is InstanceState.UNKNOWN for one in members)


World.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestWorld = World.TestCase


def test_a_new_group_gets_all_its_members_at_once_and_then_nothing_is_to_be_done() -> None:
    assert reconcile(group(replicas=3), 0.5) == GroupChange(ID, 7, create=(0, 1, 2))
    assert reconcile(group(member(0), member(1), member(2), replicas=3), 0.5) is None


def test_the_smallest_free_slots_are_filled_and_one_that_is_ending_has_its_own_still() -> None:
    ending = member(1, desired=InstanceDesired.TERMINATED)
    change = reconcile(group(member(0), ending, member(3), replicas=5), 0.5)
    assert change == GroupChange(ID, 7, create=(2, 4, 5))


def test_what_serves_nobody_is_ended_first_then_the_highest_slot() -> None:
    members = [
        member(0, state=InstanceState.PENDING, placed=False),
        member(1, state=InstanceState.UNKNOWN),
        member(2, state=InstanceState.CRASH_LOOP),
        member(3, state=InstanceState.STARTING),
        member(4, node_state=NodeState.DRAINING),
        member(5),
        member(6),
        member(7),
    ]
    order = [0, 1, 2, 3, 4, 7, 6, 5]
    for replicas in range(9):
        assert ended(reconcile(group(*members, replicas=replicas), 0.5)) == set(order[: 8 - replicas])


def test_one_that_a_person_stopped_keeps_its_place_and_is_ended_first_when_there_are_too_many() -> None:
    stopped = member(0, desired=InstanceDesired.STOPPED, state=InstanceState.STOPPED, placed=False)
    assert reconcile(group(stopped, member(1), replicas=2), 0.5) is None
    assert ended(reconcile(group(stopped, member(1), replicas=1), 0.5)) == {0}


def test_one_that_a_person_terminated_is_filled_again_without_a_wait() -> None:
    change = reconcile(group(member(0, desired=InstanceDesired.TERMINATED), member(1), replicas=2), 0.5)
    assert change == GroupChange(ID, 7, create=(2,))


def test_one_that_failed_is_ended_and_its_slot_is_filled_after_a_wait_that_grows() -> None:
    failed = member(1, state=InstanceState.FAILED, placed=False)
    change = reconcile(group(member(0), failed, replicas=2), 0.0)
    assert change == GroupChange(ID, 7, terminate=(failed.id,), failures=1, retry_in=1.0)
    assert reconcile(group(member(0), replicas=2, failures=1, retry_in=0.3), 0.0) is None
    change = reconcile(group(member(0), replicas=2, failures=1), 0.0)
    assert change == GroupChange(ID, 7, create=(1,), retry_in=CALM)
    # It fails anew before the group was calm for long enough.
    change = reconcile(group(member(0), failed, replicas=2, failures=1, retry_in=50.0), 0.0)
    assert change == GroupChange(ID, 7, terminate=(failed.id,), failures=2, retry_in=2.0)


def test_others_that_fail_during_the_wait_do_not_make_it_longer() -> None:
    failed = member(1, state=InstanceState.FAILED, placed=False)
    change = reconcile(group(member(0), failed, replicas=3, failures=1, retry_in=0.5), 0.0)
    assert change == GroupChange(ID, 7, terminate=(failed.id,))


def test_failures_are_forgotten_once_all_run_and_the_calm_is_over() -> None:
    running = group(member(0), member(1), replicas=2, failures=3, retry_in=10.0)
    assert reconcile(running, 0.5) is None
    assert reconcile(replace(running, retry_in=0.0), 0.5) == GroupChange(ID, 7, failures=0, retry_in=0.0)
    starting = member(1, state=InstanceState.STARTING)
    assert reconcile(replace(running, members=(member(0), starting), retry_in=0.0), 0.5) is None


def test_a_large_group_is_made_and_ended_in_parts_and_is_only_calm_once_all_are_there() -> None:
    change = reconcile(group(replicas=250, failures=1), 0.5)
    assert change == GroupChange(ID, 7, create=tuple(range(AT_ONCE)))
    members = [member(slot) for slot in range(200)]
    change = reconcile(group(*members, replicas=250, failures=1), 0.5)
    assert change == GroupChange(ID, 7, create=tuple(range(200, 250)), retry_in=CALM)
    assert ended(reconcile(group(*members, replicas=20), 0.5)) == set(range(100, 200))
    assert len(ended(reconcile(group(*members, replicas=20, deleted=True), 0.5))) == AT_ONCE


def test_a_singleton_on_a_dead_host_is_not_made_anew() -> None:
    unknown = member(0, state=InstanceState.UNKNOWN, node_state=NodeState.DOWN)
    assert reconcile(group(unknown, replicas=1), 0.5) is None


def test_a_deleted_group_ends_its_members_and_then_itself() -> None:
    ending = member(1, desired=InstanceDesired.TERMINATED)
    assert ended(reconcile(group(member(0), ending, replicas=2, deleted=True), 0.5)) == {0}
    assert reconcile(group(ending, replicas=2, deleted=True), 0.5) is None
    assert reconcile(group(replicas=2, deleted=True), 0.5) == GroupChange(ID, 7, gone=True)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_waits_have_bounds(failures: int, chance: float) -> None:
    assert BACKOFF_FIRST <= backoff(failures, chance) <= BACKOFF_MAX
    assert backoff(failures, chance) <= 2 * BACKOFF_FIRST * 2.0 ** max(0, min(failures, 50) - 1)
