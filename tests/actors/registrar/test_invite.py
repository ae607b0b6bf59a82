"""Whom the leader invites when: at once, then ever more seldom, never twice at a time, and not forever."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from actors.model.states import NodeState
from actors.registrar.invite import (
    INTERVAL,
    LONGEST_WAIT,
    MOST,
    Finish,
    GiveUp,
    Invite,
    Invited,
    State,
    ended,
    key_of,
    look,
    wait_after,
)

NEW = Invited(
    node_id=UUID(int=2),
    asked=100.0,
    hostname="h2",
    address="192.0.2.2:7946",
    code="zwi1_x",
    state=NodeState.BOOTING,
    generation=0,
    left=600.0,
    timeout=600.0,
    tries=0,
    accepted=False,
    reason="",
)


def half() -> float:
    return 0.5


def test_a_host_is_tried_at_once_and_not_again_while_that_lasts() -> None:
    state, effects = look(State(), [NEW], 10.0, half)
    assert effects == (Invite(NEW),)
    assert look(state, [NEW], 12.0, half)[1] == ()
    # Even past its time: how the try ends is written first.
    assert look(state, [replace(NEW, left=-1.0)], 12.0, half)[1] == ()


def test_it_is_tried_again_after_a_wait_that_grows() -> None:
    state, now, one = State(), 0.0, NEW
    waits = []
    for tries in range(8):
        one = replace(one, tries=tries)
        while not (found := look(state, [one], now, half))[1]:
            state = found[0]
            now += 0.25
        state, since = ended(found[0], one, now, half), now
        after = replace(one, tries=tries + 1)
        while not look(state, [after], now, half)[1]:
            now += 0.25
        waits.append(now - since)
    assert waits == sorted(waits)
    assert waits[0] <= 2.0
    assert waits[-1] <= LONGEST_WAIT


def test_what_was_asked_for_anew_is_tried_anew() -> None:
    state = ended(look(State(), [NEW], 0.0, half)[0], replace(NEW, tries=9), 0.0, half)
    assert look(state, [replace(NEW, tries=10)], 1.0, half)[1] == ()
    anew = replace(NEW, asked=200.0)
    assert look(state, [anew], 1.0, half)[1] == (Invite(anew),)


def test_a_new_leader_begins_with_all_but_not_at_one_moment() -> None:
    tried = replace(NEW, tries=5)
    state, effects = look(State(), [tried], 10.0, half)
    assert effects == ()
    assert look(state, [tried], 10.0 + INTERVAL, half)[1] == (Invite(tried),)


def test_one_that_has_come_is_over_and_one_that_starts_is_waited_for() -> None:
    for state in (NodeState.READY, NodeState.DRAINING, NodeState.DOWN, NodeState.TERMINATED):
        come = replace(NEW, generation=1, state=state)
        assert look(State(), [come], 0.0, half)[1] == (Finish(come),)
    removed = replace(NEW, state=NodeState.TERMINATED)
    assert look(State(), [removed], 0.0, half)[1] == (Finish(removed),)
    for starts in (replace(NEW, accepted=True), replace(NEW, generation=1)):
        assert look(State(), [starts], 0.0, half)[1] == ()


def test_it_is_given_up_with_a_reason_that_helps() -> None:
    for one, said in (
        (replace(NEW, left=0.0), "not invited within 600 s"),
        (replace(NEW, left=-5.0, tries=3, reason="it can't be reached"), "3 tries; the last: it can't be reached"),
        (replace(NEW, left=0.0, accepted=True), "accepted its invitation and did not come"),
        (replace(NEW, left=0.0, generation=1), "was not ready within 600 s"),
    ):
        (effect,) = look(State(), [one], 0.0, half)[1]
        assert isinstance(effect, GiveUp)
        assert said in effect.reason


def test_a_code_is_not_shown() -> None:
    assert "zwi1" not in repr(NEW) + repr(Invite(NEW))


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_waits_are_bounded(tries: int, roll: float) -> None:
    assert 0.5 <= wait_after(tries, lambda: roll) <= LONGEST_WAIT


_INVITED = st.builds(
    replace,
    st.just(NEW),
    node_id=st.integers(1, 20).map(lambda number: UUID(int=number)),
    state=st.sampled_from(NodeState),
    generation=st.integers(0, 2),
    left=st.floats(-10, 600),
    tries=st.integers(0, 50),
    accepted=st.booleans(),
)


@given(
    st.lists(
        st.tuples(
            st.lists(_INVITED, max_size=20, unique_by=key_of),
            st.floats(0, 40),
            st.lists(st.integers(0, 19), max_size=5),
        ),
        max_size=20,
    ),
    st.floats(0, 1),
)
def test_whatever_is_found(looks: list[tuple[list[Invited], float, list[int]]], roll: float) -> None:
    """Never more at once than may be, never one twice, nothing remembered of whom nobody expects, no effect doubled."""
    state, now = State(), 0.0
    under_way: dict[tuple[UUID, float], Invited] = {}
    for found, gone, finished in looks:
        now += gone
        state, effects = look(state, found, now, lambda: roll)
        known = {key_of(one) for one in found}
        under_way = {key: one for key, one in under_way.items() if key in known}
        assert len({key_of(effect.invited) for effect in effects}) == len(effects)
        for effect in effects:
            key = key_of(effect.invited)
            if isinstance(effect, Invite):
                assert key not in under_way
                assert effect.invited.left > 0
                assert not effect.invited.accepted
                assert effect.invited.generation == 0
                under_way[key] = effect.invited
        assert len(under_way) <= MOST
        assert state.busy == frozenset(under_way)
        assert set(state.due) <= known
        for index in finished:
            if index < len(under_way):
                one = list(under_way.values())[index]
                state = ended(state, one, now, lambda: roll)
                del under_way[key_of(one)]
