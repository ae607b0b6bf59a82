"""What links a host of a world with the others: real links, real membership, over the simulated network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID

from runtime import System
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
            return {one.id: str(address_of(one.hostname)) for one in tx.database.nodes if one.id != node}

        return await self._units.read(unit, name="links.others")

    async def removed(self) -> frozenset[UUID]:
        """Return nobody: hosts of worlds stay."""
        return frozenset()


async def start_links(
    system: System,
    stack: Stack,
    units: Units,
    own: Identity,
    cluster: UUID,
    heard: Callable[[Notice | Superseded], None],
) -> Linked:
    """`zeitwork.cluster.start_links`, as far as there is a world for it. ``heard`` is told what membership tells."""
    registry, env = wire_registry(), system.env
    echo.register(registry)
    board = Board(own.host, env.monotonic)
    transport = SimulatedTransport(stack, PORT)
    receiver = over_links.LinkReceiver(board, system, registry)
    factory = partial(
        Links, board, transport, Hello(cluster, own), registry, receiver, RULES, sockets=SimulatedSockets()
    )
    ref = await system.start(links(factory, rules=RULES))
    directory = Directory(units)
    await system.start(Spec("peers", lambda: Peers(own.host, directory, system.name(ref.name))))
    address = address_of(stack.host)
    seeds = sorted((await directory.others(own.host)).values())
    members, courier = system.name(MEMBERSHIP), system.name(over_links.NAME)
    await system.start(Spec(over_links.NAME, lambda: over_links.Courier(board, system.name(ref.name), members)))
    carrier = over_links.LinkTransport(board, courier)
    linked = Linked(address, board, system)

    def make() -> Membership:
        rules = MEMBERSHIP_RULES
        made = Membership(own.host, own.generation, str(address), carrier, heard, seeds=seeds, rules=rules)
        return linked.follow(made)

    await system.start(member_spec(make))
    return linked
