"""What the tests of membership share: hosts with numbers, claims about them, and strategies for both."""

from __future__ import annotations

import random
from collections.abc import Sequence
from uuid import UUID

from hypothesis import strategies as st

from runtime.membership.claim import ACCUSERS, CLAIMED, LARGEST, META_BYTES, Claim, Profile, State
from runtime.membership.events import Effect, Join, Notice, Peer, Received, Send, Tick
from runtime.membership.machine import Machine
from runtime.membership.messages import Ack, Gossip, Life, Nack, Ping, PingRequest, Said, Sync
from runtime.membership.rules import Rules


def host(number: int) -> UUID:
    return UUID(int=number + 1)


def address(number: int) -> str:
    return f"10.0.0.{number}:7070"


def claim(
    number: int,
    state: State = State.ALIVE,
    incarnation: int = 0,
    *,
    generation: int = 1,
    by: Sequence[int] = (),
    bare: bool = False,
    refused: bool = False,
    age: int = 0,
) -> Claim:
    profile = None if bare else Profile(1, address(number))
    return Claim(
        host(number),
        generation,
        incarnation,
        state,
        profile,
        tuple(host(accuser) for accuser in sorted(by)),
        refused,
        age,
    )


class Bench:
    """One machine, host 0, under a clock of its own; the others are played by the test."""

    def __init__(self, *others: int, rules: Rules = Rules(), seeds: tuple[str, ...] = (), seed: int = 1) -> None:  # noqa: B008
        self.now = 100.0
        self.random = random.Random(seed)
        self.machine = Machine(host(0), 1, address(0), rules=rules)
        self.do(Join(seeds))
        if others:
            self.hear(others[0], Gossip(Life(1, 0), tuple(claim(other) for other in others)))

    def do(self, event: object) -> list[Effect]:
        return list(self.machine.step(event, self.now, self.random))  # type: ignore[arg-type]

    def hear(self, number: int, said: Said) -> list[Effect]:
        return self.do(Received(Peer(host(number), address(number)), said))

    def pass_time(self, seconds: float) -> list[Effect]:
        """Let time pass, with a tick whenever one is due; nobody answers."""
        until, effects = self.now + seconds, []
        while (wake := self.machine.wake) is not None and wake <= until:
            self.now = max(self.now, wake)
            effects += self.do(Tick())
        self.now = until
        return effects

    def state(self, number: int) -> State | None:
        member = self.machine.member(host(number))
        return None if member is None else member.state


def sent(effects: Sequence[Effect], kind: type, to: int | None = None) -> list[Said]:
    return [
        effect.said
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.said, kind) and to in (None, _number(effect.peer))
    ]


def _number(peer: Peer) -> int:
    return -1 if peer.host is None else peer.host.int - 1


def notices(effects: Sequence[Effect]) -> list[tuple[str, int]]:
    return [(effect.kind, effect.member.host.int - 1) for effect in effects if isinstance(effect, Notice)]


# ---- strategies

numbers = st.integers(0, LARGEST)
believed = st.integers(0, CLAIMED)
hosts = st.uuids()
texts = st.text(max_size=60)
profiles = st.builds(Profile, st.integers(0, 3), st.sampled_from(["a", "b"]), st.sampled_from([b"", b"x"]))
accusers = st.lists(st.integers(0, 6), max_size=ACCUSERS, unique=True).map(lambda all_: tuple(map(host, sorted(all_))))


def claims_of(number: int) -> st.SearchStrategy[Claim]:
    """Claims about one host that collide often."""
    return st.builds(
        Claim,
        st.just(host(number)),
        st.integers(0, 2),
        st.integers(0, 2),
        st.sampled_from(State),
        st.none() | profiles,
        accusers,
        st.booleans(),
        st.integers(0, 9),
    )


any_profile = st.builds(Profile, believed, texts, st.binary(max_size=META_BYTES))
any_claim = st.builds(
    Claim,
    hosts,
    numbers,
    believed,
    st.sampled_from(State),
    st.none() | any_profile,
    st.lists(hosts, max_size=ACCUSERS, unique=True).map(lambda found: tuple(sorted(found))),
    st.booleans(),
    st.integers(0, 2**31),
)
lives = st.builds(Life, numbers, numbers)
rumours = st.lists(any_claim, max_size=4).map(tuple)
any_message: st.SearchStrategy[Said] = st.one_of(
    st.builds(Ping, lives, numbers, rumours),
    st.builds(Ack, lives, numbers, rumours),
    st.builds(Nack, lives, numbers),
    st.builds(PingRequest, lives, numbers, hosts, texts, st.floats(0, 60), rumours),
    st.builds(Gossip, lives, rumours),
    st.builds(Sync, lives, rumours, st.booleans(), st.booleans()),
)
