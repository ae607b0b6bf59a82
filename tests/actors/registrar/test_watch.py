"""When a host is dead: only after silence in time in which the leader did look, and never by an outage's fault."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from actors.model.states import NodeState
from actors.registrar.sightings import Seen, Sighting
from actors.registrar.store import Beat
from actors.registrar.watch import (
    BOOTING_AFTER,
    CONTRADICTED_AFTER,
    DOWN_AFTER,
    GRACE,
    INTERVAL,
    MISSED_AFTER,
    OWN_SILENCE,
    Gossip,
    State,
    Verdict,
    forget,
    interrupt,
    step,
)

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


def test_a_verdict_that_could_not_be_carried_out_comes_again_after_one_more_missed_sign() -> None:
    state, found = watch(silent(0, int(DOWN_AFTER)))
    assert [verdict.beat.node_id for verdict in found] == [OTHER]
    for steady in (True, False):
        held = interrupt(OWN, state, {OTHER}, steady=steady)
        begin = 100
        assert watch(silent(begin, int(MISSED_AFTER) - 1), held)[1] == []
        again = watch(silent(begin, int(MISSED_AFTER)), held)[1]
        assert [verdict.beat for verdict in again] == [found[0].beat]
        # Unless a sign was found meanwhile.
        alive = [(float(now), [beat(OWN, now), beat(OTHER, 1.0)]) for now in range(begin, begin + int(DOWN_AFTER))]
        assert watch(alive, held)[1] == []
        later = interrupt(OWN, state, {OTHER}, steady=steady, again=DOWN_AFTER)
        assert watch(silent(begin, int(DOWN_AFTER - 2 * INTERVAL) - 1), later)[1] == []
        assert watch(silent(begin, int(DOWN_AFTER)), later)[1] != []


def test_whoever_was_not_condemned_loses_nothing_but_by_an_outage() -> None:
    state, found = watch(silent(0, int(MISSED_AFTER)))
    assert found == []
    held = interrupt(OWN, state, {THIRD}, steady=True)
    # The next look adds two intervals, however late it is.
    rest = int(DOWN_AFTER - MISSED_AFTER - 2 * INTERVAL)
    assert watch(silent(100, rest - 1), held)[1] == []
    assert watch(silent(100, rest), held)[1] != []
    anew = interrupt(OWN, state, {THIRD}, steady=False)
    assert watch(silent(100, int(DOWN_AFTER) - 1), anew)[1] == []
    assert watch(silent(100, int(DOWN_AFTER)), anew)[1] != []


def test_a_leader_whose_own_signs_are_not_written_does_not_forget_that_over_a_verdict() -> None:
    state, _ = watch(silent(0, int(OWN_SILENCE) - 1, own=False))
    held = interrupt(OWN, state, {OTHER}, steady=False)
    assert held.heard[OWN].silent == state.heard[OWN].silent > 0
    assert watch(silent(100, 60, own=False), held)[1] == []


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


# ---- what the other hosts say


def aged(node: UUID, age: float, state: NodeState = NodeState.READY, replace_in: float | None = None) -> Beat:
    return Beat(node, f"h{node.int}", state, 1, -age, age, replace_in)


def said(
    state: Seen, *, refused: bool = False, generation: int = 1, steady: float = 60.0, witness: bool = True
) -> Gossip:
    found = {OTHER: Sighting(OTHER, generation, state, refused, 20.0)}
    if witness:
        found[THIRD] = Sighting(THIRD, 1, Seen.ALIVE)
    return Gossip(found, steady)


def first_look(gossip: Gossip, other: Beat) -> tuple[Verdict, ...]:
    """What a leader finds that has just begun to look."""
    return step(OWN, State(), [aged(OWN, 1.0), other, aged(THIRD, 1.0)], 1000.0, gossip)[1]


def later(gossip: Gossip, other: Beat, seconds: float) -> tuple[Verdict, ...]:
    """What one finds that has looked for so many seconds, in which there was nothing of that host."""
    state, now = State(), 0.0
    while True:
        own = Beat(OWN, "h1", NodeState.READY, 1, now)
        state, verdicts = step(OWN, state, [own, other], now, gossip)
        if now >= seconds:
            return verdicts
        now += INTERVAL


def test_dead_to_the_others_and_silent_is_dead_at_once_also_to_a_new_leader() -> None:
    dead = said(Seen.DEAD)
    ((verdict),) = first_look(dead, aged(OTHER, MISSED_AFTER))
    assert verdict.beat.node_id == OTHER
    assert verdict.grace == 0.0
    assert "no answer to other hosts" in verdict.reason
    assert first_look(dead, aged(OTHER, MISSED_AFTER - 0.1)) == ()


def test_what_others_say_changes_nothing_while_there_are_signs_of_life() -> None:
    state, known = State(), said(Seen.DEAD)
    for at in range(100):
        beats = [Beat(node, f"h{node.int}", NodeState.READY, 1, at // 3 * 3.0, at % 3) for node in (OWN, OTHER, THIRD)]
        state, verdicts = step(OWN, state, beats, float(at), known)
        assert verdicts == ()
        # But it is told to people, for as long as it is so.
        assert state.contradicted == {OTHER}
    fresh = Gossip({OTHER: Sighting(OTHER, 1, Seen.DEAD, age=CONTRADICTED_AFTER - 1)}, 60.0)
    assert step(OWN, state, [aged(OWN, 0.0), aged(OTHER, 0.0)], 100.0, fresh)[0].contradicted == frozenset()


def test_what_is_said_of_another_life_of_the_host_says_nothing() -> None:
    for generation in (0, 2):
        gossip = said(Seen.DEAD, generation=generation)
        assert first_look(gossip, aged(OTHER, 9.0)) == ()
        assert later(gossip, aged(OTHER, 9.0), DOWN_AFTER)[0].reason == "no sign of life for 10 s"


def test_who_is_cut_off_or_has_just_come_back_to_the_store_is_not_told_anything() -> None:
    """It waits as long as without others then: all of them seem dead to it."""
    for gossip in (said(Seen.DEAD, witness=False), said(Seen.DEAD, steady=DOWN_AFTER - 1)):
        assert first_look(gossip, aged(OTHER, 1000.0)) == ()
        assert later(gossip, aged(OTHER, 1000.0), DOWN_AFTER - 1) == ()
        assert len(later(gossip, aged(OTHER, 1000.0), DOWN_AFTER)) == 1
    # Its own signs are old: the store takes none.
    state, _ = watch(silent(0, 60, own=False))
    found = step(OWN, state, [beat(OWN, 0.0), aged(OTHER, 100.0)], 61.0, said(Seen.DEAD))[1]
    assert found == ()


def test_a_process_that_is_gone_has_its_grace_and_one_that_has_left() -> None:
    for gossip, why in ((said(Seen.DEAD, refused=True), "refuses"), (said(Seen.LEFT), "left")):
        for verdicts in (first_look(gossip, aged(OTHER, 5.0)), later(gossip, aged(OTHER, 5.0), DOWN_AFTER)):
            (verdict,) = verdicts
            assert verdict.grace == GRACE
            assert why in verdict.reason


def test_one_that_others_reach_but_that_cannot_reach_the_store_has_its_grace() -> None:
    for seen, why in ((Seen.ALIVE, "can't reach the database"), (Seen.SUSPECT, "not sure")):
        assert first_look(said(seen), aged(OTHER, 1000.0)) == ()
        assert later(said(seen), aged(OTHER, 0.0), DOWN_AFTER - 1) == ()
        (verdict,) = later(said(seen), aged(OTHER, 0.0), DOWN_AFTER)
        assert verdict.grace == GRACE
        assert why in verdict.reason


def test_a_grace_ends_when_the_machine_is_dead_too_and_for_no_other_reason() -> None:
    waiting = aged(OTHER, 30.0, NodeState.DOWN, 40.0)
    (verdict,) = first_look(said(Seen.DEAD), waiting)
    assert verdict.grace == 0.0
    for gossip in (
        Gossip({}, 60.0),
        said(Seen.ALIVE),
        said(Seen.LEFT),
        said(Seen.DEAD, refused=True),
        said(Seen.DEAD, generation=2),
    ):
        assert first_look(gossip, waiting) == ()
        assert later(gossip, waiting, 100.0) == ()


@given(
    state=st.sampled_from(NodeState),
    seen=st.sampled_from([None, *Seen]),
    refused=st.booleans(),
    generation=st.integers(0, 2),
    steady=st.floats(0.0, 30.0),
    witness=st.booleans(),
    age=st.floats(0.0, 200.0),
    replace_in=st.sampled_from([None, 1.0, 60.0]),
    looks=st.integers(1, 15),
)
# A sign is missed by the leader's own clock, too.
@example(
    state=NodeState.BOOTING,
    seen=Seen.DEAD,
    refused=False,
    generation=1,
    steady=DOWN_AFTER,
    witness=True,
    age=0.0,
    replace_in=None,
    looks=int(MISSED_AFTER / INTERVAL) + 1,
)
def test_verdicts_follow_from_both_kinds_of_evidence(
    state: NodeState,
    seen: Seen | None,
    refused: bool,
    generation: int,
    steady: float,
    witness: bool,
    age: float,
    replace_in: float | None,
    looks: int,
) -> None:
    found: dict[UUID, Sighting] = {}
    if seen is not None:
        found[OTHER] = Sighting(OTHER, generation, seen, refused)
    if witness:
        found[THIRD] = Sighting(THIRD, 1, Seen.ALIVE)
    watched, verdicts = State(), tuple[Verdict, ...]()
    for at in range(looks):
        own = Beat(OWN, "h1", NodeState.READY, 1, float(at))
        watched, verdicts = step(
            OWN, watched, [own, aged(OTHER, age, state, replace_in)], float(at), Gossip(found, steady)
        )
    same = seen is not None and generation == 1
    dead = same and seen is Seen.DEAD and not refused
    for verdict in verdicts:
        assert verdict.beat.node_id == OTHER
        # By silence in time that was watched, or by both kinds of evidence, each of them good for something.
        assert looks - 1 >= DOWN_AFTER or (
            same
            and seen in (Seen.DEAD, Seen.LEFT)
            and witness
            and steady >= DOWN_AFTER
            and max(age, (looks - 1) * INTERVAL) >= MISSED_AFTER
        )
        # Replaced at once is only what nobody has heard of at all, or nobody knows anything about.
        assert (verdict.grace == 0.0) == (dead or not same)
        # What is down already can only get worse.
        assert state is not NodeState.DOWN or (dead and replace_in is not None)
