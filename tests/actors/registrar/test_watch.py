"""When a host is dead: only after silence in time in which the leader did look, and never by an outage's fault."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from actors.model.states import NodeState
from actors.registrar.store import Beat
from actors.registrar.watch import BOOTING_AFTER, DOWN_AFTER, INTERVAL, OWN_SILENCE, State, Verdict, forget, step

OWN, OTHER, THIRD = UUID(int=1), UUID(int=2), UUID(int=3)


def beat(node: UUID, seen: float, state: NodeState = NodeState.READY, generation: int = 1) -> Beat:
    return Beat(node, f"h{node.int}", state, generation, seen)


def watch(looks: Sequence[tuple[float, Sequence[Beat]]], state: State | None = None) -> tuple[State, list[Verdict]]:
    state = state or State()
    found: list[Verdict] = []
    for now, beats in looks:
        state, verdicts = step(OWN, state, beats, now)
        found += verdicts
    return state, found


def silent(
    begin: int, seconds: int, *, own: bool = True, state: NodeState = NodeState.READY
) -> list[tuple[float, list[Beat]]]:
    """Looks, an interval apart, at a host that gives no sign; the leader's own does unless told otherwise."""
    return [
        (begin + at * INTERVAL, [beat(OWN, at if own else 0.0), beat(OTHER, 0.0, state)])
        for at in range(int(seconds / INTERVAL) + 1)
    ]


def test_a_host_is_dead_after_its_silence_and_not_before() -> None:
    assert watch(silent(0, int(DOWN_AFTER) - 1))[1] == []
    state, found = watch(silent(0, int(DOWN_AFTER)))
    assert found == [Verdict(beat(OTHER, 0.0), "no sign of life for 10 s")]
    # It is told again for as long as it is so.
    assert step(OWN, state, [beat(OWN, 99.0), beat(OTHER, 0.0)], 11.0)[1] == tuple(found)
    assert step(OWN, state, [beat(OWN, 99.0), beat(OTHER, 0.1)], 11.0)[1] == ()
    assert step(OWN, state, [beat(OWN, 99.0), beat(OTHER, 0.0, generation=2)], 11.0)[1] == ()
    assert step(OWN, state, [beat(OWN, 99.0)], 11.0)[1] == ()


def test_time_without_looks_does_not_count() -> None:
    signs = [beat(OWN, 0.0), beat(OTHER, 0.0)]
    state, found = watch([(0.0, signs), (1000.0, signs)])
    assert found == []
    assert state.heard[OTHER].silent == 2 * INTERVAL


def test_after_an_outage_every_silence_begins_anew() -> None:
    state, _ = watch(silent(0, int(DOWN_AFTER) - 1))
    state, found = watch(silent(100, int(DOWN_AFTER) - 1), forget(state))
    assert found == []
    assert watch([(120.0, [beat(OWN, 120.0), beat(OTHER, 0.0)])], state)[1] != []


def test_while_its_own_signs_are_not_written_nobody_is_dead() -> None:
    state, found = watch(silent(0, 60, own=False))
    assert found == []
    # And when they are again, the others have their time.
    state, found = watch(silent(61, int(DOWN_AFTER) - 2), state)
    assert found == []
    assert watch(silent(70, 4), state)[1] != []


def test_its_own_host_is_never_dead_and_without_it_none_is() -> None:
    assert watch([(float(at), [beat(OWN, 0.0)]) for at in range(200)])[1] == []
    assert watch([(float(at), [beat(OTHER, 0.0)]) for at in range(200)])[1] == []


def test_a_host_that_starts_has_longer() -> None:
    state, found = watch(silent(0, int(BOOTING_AFTER) - 1, state=NodeState.BOOTING))
    assert found == []
    up, verdicts = step(OWN, state, [beat(OWN, -1.0), beat(OTHER, 0.0)], BOOTING_AFTER)
    assert verdicts == ()
    assert up.heard[OTHER].silent == 0.0
    assert len(step(OWN, state, [beat(OWN, -1.0), beat(OTHER, 0.0, NodeState.BOOTING)], BOOTING_AFTER)[1]) == 1


@given(
    gaps=st.lists(st.floats(0.1, 30.0), min_size=1, max_size=60),
    every=st.floats(0.5, DOWN_AFTER - 3 * INTERVAL),
    late=st.floats(0.0, 100.0),
)
def test_a_host_that_gives_signs_often_enough_is_never_dead(gaps: list[float], every: float, late: float) -> None:
    """However irregularly the leader looks. Both hosts beat every so many seconds, at phases of their own."""
    state, now = State(), 0.0
    for gap in gaps:
        now += gap
        mine, other = now // every, (now + late) // every
        state, verdicts = step(OWN, state, [beat(OWN, mine), beat(OTHER, other)], now)
        assert verdicts == ()


@given(
    gaps=st.lists(st.floats(0.1, 3.0), min_size=20, max_size=200),
    outages=st.sets(st.integers(0, 199), max_size=3),
    fresh=st.lists(st.booleans(), min_size=200, max_size=200),
)
def test_no_verdict_without_ten_seconds_of_looks_since_the_last_sign(
    gaps: list[float], outages: set[int], fresh: list[bool]
) -> None:
    state, now, seen, quiet = State(), 0.0, 0.0, 0.0
    last: float | None = None
    for index, gap in enumerate(gaps):
        now += gap
        if index in outages:
            state, quiet, last = forget(state), 0.0, None
            continue
        quiet += 0.0 if last is None else min(now - last, 2 * INTERVAL)
        last = now
        if fresh[index] and index % 7 == 0:
            seen, quiet = now, 0.0
        state, verdicts = step(OWN, state, [beat(OWN, now), beat(OTHER, seen)], now)
        if verdicts:
            assert quiet >= DOWN_AFTER - 1e-6
        if index and quiet >= DOWN_AFTER + 1e-6:
            assert verdicts


def test_figures_leave_room_for_a_sign_that_is_lost() -> None:
    from actors.registrar.actor import INTERVAL as BEAT_EVERY

    assert 3 * BEAT_EVERY < DOWN_AFTER
    assert 2 * BEAT_EVERY < OWN_SILENCE < DOWN_AFTER
