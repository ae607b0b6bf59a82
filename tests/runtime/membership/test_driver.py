"""The driver: what the machine wants sent is handed to the transport, and what others say reaches the machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from runtime import Ref
from runtime.membership.claim import META_BYTES, State
from runtime.membership.driver import Announce, Arrived, Depart, Failed, Membership, Who, membership
from runtime.membership.events import Notice, Peer, Superseded
from runtime.membership.messages import Ack, Gossip, Life, Ping, Said, Sync
from runtime.membership.wire import decode, encode
from tests.runtime.membership.parts import address, claim, host
from tests.runtime.parts import settled, simulated


@dataclass
class Wire:
    sent: list[tuple[Peer, Said]] = field(default_factory=list)
    heard: list[Notice | Superseded] = field(default_factory=list)

    def send(self, peer: Peer, data: bytes) -> None:
        self.sent.append((peer, decode(data)))

    def of(self, kind: type) -> list[Said]:
        return [said for _, said in self.sent if isinstance(said, kind)]


@asynccontextmanager
async def driven(**more) -> AsyncIterator[tuple[Wire, Ref]]:  # type: ignore[no-untyped-def]
    wire = Wire()
    async with simulated() as system:
        ref = await system.start(
            membership(lambda: Membership(host(0), 1, address(0), wire, wire.heard.append, **more))
        )
        yield wire, ref


def arrived(number: int, said: Said) -> Arrived:
    return Arrived(Peer(host(number), ""), encode(said))


async def test_a_ping_is_answered_and_who_is_there_can_be_asked(autojump_clock: object) -> None:
    async with driven() as (wire, ref):
        ref.tell(arrived(1, Gossip(Life(1, 0), (claim(1), claim(2)))))
        ref.tell(arrived(1, Ping(Life(1, 0), 7)))
        roll = await ref.ask(Who(), timeout=1.0)
        assert [one.number for one in wire.of(Ack) if isinstance(one, Ack)] == [7]
        assert {member.host for member in roll.others} == {host(1), host(2)}
        assert (roll.own.host, roll.own.state, roll.joined, roll.health) == (host(0), State.ALIVE, True, 0)
        assert [one.kind for one in wire.heard if isinstance(one, Notice)] == ["joined", "joined"]


async def test_time_passes_for_it(autojump_clock: object) -> None:
    async with driven(seeds=["a:1"]) as (wire, ref):
        await trio.sleep(5.0)
        assert {peer for peer, _ in wire.sent} == {Peer(None, "a:1")}
        assert len(wire.of(Sync)) >= 3
        ref.tell(arrived(1, Sync(Life(1, 0), (claim(1),))))
        await trio.sleep(60.0)
        assert [one.kind for one in wire.heard if isinstance(one, Notice)] == ["joined", "suspect", "dead"]


async def test_metadata_that_is_too_large_is_not_told_and_hurts_nobody(autojump_clock: object) -> None:
    async with driven(meta=b"first") as (_wire, ref):
        ref.tell(arrived(1, Gossip(Life(1, 0), (claim(1),))))
        ref.tell(Announce(b"x" * (META_BYTES + 1)))
        assert (await ref.ask(Who(), timeout=1.0)).own.meta == b"first"
        ref.tell(Announce(b"second"))
        own = (await ref.ask(Who(), timeout=1.0)).own
        assert (own.meta, own.version) == (b"second", 2)


async def test_a_refused_connection_reaches_the_machine(autojump_clock: object) -> None:
    async with driven() as (wire, ref):
        ref.tell(arrived(1, Gossip(Life(1, 0), (claim(1), claim(2)))))
        ref.tell(Failed(Peer(host(1), address(1)), refused=True))
        await settled()
        last = wire.heard[-1]
        assert isinstance(last, Notice)
        assert (last.kind, last.member.host, last.member.refused) == ("suspect", host(1), True)


async def test_who_departs_says_so_and_is_silent(autojump_clock: object) -> None:
    async with driven() as (wire, ref):
        ref.tell(arrived(1, Gossip(Life(1, 0), (claim(1), claim(2)))))
        await ref.ask(Depart(), timeout=1.0)
        said = [one for one in wire.of(Gossip) if isinstance(one, Gossip) and one.rumours[0].state is State.LEFT]
        assert len(said) == 2
        count = len(wire.sent)
        ref.tell(arrived(1, Ping(Life(1, 0), 7)))
        await trio.sleep(60.0)
        assert len(wire.sent) == count


async def test_a_later_start_of_the_same_host_silences_it(autojump_clock: object) -> None:
    async with driven() as (wire, ref):
        ref.tell(arrived(1, Gossip(Life(1, 0), (claim(0, generation=4),))))
        await trio.sleep(30.0)
        assert wire.heard == [Superseded(4)]
        assert wire.sent == []
        assert (await ref.ask(Who(), timeout=1.0)).others == ()
