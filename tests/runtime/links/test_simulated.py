"""Real links over the simulated network: what is said arrives, and each way in which a host ends looks as it should."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
import trio

from runtime import Actor, Message, Ref, Spec, System
from runtime.links.board import Board, LinkDown, LinkUp
from runtime.links.errors import Unreachable
from runtime.links.frames import Identity
from runtime.links.links import Links, links
from runtime.links.messages import Follow, Introduce, NoIntroduction
from runtime.links.receiver import SystemReceiver
from runtime.links.remote import RemoteRef
from runtime.links.rules import Rules
from runtime.links.simulated import SimulatedSockets, SimulatedTransport, Stack
from runtime.links.transport import Address
from runtime.simulation import Delay, HostEnvironment, Listeners, Network, run
from tests.runtime.links.hosts import Listener, Worker
from tests.runtime.links.messages import Describe, Double, Part, hello, registry

RULES = Rules(silence=3.0)


@dataclass
class Place:
    """Where hosts are."""

    nursery: trio.Nursery
    network: Network = field(default_factory=lambda: Network(random.Random(3), Delay(0.001, 0.002, 1.0)))
    listeners: Listeners = field(default_factory=Listeners)

    async def host(self, number: int, generation: int = 1) -> Here:
        here = Here(self, number, generation)
        await self.nursery.start(here.run)
        return here


class Here:
    """One process of one host."""

    def __init__(self, place: Place, number: int, generation: int) -> None:
        self.id, self.name, self.generation = UUID(int=number), f"h{number}", generation
        self.stack = Stack(place.network, place.listeners, self.name)
        self.log: list[Message] = []
        self.links: Ref
        self.board: Board
        self._over = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        async with System(HostEnvironment(self.id.int)) as system:
            self.board, known = Board(self.id, system.env.monotonic), registry()
            local = hello(self.id, self.generation)
            receiver = SystemReceiver(system, known)

            def make() -> Actor:
                transport, sockets = SimulatedTransport(self.stack, 1), SimulatedSockets()
                return Links(self.board, transport, local, known, receiver, RULES, sockets=sockets)

            self.links = await system.start(links(make, rules=RULES))
            await system.start(Spec("worker", Worker))
            self.links.tell(Follow(await system.start(Spec("listener", lambda: Listener(self.log)))))
            task_status.started()
            await self._over.wait()
        self.stack.end()

    def kill(self, *, silently: bool = False) -> None:
        self.stack.end(silently=silently)
        self._over.set()

    def quit(self) -> None:
        self._over.set()

    def ref(self, other: UUID) -> RemoteRef:
        return RemoteRef(self.board, other, "worker")

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.log if isinstance(message, kind)]


def play(script: Callable[[Place], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            place = Place(nursery)
            await nursery.start(place.network.run)
            await script(place)
            nursery.cancel_scope.cancel()

    run(main, seed=5)


async def linked(one: Here, other: Here) -> None:
    found = await one.links.ask(Introduce(Address(other.name, 1)), timeout=10.0)
    assert found == other.id
    await trio.sleep(1.0)


def test_requests_are_answered_over_it_in_whatever_order() -> None:
    async def script(place: Place) -> None:
        one, two = await place.host(1), await place.host(2)
        await linked(one, two)
        answers: list[object] = []

        async def ask(name: str, after: float) -> None:
            answers.append(await one.ref(two.id).ask(Describe(name, after), timeout=10.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "late", 2.0)
            nursery.start_soon(ask, "early", 0.5)
        assert [part.name for part in answers if isinstance(part, Part)] == ["early", "late"]
        assert await two.ref(one.id).ask(Double(21), timeout=5.0) == 42

    play(script)


def test_a_process_that_is_killed_breaks_its_links_at_once_and_its_machine_refuses() -> None:
    async def script(place: Place) -> None:
        one, two = await place.host(1), await place.host(2)
        await linked(one, two)
        two.kill()
        await trio.sleep(0.5)
        assert [down.peer.host for down in one.of(LinkDown)] == [two.id]
        with pytest.raises(NoIntroduction) as refused:
            await one.links.ask(Introduce(Address(two.name, 1)), timeout=10.0)
        assert refused.value.refused
        again = await place.host(2, generation=2)
        await linked(one, again)
        assert one.of(LinkUp)[-1].peer == Identity(two.id, 2)

    play(script)


def test_a_machine_that_goes_dark_is_found_out_by_its_silence() -> None:
    async def script(place: Place) -> None:
        one, two = await place.host(1), await place.host(2)
        await linked(one, two)
        two.kill(silently=True)
        place.network.hold(two.name)
        await trio.sleep(0.5)
        assert not one.of(LinkDown)
        await trio.sleep(2 * RULES.silence + 1.0)
        assert one.of(LinkDown)[0].reason.code == "silent"
        with pytest.raises(NoIntroduction) as silent:
            await one.links.ask(Introduce(Address(two.name, 1)), timeout=10.0)
        assert not silent.value.refused

    play(script)


def test_an_orderly_end_is_said() -> None:
    async def script(place: Place) -> None:
        one, two = await place.host(1), await place.host(2)
        await linked(one, two)
        two.quit()
        await trio.sleep(2.0)
        assert one.of(LinkDown)[0].reason.code == "stopping"

    play(script)


def test_nothing_leaves_a_process_that_was_killed() -> None:
    async def script(place: Place) -> None:
        one, two = await place.host(1), await place.host(2)
        await linked(one, two)
        two.stack.end()
        with pytest.raises(Unreachable):
            await two.ref(one.id).ask(Double(1), timeout=3.0)
        with pytest.raises(OSError, match="has ended"):
            two.stack.listening(9)

    play(script)
