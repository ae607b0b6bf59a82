"""`zeitwork.store.invitations` in memory, and of `zeitwork.store.trust` the using up of tokens."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from actors.model.errors import Conflict, InvalidInput
from actors.model.states import NodeState
from actors.registrar.invite import Invited, Outcome
from runtime.lease import Term
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.database import Transaction
from tests.simulation.store.election import fence
from tests.simulation.store.node_rows import get_node, write_state
from tests.simulation.store.nodes import node_row
from tests.simulation.store.units import Units
from zeitwork.store.rows import NodeRow
from zeitwork.store.trust import WrongToken
from zeitwork.trust.token import Token


class Invitations:
    """`actors.registrar.invite_store.InviteStore`, and what people ask of it."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def create(
        self,
        hostname: str,
        *,
        ip_address: IPv4Address | IPv6Address,
        address: str,
        code: str | None,
        timeout: float,
        region_id: UUID | None = None,
        id: UUID,
        who: str = "api",
    ) -> NodeRow:
        """Write that a host is expected and to be invited. Raises `InvalidInput` and `Conflict`."""

        def unit(tx: Transaction) -> NodeRow:
            known = next(
                (
                    node
                    for node in tx.database.nodes
                    if node.hostname == hostname and node.host_id is None and node.state is NodeState.ERROR
                ),
                None,
            )
            if known is None:
                known = _expect(tx, id, hostname, region_id, ip_address, who)
                if known is None:
                    return node_row(tx, id)
            else:
                known = tx.database.nodes.put(known.id, replace(known, ip_address=ip_address))
            _ask(tx, known, address, code, timeout, who)
            return node_row(tx, known.id)

        return await self._units.run(unit, name="invitations.create")

    async def again(self, node_id: UUID, *, who: str = "api") -> bool:
        """Invite a node anew that was given up; False when it was not. Raises `NotFound` and `Conflict`."""

        def unit(tx: Transaction) -> bool:
            node = get_node(tx, node_id)
            if node.state is not NodeState.ERROR or node.generation:
                return False
            known = tx.database.invitations.get(node_id)
            if known is None:
                return False
            if known.code is None and known.coded:
                raise Conflict(f"the code of {node.hostname} is of no use any more", field="code", code="needs-code")
            _ask(tx, node, known.address, known.code, known.timeout, who)
            return True

        return await self._units.run(unit, name="invitations.again")

    async def expected(self) -> tuple[Invited, ...]:
        """Return hosts that are to be invited or waited for, those that asked first before others."""

        def unit(tx: Transaction) -> tuple[Invited, ...]:
            rows = [row for row in tx.database.invitations if row.ended_at is None]
            return tuple(_invited(tx, row) for row in sorted(rows, key=lambda row: (row.asked_at, row.node_id)))

        return await self._units.read(unit, name="invitations.expected")

    async def mint(self, node_id: UUID, token: Token, life: timedelta, term: Term) -> None:
        """Enter a token that lets one host in as this node, in place of those that it had and did not use."""

        def unit(tx: Transaction) -> None:
            fence(tx, term)
            node = get_node(tx, node_id)
            if node.state is not NodeState.BOOTING or node.generation:
                raise Conflict(f"{node.hostname} is not expected any more")
            _forget_unused(tx, node_id)
            if tx.database.tokens.get(token.id) is None:
                expires = tx.now + life.total_seconds()
                tx.database.tokens.put(token.id, tables.JoinToken(token.id, token.secret_hash, expires, node_id))

        await self._units.run(unit, name="invitations.mint")

    async def tried(self, invited: Invited, outcome: Outcome, term: Term) -> None:
        """Write how a try went. Raises `Fenced`."""

        def unit(tx: Transaction) -> None:
            fence(tx, term)
            row, node = _this_one(tx, invited), tx.database.nodes.get(invited.node_id)
            if row is None or node is None:
                return
            tx.database.invitations.put(
                row.node_id,
                replace(
                    row,
                    tries=row.tries + 1,
                    reason=outcome.reason[:1000],
                    code=None if outcome.accepted or outcome.final else row.code,
                    accepted_at=tx.now if outcome.accepted else None,
                    ended_at=tx.now if outcome.final else None,
                ),
            )
            if outcome.accepted:
                tx.record("inviter", "node.accepted", "node", node.id, {"address": invited.address})
            if node.generation or node.state is not NodeState.BOOTING:
                return
            if outcome.final:
                _fail(tx, node, outcome.reason)
            else:
                reason = f"not joined yet: {outcome.reason}"
                accepted = "it accepted its invitation and starts"
                write_state(tx, node, NodeState.BOOTING, accepted if outcome.accepted else reason[:1000], "inviter")

        await self._units.run(unit, name="invitations.tried")

    async def give_up(self, invited: Invited, reason: str, term: Term) -> None:
        """Write that it has come to nothing: the node is in error. Raises `Fenced`."""

        def unit(tx: Transaction) -> None:
            fence(tx, term)
            row, node = _this_one(tx, invited), tx.database.nodes.get(invited.node_id)
            if row is None:
                return
            tx.database.invitations.put(row.node_id, replace(row, ended_at=tx.now))
            if node is not None and node.state is NodeState.BOOTING:
                _fail(tx, node, reason)

        await self._units.run(unit, name="invitations.give_up")

    async def finish(self, invited: Invited, term: Term) -> None:
        """Forget that it was invited: it has come. Raises `Fenced`."""

        def unit(tx: Transaction) -> None:
            fence(tx, term)
            if _this_one(tx, invited) is not None:
                tx.database.invitations.remove(invited.node_id)

        await self._units.run(unit, name="invitations.finish")


