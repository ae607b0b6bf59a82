"""What links a host of a world with the others: real links, real membership, over the simulated network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from actors.commands.messages import Command, Taken
from runtime import Request, System
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
            return {one.id: str(address_of(one.hostname)) for one in tx.database.nodes if one.id != node}

        return await self._units.read(unit, name="links.others")

    async def removed(self) -> frozenset[UUID]:
        """Return nobody: hosts of worlds stay."""
        return frozenset()


class Tap:
    """Shows the judge, and who lies in wait, what commands leave a host and what comes of those that arrive."""

    def __init__(self, host: SimulatedHost, life: ProcessLife) -> None:
        self._host, self._life = host, life

    def leaves(self, request: Request[Any]) -> None:
        """A request is about to be sent."""
        if isinstance(request, Command) and not self._life.dead:
            self._host.world.commanding(self._host, request.node_id)

    async def arrives(self, request: Request[Any], ask: Callable[[], Awaitable[object]]) -> object:
        """Have a request answered that has come over a link."""
        judge = self._host.world.judge
        if not isinstance(request, Command):
            return await ask()
        life, late = self._host.lives, judge.is_late(self._host, request)
        answer = await ask()
        if isinstance(answer, Taken) and not answer.superseded and not self._life.dead:
            judge.commanded(self._host, life, request, late)
        return answer


class TappedBoard(Board):
    """Shows what leaves."""

    def __init__(self, tap: Tap, host: UUID, monotonic: Callable[[], float]) -> None:
        super().__init__(host, monotonic)
        self._tap = tap

    async def ask(self, host: UUID, to: str, request: Request[Any], *how: Any) -> Any:
        """See `Board.ask`."""
        self._tap.leaves(request)
        return await super().ask(host, to, request, *how)


class TappedReceiver(over_links.LinkReceiver):
    """Shows what arrives."""

    def __init__(self, tap: Tap, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._tap = tap

    async def ask(self, peer: Identity, to: str, request: Request[Any], *, timeout: float) -> object:
        """See `Receiver.ask`."""
        return await self._tap.arrives(request, partial(super().ask, peer, to, request, timeout=timeout))


async def start_links(
    system: System,
    stack: Stack,
    units: Units,
    own: Identity,
    cluster: UUID,
    heard: Callable[[Notice | Superseded], None],
    tap: Tap,
) -> Linked:
    """`zeitwork.cluster.start_links`, as far as there is a world for it. ``heard`` is told what membership tells."""
    registry, env = wire_registry(), system.env
    echo.register(registry)
    board = TappedBoard(tap, own.host, env.monotonic)
    transport = SimulatedTransport(stack, PORT)
    receiver = TappedReceiver(tap, board, system, registry)
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
