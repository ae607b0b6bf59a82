"""How a leader invites a machine of a world, and how that joins: in order, over a network that loses what is said."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import trio

from actors.model.errors import Failed, Problem, Unavailable
from actors.registrar.invite import Invited, Outcome
from runtime.lease import Term
from runtime.links.transport import Address
from runtime.simulation import Lost
from tests.simulation.reach import RemoteUnits
from tests.simulation.store import Store
from zeitwork.trust.inviting import _FINAL, DEADLINE, TOKEN_LIFE
from zeitwork.trust.token import Token, new_token

if TYPE_CHECKING:
    from tests.simulation.host import SimulatedHost
    from tests.simulation.reach import ProcessLife

#: Seconds that a machine tries to join for one invitation.
JOIN_WITHIN = 20.0


class Inviting:
    """`zeitwork.trust.inviting.Inviting` of one life of a host, without TLS."""

    def __init__(self, host: SimulatedHost, life: ProcessLife, store: Store) -> None:
        self._host, self._life, self._store = host, life, store

    async def invite(self, one: Invited, term: Term) -> Outcome:
        """Invite a machine once; what goes wrong on the way is in the outcome."""
        try:
            with trio.fail_after(DEADLINE):
                await self._talk(one, term)
        except Problem as problem:
            return Outcome(False, problem.detail, final=problem.code in _FINAL)
        except (Lost, trio.TooSlowError) as error:
            return Outcome(False, f"{one.address} did not answer: {error!r}")
        return Outcome(True, "")

    async def _talk(self, one: Invited, term: Term) -> None:
        world, own, name = self._host.world, self._host, Address.parse(one.address).host
        machine = next(host for host in world.hosts if host.name == name)

        def connect() -> str:
            if machine.claimed or machine.up_from > trio.current_time():
                raise Unavailable(f"{name} can't be reached: nobody listens there")
            return machine.code

        shown = await world.network.call(own.name, name, connect)
        if one.code != shown:
            raise Failed("the code is not that of the host", code="wrong-code")
        token = new_token(b"", own.env.entropy)
        await self._store.invitations.mint(one.node_id, token, TOKEN_LIFE, term)
        answer = Answer()

        def offer() -> None:
            connect()
            if machine.joining:
                raise Unavailable(f"{name} is joining")
            machine.joining = True
            world.nursery.start_soon(_join, machine, own, self._life, one.node_id, token, answer)

        await world.network.call(own.name, name, offer)
        await answer.given.wait()
        if answer.problem is not None:
            raise answer.problem


class Answer:
    """What a machine says of how joining went."""

    def __init__(self) -> None:
        self.given = trio.Event()
        self.problem: Problem | None = None

    def give(self, problem: Problem | None) -> None:
        """Let it arrive."""
        self.problem = problem
        self.given.set()


async def _join(
    machine: SimulatedHost, leader: SimulatedHost, life: ProcessLife, node: UUID, token: Token, answer: Answer
) -> None:
    """Join through the host that invites, as ``zeitwork run --unclaimed`` does, and say how that went."""
    world, problem = machine.world, None
    try:
        await _redeem(machine, leader, life, node, token)
    except Problem as refused:
        problem = refused
    except (Lost, trio.TooSlowError) as error:
        problem = Unavailable(f"the host that invites can't be reached: {error!r}")
    finally:
        machine.joining = False
    try:
        await world.network.call(machine.name, leader.name, lambda: answer.give(problem))
    except Lost:
        world.trace(machine.name, "can't say how joining went")


async def _redeem(machine: SimulatedHost, leader: SimulatedHost, life: ProcessLife, node: UUID, token: Token) -> None:
    network, code = machine.world.network, machine.code
    with trio.fail_after(JOIN_WITHIN):
        await network.call(machine.name, leader.name, lambda: None)
        await Store(RemoteUnits(machine.world.server, leader.name, life)).trust.redeem(
            token.id,
            token.secret_hash,
            host=machine.host_id,
            request=code.encode(),
            remote=machine.name,
            node=node,
        )
        # Its welcome, without which it has no certificate.
        await network.call(leader.name, machine.name, lambda: None)
    if machine.code == code:
        machine.claim()
