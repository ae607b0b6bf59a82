"""Hosts of one cluster in one process: real Postgres, real links on loopback, the real actors, and machines in memory.

Nobody listens to notifications here: a host learns of what is wanted by commands, or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from actors.commands.dispatcher import dispatcher
from actors.commands.messages import DISPATCHER, Dispatch
from actors.commands.messages import NAME as COMMANDS
from actors.commands.receiver import receiver
from actors.host.actor import Host as HostActor
from actors.host.messages import NAME as HOST
from actors.host.messages import Vms
from actors.images.messages import NAME as IMAGES
from actors.images.messages import EnsureRoot
from actors.model.errors import NotFound
from actors.model.image import ImageConfig, RootImage
from actors.model.records import Placement
from actors.tap.actor import actor_name as tap_name
from actors.vm.actor import VmActor, actor_name
from actors.vm.guest import GuestImage
from actors.vm.lifecycle import Limits
from actors.vm.messages import Stop
from actors.vm.settings import HypervisorChoice, VmSettings
from runtime import Actor, Message, Ref, Spec, System
from runtime.lease import Term
from runtime.links.board import Board
from runtime.links.frames import Hello, Identity
from runtime.links.links import Links, links
from runtime.links.messages import Want
from runtime.links.receiver import SystemReceiver
from runtime.links.remote import RemoteRef
from runtime.links.transport import Address, PlainTransport, Transport
from runtime.office import Office
from tests.actors.vm.simulated import NOWHERE, Life, Machine, ModelLeftovers, ModelOperations, Monitors
from tests.actors.vm.simulated_store import NoSnapshots, Taps
from tests.runtime.links.hosts import QUICK, SOON, until
from tests.runtime.links.messages import CLUSTER
from zeitwork.epochs import EpochFile
from zeitwork.store import Store
from zeitwork.store.rows import NodeRow
from zeitwork.wire import wire_registry


class Images(Actor):
    """Has every image, unless the site's work of that name is to fail."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def receive(self, message: Message) -> None:
        assert isinstance(message, EnsureRoot)
        if self._site.fails == "image":
            self.ctx.fail(NotFound("image failed"))
        else:
            self.ctx.reply(RootImage(message.digest, "/nowhere/root", ImageConfig()))


@dataclass
class Site:
    """A host. Its ``machines`` outlive its processes, of which ``life`` is the present one."""

    node: NodeRow
    directory: Path
    guests: trio.Nursery
    machines: dict[UUID, Machine] = field(default_factory=dict)
    fails: str = ""
    spawned: trio.Event = field(default_factory=trio.Event)
    life: Life = field(default_factory=Life)
    #: Set while it is up.
    system: System | None = None
    board: Board | None = None
    links: Ref | None = None
    actor: Links | None = None

    @property
    def address(self) -> Address:
        assert self.actor is not None
        return self.actor.addresses[0]

    def machine(self, placement: Placement) -> Machine:
        machine = self.machines.setdefault(placement.id, Machine(self.guests, spawned=self.spawned.set))
        machine.fails = self.fails
        return machine

    def held(self) -> set[str]:
        """Return everything that is here of any placement."""
        return set[str]().union(*(machine.held() for machine in self.machines.values()))

    def reach(self, node_id: UUID) -> Ref | None:
        """Return how commands get to a host from here."""
        assert self.system is not None
        assert self.board is not None
        return self.system.name(COMMANDS) if node_id == self.node.id else RemoteRef(self.board, node_id, COMMANDS)

    async def lead(self, store: Store, term: Term) -> Office:
        """Let this host's dispatcher act in a term."""
        assert self.system is not None
        office = Office(term, float("inf"), self.system.env.monotonic)
        await self.system.start(dispatcher(store.commands, office, self.node.id, self.reach))
        return office

    def hint(self) -> None:
        """Let the dispatcher look."""
        assert self.system is not None
        self.system.name(DISPATCHER).tell(Dispatch("test"))

    async def want(self, *others: Site) -> None:
        """Keep links to others, of which it knows the addresses then."""
        assert self.links is not None
        assert self.board is not None
        board = self.board
        self.links.tell(Want({other.node.id: other.address for other in others}))
        await until(lambda: all(board.peer(other.node.id).address == other.address for other in others))


@asynccontextmanager
async def up(site: Site, store: Store, transport: Transport | None = None, port: int = 0) -> AsyncIterator[Site]:
    """Run a process of the host."""
    life = site.life = Life()
    registry = wire_registry()

    async def choose() -> Any:
        raise AssertionError

    settings = VmSettings(
        paths=NOWHERE,
        cluster_id=str(CLUSTER),
        guest=GuestImage(NOWHERE.data, NOWHERE.data, "1"),
        hypervisors=HypervisorChoice(choose),
        limits=lambda _: Limits(start=10.0, margin=1.0),
    )

    def make_tap(placement: Placement) -> Spec:
        return Spec(tap_name(placement.id), lambda: Taps(life, site.machine(placement)), restart="transient")

    def make_vm(placement: Placement, tap: Ref, host: Ref, stop: Stop | None) -> Spec:
        def factory() -> VmActor:
            machine = site.machine(placement)
            monitors: Any = Monitors(life, machine)
            operations: Any = ModelOperations(life, machine, placement, str(CLUSTER))
            mine = replace(settings, control=lambda name, acceleration: monitors)
            return VmActor(
                placement, mine, store.placements, store.snapshots, tap=tap, host=host, stop=stop, operations=operations
            )

        return Spec(actor_name(placement), factory, restart="temporary")

    def host() -> HostActor:
        return HostActor(
            site.node.id,
            str(CLUSTER),
            store.placements,
            store.snapshots,
            ModelLeftovers(life, site.machines),
            make_tap,
            make_vm,
            NoSnapshots(),
        )

    async with System() as system:
        board = Board(site.node.id, system.env.monotonic)
        make = partial(
            Links,
            board,
            transport or PlainTransport(port=port),
            Hello(CLUSTER, Identity(site.node.id, site.node.generation)),
            registry,
            SystemReceiver(system, registry),
            QUICK,
        )
        actors: list[Links] = []

        def once() -> Links:
            actors.append(make())
            return actors[-1]

        await system.start(Spec(IMAGES, lambda: Images(site)))
        await system.start(Spec(HOST, host))
        await system.start(receiver(site.node.id, EpochFile(site.directory / "epoch"), system.name(HOST)))
        site.links = await system.start(links(once, rules=QUICK))
        site.system, site.board, site.actor = system, board, actors[0]
        # What it reads at its start it has read: all that follows is told.
        while (await system.name(HOST).ask(Vms(), timeout=SOON)).reconciled_at is None:  # noqa: ASYNC110
            await trio.sleep(0.01)
        try:
            yield site
        finally:
            site.life.dead = True
