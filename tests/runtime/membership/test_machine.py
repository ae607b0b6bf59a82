"""One machine, and a test that plays everybody else."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from runtime.membership.claim import CLAIMED, LARGEST, META_BYTES, Claim, Profile, State
from runtime.membership.events import (
    Effect,
    Join,
    Leave,
    Notice,
    Peer,
    Publish,
    Received,
    Send,
    Superseded,
    Tick,
    Unreachable,
)
from runtime.membership.machine import Machine
from runtime.membership.messages import Ack, Gossip, Life, Nack, Ping, PingRequest, Said, Sync
from runtime.membership.rules import Rules
from runtime.membership.wire import MESSAGE_BYTES, decode, encode
from tests.runtime.membership.parts import (
    Bench,
    accusers,
    address,
    any_message,
    claim,
    host,
    notices,
    profiles,
    sent,
)

LIFE = Life(1, 0)


def test_a_host_without_an_answer_is_asked_through_others_then_suspected_then_dead() -> None:
    bench = Bench(1, 2, 3, 4, 5)
    effects = bench.pass_time(0.5)
    (ping,) = [effect for effect in effects if isinstance(effect, Send) and isinstance(effect.said, Ping)]
    target = ping.peer.host
    assert isinstance(ping.said, Ping)
    effects = bench.pass_time(0.5)
    asked = [said for said in sent(effects, PingRequest) if isinstance(said, PingRequest) and said.target == target]
    assert [(said.number, said.within) for said in asked] == [(ping.said.number, 0.4)] * 3
    effects = bench.pass_time(0.5)
    assert ("suspect", target.int - 1 if target else None) in notices(effects)
    effects = bench.pass_time(30.0)
    assert ("dead", target.int - 1 if target else None) in notices(effects)


def test_an_answer_of_either_way_is_enough() -> None:
    for through in (False, True):
        bench = Bench(1, 2, 3, 4, 5)
        effects = bench.pass_time(0.5)
        (ping,) = [effect for effect in effects if isinstance(effect, Send) and isinstance(effect.said, Ping)]
        assert isinstance(ping.said, Ping)
        by = ping.peer
        effects = bench.pass_time(0.5)
        if through:
            by = next(e.peer for e in effects if isinstance(e, Send) and isinstance(e.said, PingRequest))
        bench.do(Received(by, Ack(LIFE, ping.said.number)))
        effects = bench.pass_time(0.49)
        assert all(kind != "suspect" for kind, _ in notices(effects))


def test_an_answer_of_somebody_else_is_none() -> None:
    bench = Bench(1, 2)
    effects = bench.pass_time(0.5)
    (ping,) = [effect for effect in effects if isinstance(effect, Send) and isinstance(effect.said, Ping)]
    assert isinstance(ping.said, Ping)
    assert ping.peer.host is not None
    target = ping.peer.host.int - 1
    bench.hear(3 - target, Ack(LIFE, ping.said.number))
    assert ("suspect", target) in notices(bench.pass_time(1.2))


def test_missing_nacks_tell_of_this_host_and_slow_its_probes() -> None:
    def health(nacks: bool) -> int:
        bench = Bench(1, 2, 3, 4, 5)
        effects = bench.pass_time(1.0)
        for effect in effects:
            if nacks and isinstance(effect, Send) and isinstance(effect.said, PingRequest):
                bench.do(Received(effect.peer, Nack(LIFE, effect.said.number)))
        bench.pass_time(0.5)
        return bench.machine.health

    assert health(nacks=True) == 0
    assert health(nacks=False) >= 3


def test_a_relay_passes_an_answer_on_and_says_so_when_there_is_none() -> None:
    bench = Bench(1, 2)
    effects = bench.hear(1, PingRequest(LIFE, 77, host(2), address(2), 0.4))
    (ping,) = sent(effects, Ping, to=2)
    assert isinstance(ping, Ping)
    assert Nack(LIFE, 77) in sent(bench.pass_time(0.5), Nack, to=1)
    assert sent(bench.hear(2, Ack(Life(1, 3), ping.number)), Ack, to=1) == [
        Ack(LIFE, 77, (claim(2, incarnation=3, bare=True),))
    ]
    assert sent(bench.hear(2, Ack(LIFE, ping.number)), Ack, to=1) == []


def test_a_refused_connection_means_suspect_at_once_and_never_dead() -> None:
    bench = Bench(1, 2, 3)
    effects = bench.do(Unreachable(Peer(host(1), address(1)), refused=True))
    assert notices(effects) == [("suspect", 1)]
    member = bench.machine.member(host(1))
    assert member is not None
    assert member.refused
    for _ in range(20):
        assert bench.do(Unreachable(Peer(host(1), address(1)), refused=True)) == []
    effects = bench.hear(1, Gossip(Life(1, 1), ()))
    assert notices(effects) == [("alive", 1)]
    member = bench.machine.member(host(1))
    assert member is not None
    assert not member.refused


def test_a_broken_connection_means_probed_at_once() -> None:
    bench = Bench(1, 2, 3)
    effects = bench.do(Unreachable(Peer(host(1), address(1))))
    assert len(sent(effects, Ping, to=1)) == 1
    assert notices(effects) == []
    effects = bench.do(Unreachable(Peer(host(1), address(1))))
    assert len(sent(effects, PingRequest)) == 2
    assert notices(effects) == []


def test_nobody_is_given_up_without_a_last_call_that_brings_the_refutation() -> None:
    for answers in (True, False):
        bench = Bench(1, 2, 3, 4)
        bench.hear(2, Gossip(LIFE, (claim(1, State.SUSPECT, by=(2, 3, 4), bare=True),)))
        effects = bench.pass_time(2.05)
        ping = sent(effects, Ping, to=1)[-1]
        assert isinstance(ping, Ping)
        assert [(one.host, one.state) for one in ping.rumours[:1]] == [(host(1), State.SUSPECT)]
        if answers:
            # It has refuted, and this host has not heard of it.
            assert notices(bench.hear(1, Ack(Life(1, 1), ping.number))) == [("alive", 1)]
        assert (("dead", 1) in notices(bench.pass_time(1.0))) is not answers


def test_this_host_refutes_whatever_is_said_of_it() -> None:
    for state in (State.SUSPECT, State.DEAD, State.LEFT):
        bench = Bench(1)
        effects = bench.hear(1, Ping(LIFE, 5, (claim(0, state, 4, bare=True),)))
        (ack,) = sent(effects, Ack, to=1)
        assert isinstance(ack, Ack)
        assert ack.life.incarnation == 5
        (about,) = [one for one in ack.rumours if one.host == host(0)]
        assert (about.state, about.incarnation) == (State.ALIVE, 5)
        assert about.profile is not None
        assert bench.machine.health == 1
        # Old news.
        bench.hear(1, Gossip(LIFE, (claim(0, state, 4, bare=True),)))
        assert bench.machine.own.incarnation == 5


@pytest.mark.parametrize("said", [CLAIMED, CLAIMED + 1, LARGEST])
def test_the_largest_numbers_that_can_be_said_make_nobody_mute_or_dead(said: int) -> None:
    """What others say of this host comes as bytes, what it says then can be read, and it is believed to be alive."""
    bench, other = Bench(1, 2), Bench(2, 1)
    lies = tuple(
        Claim(host(0), 1, said, state, profile)
        for state in (State.SUSPECT, State.DEAD, State.LEFT)
        for profile in (None, Profile(said, address(9)))
    )
    for lie in lies:
        for heard in (bench, other):
            message = decode(encode(Gossip(Life(1, 0), (lie,))))
            # The machine of both benches is host 0's: the other one hears it of host 1.
            if heard is other:
                message = Gossip(Life(1, 0), tuple(replace(one, host=host(1)) for one in message.rumours))  # type: ignore[union-attr]
            heard.hear(2, message)
    bench.do(Publish(b"news"))
    effects = bench.pass_time(1.0)
    spoken = [decode(encode(effect.said)) for effect in effects if isinstance(effect, Send)]
    assert spoken
    assert bench.machine.own.state is State.ALIVE
    for message in spoken:
        other.hear(1, message)
    assert other.state(1) is State.ALIVE


def test_a_host_that_is_believed_dead_is_told_when_it_speaks() -> None:
    bench = Bench(1, 2)
    assert notices(bench.hear(2, Gossip(LIFE, (claim(1, State.DEAD, bare=True),)))) == [("dead", 1)]
    (ack,) = sent(bench.hear(1, Ping(LIFE, 5)), Ack, to=1)
    assert isinstance(ack, Ack)
    assert [(one.host, one.state) for one in ack.rumours[:1]] == [(host(1), State.DEAD)]
    assert bench.state(1) is State.DEAD
    assert notices(bench.hear(1, Ping(Life(1, 1), 6))) == [("alive", 1)]


def test_the_dead_are_not_resurrected_by_old_gossip() -> None:
    bench = Bench(1, 2)
    bench.hear(2, Gossip(LIFE, (claim(1, State.DEAD, 3, bare=True),)))
    for old in (claim(1), claim(1, incarnation=3), claim(1, State.SUSPECT, 3, by=(2,))):
        assert notices(bench.hear(2, Gossip(LIFE, (old,)))) == []
        assert notices(bench.hear(2, Sync(LIFE, (old,)))) == []
    assert bench.state(1) is State.DEAD


def test_a_later_life_supersedes_and_an_earlier_one_is_not_listened_to() -> None:
    bench = Bench(1, 2)
    effects = bench.hear(2, Gossip(LIFE, (claim(1, generation=5),)))
    assert notices(effects) == [("dead", 1), ("joined", 1)]
    assert [effect.member.generation for effect in effects if isinstance(effect, Notice)] == [1, 5]
    effects = bench.hear(1, Ping(Life(1, 9), 4, (claim(1, State.LEFT, 9),)))
    assert sent(effects, Ack) == []
    (told,) = sent(effects, Gossip, to=1)
    assert isinstance(told, Gossip)
    assert told.rumours[0].generation == 5
    assert bench.state(1) is State.ALIVE


def test_who_speaks_out_of_a_later_life_ends_the_earlier_one_and_is_asked_who_it_is() -> None:
    bench = Bench(1, 2)
    effects = bench.hear(1, Ping(Life(2, 0), 4))
    assert notices(effects) == [("dead", 1)]
    assert sent(effects, Sync, to=1) == [Sync(LIFE, (claim(0),), answer=True)]
    assert notices(bench.hear(1, Sync(Life(2, 0), (claim(1, generation=2),)))) == [("joined", 1)]


def test_a_process_whose_host_has_a_later_life_falls_silent() -> None:
    bench = Bench(1)
    effects = bench.hear(1, Gossip(LIFE, (claim(0, generation=2), claim(3))))
    assert effects == [Superseded(2)]
    assert bench.machine.over
    assert bench.machine.wake is None
    assert bench.hear(1, Ping(LIFE, 1)) == []


def test_in_an_exchange_a_death_is_a_suspicion_only() -> None:
    bench = Bench(1, 2, 3)
    assert notices(bench.hear(2, Sync(LIFE, (claim(1, State.DEAD),)))) == [("suspect", 1)]
    # Of one that nobody here has seen alive it is taken as it is.
    assert notices(bench.hear(2, Sync(LIFE, (claim(9, State.DEAD),)))) == []
    assert bench.state(9) is State.DEAD


def test_a_host_cut_off_is_tried_again_and_told_everything_when_it_answers() -> None:
    bench = Bench(1, 2)
    bench.hear(2, Gossip(LIFE, (claim(1, State.DEAD, bare=True),)))
    pings = sent(bench.pass_time(13.0), Ping, to=1)
    assert pings
    assert all(isinstance(ping, Ping) and ping.rumours[0].state is State.DEAD for ping in pings)
    assert isinstance(pings[0], Ping)
    effects = bench.hear(1, Ack(Life(1, 1), pings[0].number))
    assert notices(effects) == [("alive", 1)]
    assert [said.answer for said in sent(effects, Sync, to=1) if isinstance(said, Sync)] == [True]


@pytest.mark.parametrize("how", ["asks", "answers as one that is dead"])
def test_one_that_asks_for_everything_without_end_is_answered_now_and_then(how: str) -> None:
    bench = Bench(1, 2)
    if how == "asks":
        said: Said = Sync(Life(1, 0), (claim(1),), answer=True)
    else:
        bench.hear(2, Gossip(Life(1, 0), (claim(1, State.DEAD),)))
        said = Ack(Life(1, 0), 77)
    answers = [len(sent(bench.hear(1, said), Sync, 1)) for _ in range(50)]
    assert sum(answers) == answers[0] == 1
    # Others are answered meanwhile, and it is later.
    assert sent(bench.hear(2, Sync(Life(1, 0), (claim(2),), answer=True)), Sync, 2)
    bench.now += Rules().respond_every + 0.001
    assert sum(len(sent(bench.hear(1, said), Sync, 1)) for _ in range(50)) == 1


def test_who_has_left_is_not_tried_again_and_both_are_forgotten_in_time() -> None:
    bench = Bench(1, 2, rules=Rules(reclaim=60.0))
    effects = bench.hear(2, Gossip(LIFE, (claim(1, State.LEFT, 1, bare=True), claim(2, State.DEAD, 0, bare=True))))
    assert notices(effects) == [("left", 1), ("dead", 2)]
    assert sent(bench.pass_time(59.0), Ping, to=1) == []
    assert (bench.state(1), bench.state(2)) == (State.LEFT, State.DEAD)
    bench.pass_time(2.0)
    assert bench.machine.members() == []


def test_who_was_forgotten_is_not_resurrected_by_old_gossip_but_refutes() -> None:
    bench = Bench(1, 2, rules=Rules(reclaim=60.0))
    bench.hear(2, Gossip(LIFE, (claim(1, State.DEAD, 4, bare=True),)))
    bench.pass_time(61.0)
    assert bench.state(1) is None
    assert notices(bench.hear(2, Gossip(LIFE, (claim(1, incarnation=4), claim(1, incarnation=3))))) == []
    # It was behind a partition for so long.
    (told,) = sent(bench.hear(1, Sync(Life(1, 4), (claim(1, incarnation=4),))), Gossip, to=1)
    assert isinstance(told, Gossip)
    assert [(one.state, one.incarnation) for one in told.rumours] == [(State.DEAD, 4)]
    assert notices(bench.hear(1, Sync(Life(1, 5), (claim(1, incarnation=5),)))) == [("joined", 1)]


def test_how_long_somebody_is_dead_goes_with_the_claim() -> None:
    bench = Bench(1, rules=Rules(reclaim=60.0))
    bench.hear(1, Sync(LIFE, (claim(2, State.DEAD, age=50), claim(3, State.DEAD, age=61))))
    assert (bench.state(2), bench.state(3)) == (State.DEAD, None)
    bench.pass_time(5.0)
    (part,) = sent(bench.hear(1, Sync(LIFE, (), answer=True)), Sync, to=1)
    assert isinstance(part, Sync)
    assert [one.age for one in part.claims if one.host == host(2)] == [55]
    bench.pass_time(6.0)
    assert bench.state(2) is None


def test_a_process_that_stood_still_accuses_nobody_and_leaves_suspects_their_time() -> None:
    bench = Bench(1, 2, 3)
    bench.pass_time(0.5)
    bench.hear(2, Gossip(LIFE, (claim(1, State.SUSPECT, by=(2, 3), bare=True),)))
    bench.now += 60.0
    effects = bench.do(Tick())
    assert notices(effects) == []
    assert bench.machine.health >= 1
    assert notices(bench.hear(1, Gossip(Life(1, 1), ()))) == [("alive", 1)]


def test_who_stood_still_for_longer_than_the_dead_are_remembered_does_not_tell_of_others() -> None:
    bench = Bench(1, 2, 3)
    bench.now += 3000.0
    bench.do(Tick())
    bench.hear(2, Gossip(LIFE, ()))
    (part,) = sent(bench.hear(3, Sync(LIFE, (), answer=True)), Sync, to=3)
    assert isinstance(part, Sync)
    assert {one.host for one in part.claims} == {host(0), host(2), host(3)}


def test_a_host_looks_for_its_seeds_until_it_finds_one_and_keeps_what_it_learns_to_itself() -> None:
    bench = Bench(seeds=("a:1", "b:1", address(0)))
    begun = bench.pass_time(3.0)
    asked = [effect.peer.address for effect in begun if isinstance(effect, Send)]
    assert {"a:1", "b:1"} == set(asked)
    assert 4 <= len(asked) <= 16
    assert not bench.machine.joined
    effects = bench.hear(1, Sync(LIFE, (claim(1), claim(2), claim(3))))
    assert bench.machine.joined
    assert notices(effects) == [("joined", 1), ("joined", 2), ("joined", 3)]
    told = [one.host for said in sent(bench.pass_time(0.9), Gossip) if isinstance(said, Gossip) for one in said.rumours]
    assert host(3) not in told


def test_metadata_is_told_with_a_higher_version() -> None:
    bench = Bench(1)
    effects = bench.do(Publish(b"load"))
    (gossip,) = sent(effects + bench.pass_time(0.3), Gossip, to=1)[:1]
    assert isinstance(gossip, Gossip)
    assert [one.profile for one in gossip.rumours if one.host == host(0)] == [Profile(2, address(0), b"load")]
    told = replace(claim(1), profile=Profile(2, address(1), b"more"))
    assert notices(bench.hear(1, Gossip(LIFE, (told,)))) == [("changed", 1)]
    assert notices(bench.hear(1, Gossip(LIFE, (claim(1),)))) == []
    with pytest.raises(ValueError, match="metadata"):
        bench.do(Publish(b"x" * (META_BYTES + 1)))


def test_an_actor_that_was_restarted_goes_on_where_its_host_was() -> None:
    bench = Bench(1)
    before = replace(claim(0, incarnation=7), profile=Profile(9, address(0), b"old"))
    bench.hear(1, Sync(LIFE, (before,)))
    assert (bench.machine.own.incarnation, bench.machine.own.version) == (8, 10)
    assert bench.machine.own.meta == b""


def test_who_leaves_says_so_to_its_peers_at_once_and_nothing_after() -> None:
    bench = Bench(*range(1, 40))
    effects = bench.do(Leave())
    told = sent(effects, Gossip)
    assert 12 <= len(told) <= 16
    assert {said.rumours for said in told if isinstance(said, Gossip)} == {
        (Claim(host(0), 1, 1, State.LEFT),),
    }
    assert bench.do(Tick()) == []
    assert bench.machine.wake is None


def test_many_hosts_are_exchanged_in_messages_of_bounded_size() -> None:
    bench = Bench(rules=Rules(members=400))
    for number in range(1, 500):
        big = replace(claim(number), profile=Profile(1, "a" * 200, b"m" * META_BYTES))
        bench.hear(number, Gossip(LIFE, (big,)))
    parts = sent(bench.hear(1, Sync(LIFE, (), answer=True)), Sync, to=1)
    assert all(len(encode(part)) < MESSAGE_BYTES / 3 for part in parts)
    assert [part.more for part in parts if isinstance(part, Sync)] == [True] * (len(parts) - 1) + [False]
    found = {one.host for part in parts if isinstance(part, Sync) for one in part.claims}
    assert len(found) == 401
    assert len(bench.machine.members()) == 400


# ---- whatever comes

peers = st.builds(Peer, st.none() | st.integers(0, 6).map(host), st.sampled_from(["", "a:1", "b:1"]))
near_claims = st.builds(
    Claim,
    st.integers(0, 6).map(host),
    st.integers(0, 2),
    st.integers(0, 3),
    st.sampled_from(State),
    st.none() | profiles,
    accusers,
    st.booleans(),
    st.integers(0, 4000),
)
near_lives = st.builds(Life, st.integers(0, 2), st.integers(0, 3))
near_rumours = st.lists(near_claims, max_size=5).map(tuple)
near_messages: st.SearchStrategy[Said] = st.one_of(
    st.builds(Ping, near_lives, st.integers(0, 9), near_rumours),
    st.builds(Ack, near_lives, st.integers(0, 9), near_rumours),
    st.builds(Nack, near_lives, st.integers(0, 9)),
    st.builds(PingRequest, near_lives, st.integers(0, 9), st.integers(0, 6).map(host), st.just("a"), st.floats(0, 2)),
    st.builds(Gossip, near_lives, near_rumours),
    st.builds(Sync, near_lives, near_rumours, st.booleans(), st.booleans()),
)
events = st.one_of(
    st.just(Tick()),
    st.builds(Received, peers, near_messages),
    st.builds(Received, peers, any_message),
    st.builds(Unreachable, peers, st.booleans()),
    st.builds(Publish, st.binary(max_size=3)),
)


@settings(max_examples=300, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.4, 1.0, 5.0, 4000.0]), events), max_size=40), st.integers())
def test_whatever_comes_the_notices_tell_one_story(steps: list[tuple[float, object]], seed: int) -> None:
    chance, now = random.Random(seed), 0.0
    machine = Machine(host(0), 1, "a:0")
    story: dict[tuple[int, int], str] = {}
    machine.step(Join(("a:1",)), now, chance)
    for wait, event in steps:
        now += wait
        before = machine.own
        for effect in machine.step(event, now, chance):  # type: ignore[arg-type]
            _check(effect, story)
        assert (machine.own.incarnation, machine.own.version) >= (before.incarnation, before.version)
        held = {(m.host.int - 1, m.generation): m for m in machine.members()}
        assert host(0) not in {member.host for member in held.values()}
        for (number, generation), said in story.items():
            member = held.get((number, generation))
            if member is not None:
                assert member.state is {"alive": State.ALIVE, "suspect": State.SUSPECT}.get(said, member.state)
            elif not machine.over:
                assert said in ("dead", "left")
        if not machine.over:
            assert machine.wake is not None
            assert machine.wake > now
            assert machine.wake <= now + 31.0


def _check(effect: Effect, story: dict[tuple[int, int], str]) -> None:
    if isinstance(effect, Send):
        assert len(encode(effect.said)) < MESSAGE_BYTES
        assert effect.peer.host != host(0)
        if isinstance(effect.said, Ping | Ack | Gossip):
            assert sum(one.size for one in effect.said.rumours) <= 1200
    if isinstance(effect, Notice):
        member = effect.member
        key = member.host.int - 1, member.generation
        said = story.get(key)
        match effect.kind:
            case "joined":
                assert said in (None, "dead", "left")
                story[key] = "alive"
            case "suspect":
                assert said == "alive"
                story[key] = "suspect"
            case "alive":
                assert said in ("suspect", "dead", "left")
                story[key] = "alive"
            case "dead" | "left" as kind:
                assert said in ("alive", "suspect", "dead")
                story[key] = kind
            case "changed":
                assert said is not None
