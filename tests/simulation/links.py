"""What links a host of a world with the others: real links, real membership, over the simulated network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from actors.commands.messages import Command
from actors.commands.receiver import Receiver
from actors.model.errors import Failed
from actors.model.states import NodeState
from runtime import Message, Ref, Request, StartFailed, System
from runtime.lease import EpochMemory
from runtime.links.board import Board
from runtime.links.frames import Hello, Identity
from runtime.links.links import Links, links
from runtime.links.rules import Rules
from runtime.links.simulated import SimulatedSockets, SimulatedTransport, Stack
from runtime.links.transport import Address
from runtime.membership import over_links
from runtime.membership.driver import NAME as MEMBERSHIP
from runtime.membership.driver import Membership
from runtime.membership.driver import membership as member_spec
from runtime.membership.events import Notice, Superseded
from runtime.membership.rules import Rules as MembershipRules
from runtime.spec import Spec
from tests.simulation import echo
from tests.simulation.store.database import Transaction
from tests.simulation.store.units import Units
from zeitwork.cluster import Linked
from zeitwork.peers import Peers
from zeitwork.wire import wire_registry

if TYPE_CHECKING:
    from tests.simulation.host import SimulatedHost
    from tests.simulation.reach import ProcessLife

#: The port of links.
PORT = 7071
#: Less lively than on real hosts, since each message costs a simulation most: a link that is dead is noticed by
#: membership, or by TCP after 15 s; hosts are probed as often as memberlist does, half as often as real ones.
RULES, MEMBERSHIP_RULES = Rules(ping_every=8.0, silence=24.0), MembershipRules(probe_every=1.0)


def address_of(hostname: str) -> Address:
    """Return where a host is reached."""
    return Address(hostname, PORT)


class Directory:
    """`zeitwork.store.links.HostLinks`: every host that has registered has links, at an address that its name tells."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def others(self, node: UUID) -> dict[UUID, str]:
        """Return where all other hosts are reached."""

        def unit(tx: Transaction) -> dict[UUID, str]:
            return {
                one.id: str(address_of(one.hostname))
                for one in tx.database.nodes
                if one.id != node and one.generation > 0 and one.state is not NodeState.TERMINATED
            }

        return await self._units.read(unit, name="links.others")

    async def removed(self) -> frozenset[UUID]:
        """Return the hosts that were removed from the cluster."""

        def unit(tx: Transaction) -> frozenset[UUID]:
            return frozenset(one.id for one in tx.database.nodes if one.state is NodeState.TERMINATED)

        return await self._units.read(unit, name="links.removed")


class WatchedBoard(Board):
    """Shows who lies in wait what commands leave a host."""

    def __init__(self, host: SimulatedHost, life: ProcessLife, own: UUID) -> None:
        super().__init__(own, host.env.monotonic)
        self._host, self._life = host, life

    async def ask(self, host: UUID, to: str, request: Request[Any], *how: Any) -> Any:
        """See `Board.ask`."""
        if isinstance(request, Command) and not self._life.dead:
            self._host.world.faults.commanding(self._host, host)
        return await super().ask(host, to, request, *how)


class WatchedReceiver(Receiver):
    """Shows the judge what commands a host heeds."""

    def __init__(self, host: SimulatedHost, life: ProcessLife, node_id: UUID, epochs: EpochMemory, actor: Ref) -> None:
        super().__init__(node_id, epochs, actor)
        self._where, self._life, self._number = host, life, host.lives
        #: Why each that came must not be heeded.
        self._late: dict[Command, str] = {}

    async def receive(self, message: Message) -> None:
        """See `Receiver.receive`."""
        if isinstance(message, Command):
            self._late[message] = self._where.world.judge.is_late(self._where, message)
        await super().receive(message)

    async def _attend(self, command: Command, left: float) -> str | None:
        if not self._life.dead:
            self._where.world.judge.commanded(self._where, self._number, command, self._late.pop(command, ""))
        return await super()._attend(command, left)


async def start_links(
    system: System,
    stack: Stack,
    units: Units,
    own: Identity,
    cluster: UUID,
    board: Board,
    heard: Callable[[Notice | Superseded], None],
) -> Linked:
    """`zeitwork.cluster.start_links`, as far as there is a world for it. ``heard`` is told what membership tells."""
    registry = wire_registry()
    echo.register(registry)
    transport = SimulatedTransport(stack, PORT)
    receiver = over_links.LinkReceiver(board, system, registry)
    factory = partial(
        Links, board, transport, Hello(cluster, own), registry, receiver, RULES, sockets=SimulatedSockets()
    )
    try:
        ref = await system.start(links(factory, rules=RULES))
    except StartFailed as error:
        raise Failed(f"links can't listen at port {PORT}: {error.__cause__}") from error
    address, directory = address_of(stack.host), Directory(units)
    linked = Linked(address, board, system)
    await system.start(
        Spec("peers", lambda: Peers(own.host, directory, system.name(ref.name), linked.addresses, linked.dropped))
    )
    seeds = sorted((await directory.others(own.host)).values())
    members, courier = system.name(MEMBERSHIP), system.name(over_links.NAME)
    await system.start(Spec(over_links.NAME, lambda: over_links.Courier(board, system.name(ref.name), members)))
    carrier = over_links.LinkTransport(board, courier)

    def told(notice: Notice | Superseded) -> None:
        linked.heard(notice)
        heard(notice)

    def make() -> Membership:
        rules = MEMBERSHIP_RULES
        made = Membership(own.host, own.generation, str(address), carrier, told, seeds=seeds, rules=rules)
        return linked.follow(made)

    await system.start(member_spec(make))
    return linked
