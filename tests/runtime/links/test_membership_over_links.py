"""Membership of real hosts over real links on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import pytest
import trio

from runtime import Spec, System
from runtime.links.board import Board
from runtime.links.frames import Hello, Identity
from runtime.links.links import Links, links
from runtime.links.registry import Registry
from runtime.links.transport import Address, PlainTransport
from runtime.membership import over_links
from runtime.membership.claim import State
from runtime.membership.driver import NAME, Depart, Membership, membership
from runtime.membership.events import Member, Notice, Peer
from runtime.membership.rules import Rules
from tests.ports import free_port
from tests.runtime.links.hosts import QUICK, SOON, until
from tests.runtime.links.messages import CLUSTER

FAST = Rules(probe_every=0.2, gossip_every=0.05, sync_first=0.1, seek_first=0.1, seek_every=0.5)


@dataclass
class Node:
    id: UUID
    address: Address
    actor: Membership
    board: Board
    system: System
    heard: list[object]

    def sees(self) -> dict[UUID, Member]:
        return {member.host: member for member in self.actor.members()}

    def knows(self, many: int) -> bool:
        """Whether so many others are alive as it sees them, and nobody is anything else."""
        return [member.state for member in self.actor.members()] == [State.ALIVE] * many

    def notices(self, host: UUID) -> int:
        """How often anything was heard about a host."""
        return sum(isinstance(one, Notice) and one.member.host == host for one in self.heard)

    def state_of(self, host: UUID) -> object:
        """The host's state, None when nothing is known of it (any more)."""
        member = self.sees().get(host)
        return None if member is None else member.state


@asynccontextmanager
async def node(
    number: int, seeds: list[str], port: int, generation: int = 1, says: str = "127.0.0.1"
) -> AsyncIterator[Node]:
    who, registry, heard = UUID(int=number), Registry(), list[object]()
    over_links.register(registry)
    async with System() as system:
        board = Board(who, system.env.monotonic)
        receiver = over_links.LinkReceiver(board, system, registry)
        hello = Hello(CLUSTER, Identity(who, generation))
        driver = Links(board, PlainTransport(port=port), hello, registry, receiver, QUICK)
        ref = await system.start(links(lambda: driver, rules=QUICK))
        courier = over_links.Courier(board, ref, system.name(NAME))
        await system.start(Spec(over_links.NAME, lambda: courier))
        transport = over_links.LinkTransport(board, system.name(over_links.NAME))
        address = f"{says}:{port}"
        actor = Membership(who, generation, address, transport, heard.append, seeds=seeds, rules=FAST)
        await system.start(membership(lambda: actor))
        yield Node(who, Address("127.0.0.1", port), actor, board, system, heard)


async def test_hosts_find_each_other_over_one_seed_and_notice_who_goes() -> None:
    ports = [free_port() for _ in range(4)]
    seed = [f"127.0.0.1:{ports[0]}"]
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(node(1, [], ports[0]))
        two = await stack.enter_async_context(node(2, seed, ports[1]))
        three = await stack.enter_async_context(node(3, seed, ports[2]))
        alive = (one, two, three)
        async with node(4, seed, ports[3]) as four:
            await until(lambda: all(other.knows(3) for other in (*alive, four)), "everybody knows everybody")
        # Its process is gone, without a word of membership; the machine answers that nobody listens.
        await until(lambda: all(other.state_of(UUID(int=4)) is not State.ALIVE for other in alive), "it is missed")
        async with node(4, seed, ports[3], generation=2):
            await until(lambda: all(other.state_of(UUID(int=4)) is State.ALIVE for other in alive), "it is back")
        await two.system.name(NAME).ask(Depart(), timeout=SOON)
        await until(lambda: State.ALIVE not in (one.state_of(two.id), three.state_of(two.id)))


async def test_a_seed_that_is_not_there_yet_is_found_later() -> None:
    ports = [free_port() for _ in range(2)]
    async with node(2, [f"127.0.0.1:{ports[0]}"], ports[1]) as two:
        await trio.sleep(0.3)
        assert not two.sees()
        async with node(1, [], ports[0]) as one:
            await until(lambda: two.sees() and one.sees(), "they meet")


async def test_a_host_that_was_removed_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process lives on, tries everybody, and is heard by nobody; nor is anything sent to it."""
    ports = [free_port() for _ in range(3)]
    seed = [f"127.0.0.1:{ports[0]}"]
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(node(1, [], ports[0]))
        two = await stack.enter_async_context(node(2, seed, ports[1]))
        gone = await stack.enter_async_context(node(3, [seed[0], f"127.0.0.1:{ports[1]}"], ports[2]))
        await until(lambda: all(other.knows(2) for other in (one, two, gone)), "everybody knows everybody")
        for other in (one, two):
            other.board.forget(gone.id, refuse=True)
        await until(lambda: all(other.state_of(gone.id) is State.DEAD for other in (one, two)), "it is dead to them")
        before = [other.notices(gone.id) for other in (one, two)]
        # Long enough for many tries of either side, and for rumours that are still about.
        tried: list[Peer] = []
        send = over_links.Courier._send

        def note(self: over_links.Courier, peer: Peer, data: bytes) -> None:
            tried.append(peer)
            send(self, peer, data)

        monkeypatch.setattr(over_links.Courier, "_send", note)
        await until(lambda: sum(peer.host in (one.id, two.id) for peer in tried) >= 5, "it tries")
        assert all(other.state_of(gone.id) is State.DEAD for other in (one, two))
        assert [other.notices(gone.id) for other in (one, two)] == before
        assert gone.id not in {peer.host for peer in tried}
        # Whatever a busy machine has them suspect of each other meanwhile, they are well.
        await until(lambda: State.ALIVE is one.state_of(two.id) is two.state_of(one.id), "they are well")


async def test_a_seed_at_another_address_is_not_connected_to_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a host was joined by one of its addresses, and calls itself by another."""
    ports = [free_port() for _ in range(2)]
    asked, connected = list[Peer](), list[Peer]()
    send, make = over_links.Courier._send, over_links.Courier._make

    def note(self: over_links.Courier, peer: Peer, data: bytes) -> None:
        if peer.host is None:
            asked.append(peer)
        send(self, peer, data)

    async def connect(self: over_links.Courier, peer: Peer, address: Address) -> UUID:
        connected.append(peer)
        return await make(self, peer, address)

    monkeypatch.setattr(over_links.Courier, "_send", note)
    monkeypatch.setattr(over_links.Courier, "_make", connect)
    async with (
        node(1, [], ports[0], says="127.0.0.2") as one,
        node(2, [f"127.0.0.1:{ports[0]}"], ports[1]) as two,
    ):
        await until(lambda: two.state_of(one.id) is State.ALIVE and one.state_of(two.id) is State.ALIVE, "they meet")
        met = len(asked)
        # Two for a link that stands by now, then those that count.
        await until(lambda: len(asked) >= met + 2, "it looks for its seed")
        asked.clear()
        connected.clear()
        await until(lambda: len(asked) >= 3, "it goes on looking")
        assert connected == []
        await until(lambda: two.state_of(one.id) is State.ALIVE, "it is well")