class Trust:
    """Of `zeitwork.store.trust.Trust` what lets a host in; certificates are no matter here."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def redeem(
        self,
        token: UUID,
        secret_hash: bytes,
        *,
        host: UUID,
        request: bytes,
        remote: str,
        node: UUID | None = None,
    ) -> None:
        """Use a token up for the key of a host, which takes the place of the node that the token was made for.

        Raises `WrongToken`, and `Conflict` when that place is taken or the host was removed for good.
        """

        def unit(tx: Transaction) -> None:
            row = tx.database.tokens.get(token)
            if row is None or row.secret_hash != secret_hash:
                raise WrongToken("the join token is not valid here", field="token")
            again = (row.used_by, row.used_key) == (host, request)
            if row.used_by is not None and not again:
                raise WrongToken("the join token was used already", field="token")
            if row.expires_at <= tx.now:
                raise WrongToken("the join token has expired", field="token")
            _take_place(tx, host, row.node_id or node)
            if not again:
                tx.database.tokens.put(token, replace(row, used_by=host, used_key=request))
                data = {"token": str(token), "host": str(host), "remote": remote}
                tx.record("join", "token.used", "cluster", tx.database.cluster_id, data)

        await self._units.run(unit, name="trust.redeem")


def _take_place(tx: Transaction, host: UUID, node_id: UUID | None) -> None:
    """Make a new host the one that is expected as a node, and no longer one that was removed before."""
    former = next((node for node in tx.database.nodes if node.host_id == host), None)
    if former is not None and former.buried:
        raise Conflict("this host was removed from the cluster for good", field="host", code="removed")
    if former is not None and former.state is NodeState.TERMINATED:
        tx.database.nodes.put(former.id, replace(former, host_id=None, updated_at=tx.now))
        former = None
    if node_id is None:
        return
    place = tx.database.nodes.get(node_id)
    if place is None or place.state is NodeState.TERMINATED:
        raise Conflict("nobody is expected as the node that this host was invited as any more", field="node")
    if place.host_id == host:
        return
    if place.host_id is not None or former is not None:
        raise Conflict("the host is known already", field="node", fix="invite another one")
    tx.database.nodes.put(node_id, replace(place, host_id=host, updated_at=tx.now))


def _expect(
    tx: Transaction,
    node_id: UUID,
    hostname: str,
    region_id: UUID | None,
    ip_address: IPv4Address | IPv6Address,
    who: str,
) -> tables.Node | None:
    """Write that a host is expected; None when this very node is there already."""
    region = min(region.id for region in tx.database.regions) if region_id is None else region_id
    if tx.database.regions.get(region) is None:
        raise InvalidInput(f"there is no region {region}", field="region_id")
    there = tx.database.nodes.get(node_id) is not None
    if Bug.INVITED_TWICE in tx.bugs:
        node_id, there = tx.database.new_id(), False
    taken = any(
        node.hostname == hostname and node.host_id is None and node.state is not NodeState.TERMINATED
        for node in tx.database.nodes
    )
    if there:
        return None
    if taken and Bug.INVITED_TWICE not in tx.bugs:
        raise Conflict(
            f"a node with hostname {hostname} is expected already",
            field="hostname",
            fix="wait for it, or remove that node first",
        )
    node = tables.Node(node_id, hostname, region, tx.now, tx.now, ip_address=ip_address)
    tx.database.nodes.put(node_id, node)
    tx.record(who, "node.created", "node", node_id, {"hostname": hostname})
    tx.announce("zw_nodes", node_id)
    return node


def _ask(tx: Transaction, node: tables.Node, address: str, code: str | None, timeout: float, who: str) -> None:
    """Begin anew to invite a node."""
    _forget_unused(tx, node.id)
    row = tables.Invitation(node.id, address, code, code is not None, timeout, tx.now)
    tx.database.invitations.put(node.id, row)
    tx.record(who, "node.invited", "node", node.id, {"address": address, "timeout": timeout})
    write_state(tx, node, NodeState.BOOTING, f"to be invited at {address}", who)
    tx.announce("zw_nodes", node.id)


def _fail(tx: Transaction, node: tables.Node, reason: str) -> None:
    _forget_unused(tx, node.id)
    write_state(tx, node, NodeState.ERROR, reason[:1000], "inviter")


def _forget_unused(tx: Transaction, node_id: UUID) -> None:
    for row in [row for row in tx.database.tokens if row.node_id == node_id and row.used_by is None]:
        tx.database.tokens.remove(row.id)


def _this_one(tx: Transaction, invited: Invited) -> tables.Invitation | None:
    row = tx.database.invitations.get(invited.node_id)
    return row if row is not None and row.asked_at == invited.asked and row.ended_at is None else None


def _invited(tx: Transaction, row: tables.Invitation) -> Invited:
    node = get_node(tx, row.node_id)
    return Invited(
        node_id=row.node_id,
        asked=row.asked_at,
        hostname=node.hostname,
        address=row.address,
        code=row.code,
        state=node.state,
        generation=node.generation,
        left=row.asked_at + row.timeout - tx.now,
        timeout=row.timeout,
        tries=row.tries,
        accepted=row.accepted_at is not None,
        reason=row.reason,
    )
