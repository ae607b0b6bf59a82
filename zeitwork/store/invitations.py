"""Invitations of hosts that are expected. Writes the table ``invitations``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

from actors.model.errors import Conflict
from actors.model.states import NodeState
from actors.registrar.invite import Invited, Outcome
from runtime.lease import Term
from zeitwork.store.election import fence
from zeitwork.store.join_tokens import forget_unused, insert_token
from zeitwork.store.journal import announce, record
from zeitwork.store.node_rows import get_node, lock_node, missing_node
from zeitwork.store.nodes import expect, write_address, write_state
from zeitwork.store.rows import NodeRow
from zeitwork.store.units import Cursor, Units
from zeitwork.trust.token import Token

_EXPECTED = """
select v.*, extract(epoch from v.asked_at)::float8 as asked, n.hostname, n.state, n.generation,
    extract(epoch from v.asked_at + make_interval(secs => v.timeout) - clock_timestamp())::float8 as remaining
from invitations v join nodes n on n.id = v.node_id where v.ended_at is null order by v.asked_at, v.node_id limit 1000
"""
_MEMBER = """
select n.hostname, n.state from host_links l join nodes n on n.id = l.node_id
where l.address = %(address)s and n.id <> %(node)s and n.state in ('ready', 'draining') limit 1
"""
_THIS_ONE = "node_id = %(node)s and extract(epoch from asked_at)::float8 = %(asked)s and ended_at is null"


class Invitations:
    """`actors.registrar.invite_store.InviteStore` on Postgres, and what people ask of it."""

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
        """Write that a host is expected and to be invited at ``address`` (HOST:PORT) for ``timeout`` seconds.

        One of that hostname which was given up is invited anew instead. Raises `InvalidInput` for an unknown region
        and `Conflict` when that host is expected already, or one that is up is reached at ``address``. Creating the
        same ``id`` again returns what there is.
        """

        def unit(cursor: Cursor) -> NodeRow:
            cursor.execute(_MEMBER, {"address": address, "node": id})
            if (member := cursor.fetchone()) is not None:
                raise Conflict(
                    f"{member['hostname']}, which is {member['state']}, is reached at {address}",
                    field="ip_address",
                    code="member",
                    fix="it is of this cluster already: zeitwork nodes shows it; for another one, give its own address",
                )
            cursor.execute(
                "select * from nodes where hostname = %s and host_id is null and state = 'error' for no key update",
                (hostname,),
            )
            known = cursor.fetchone()
            if known is None:
                if not expect(cursor, id, hostname, region_id, ip_address, who):
                    return get_node(cursor, id)
                known = lock_node(cursor, id)
                assert known is not None
            else:
                write_address(cursor, known["id"], ip_address)
            _ask(cursor, known, address, code, timeout, who)
            return get_node(cursor, known["id"])

        return await self._units.run(unit, name="invitations.create")

    async def again(self, node_id: UUID, *, who: str = "api") -> bool:
        """Invite a node anew that was given up, as it was asked for before; False when it was not given up.

        Raises `NotFound`, and `Conflict` when its code was used up or turned out wrong: that takes another one.
        """

        def unit(cursor: Cursor) -> bool:
            row = lock_node(cursor, node_id)
            if row is None:
                raise missing_node(node_id)
            if row["state"] != NodeState.ERROR or row["generation"]:
                return False
            cursor.execute("select * from invitations where node_id = %s", (node_id,))
            known = cursor.fetchone()
            if known is None:
                return False
            if known["code"] is None and known["coded"]:
                raise Conflict(
                    f"the code of {row['hostname']} is of no use any more",
                    field="code",
                    code="needs-code",
                    fix=f"zeitwork nodes add {row['hostname']} {known['address']} CODE, with the one that it shows now",
                )
            _ask(cursor, row, known["address"], known["code"], known["timeout"], who)
            return True

        return await self._units.run(unit, name="invitations.again")

    async def expected(self) -> tuple[Invited, ...]:
        """Return hosts that are to be invited or waited for, those that asked first before others; at most 1,000."""

        def unit(cursor: Cursor) -> tuple[Invited, ...]:
            cursor.execute(_EXPECTED)
            return tuple(
                Invited(
                    node_id=row["node_id"],
                    asked=row["asked"],
                    hostname=row["hostname"],
                    address=row["address"],
                    code=row["code"],
                    state=NodeState(row["state"]),
                    generation=row["generation"],
                    left=row["remaining"],
                    timeout=row["timeout"],
                    tries=row["tries"],
                    accepted=row["accepted_at"] is not None,
                    reason=row["reason"],
                )
                for row in cursor
            )

        return await self._units.read(unit, name="invitations.expected")

    async def mint(self, node_id: UUID, token: Token, life: timedelta, term: Term) -> None:
        """Enter a token that lets one host in as this node, in place of those that it had and did not use.

        Raises `Fenced`, and `NotFound` or `Conflict` when the node is not expected any more.
        """

        def unit(cursor: Cursor) -> None:
            fence(cursor, term)
            row = lock_node(cursor, node_id)
            if row is None:
                raise missing_node(node_id)
            if row["state"] != NodeState.BOOTING or row["generation"]:
                raise Conflict(f"{row['hostname']} is not expected any more")
            forget_unused(cursor, node_id)
            insert_token(cursor, token.id, token.secret_hash, life, "inviter", node=node_id)

        await self._units.run(unit, name="invitations.mint")

    async def tried(self, invited: Invited, outcome: Outcome, term: Term) -> None:
        """Write how a try went. Its code is forgotten if it was used or is worth nothing. Raises `Fenced`."""

        def unit(cursor: Cursor) -> None:
            fence(cursor, term)
            row = lock_node(cursor, invited.node_id)
            cursor.execute(
                "update invitations set tries = tries + 1, reason = %(reason)s, "
                "code = case when %(accepted)s or %(final)s then null else code end, "
                "accepted_at = case when %(accepted)s then now() end, "
                f"ended_at = case when %(final)s then now() end where {_THIS_ONE}".encode(),
                {
                    "reason": outcome.reason[:1000],
                    "accepted": outcome.accepted,
                    "final": outcome.final,
                    "node": invited.node_id,
                    "asked": invited.asked,
                },
            )
            if row is None or not cursor.rowcount:
                return
            if outcome.accepted:
                record(cursor, "inviter", "node.accepted", "node", invited.node_id, {"address": invited.address})
            if row["generation"] or row["state"] != NodeState.BOOTING:
                return  # it has come: what it is, it says itself
            if outcome.final:
                _fail(cursor, row, outcome.reason)
            else:
                reason = f"not joined yet: {outcome.reason}"
                write_state(
                    cursor,
                    row,
                    NodeState.BOOTING,
                    "it accepted its invitation and starts" if outcome.accepted else reason[:1000],
                    "inviter",
                )

        await self._units.run(unit, name="invitations.tried")

    async def give_up(self, invited: Invited, reason: str, term: Term) -> None:
        """Write that it has come to nothing: the node is in error. Raises `Fenced`."""

        def unit(cursor: Cursor) -> None:
            fence(cursor, term)
            row = lock_node(cursor, invited.node_id)
            cursor.execute(
                f"update invitations set ended_at = now() where {_THIS_ONE}".encode(),
                {"node": invited.node_id, "asked": invited.asked},
            )
            if row is not None and cursor.rowcount and row["state"] == NodeState.BOOTING:
                _fail(cursor, row, reason)

        await self._units.run(unit, name="invitations.give_up")

    async def finish(self, invited: Invited, term: Term) -> None:
        """Forget that it was invited: it has come. Raises `Fenced`."""

        def unit(cursor: Cursor) -> None:
            fence(cursor, term)
            cursor.execute(
                f"delete from invitations where {_THIS_ONE}".encode(),
                {"node": invited.node_id, "asked": invited.asked},
            )

        await self._units.run(unit, name="invitations.finish")


def withdraw(cursor: Cursor, node_id: UUID) -> None:
    """Forget that a (locked) node was invited, and make the tokens worthless that it did not use."""
    cursor.execute("delete from invitations where node_id = %s", (node_id,))
    forget_unused(cursor, node_id)


def _ask(cursor: Cursor, node: Mapping[str, Any], address: str, code: str | None, timeout: float, who: str) -> None:
    """Begin anew to invite a (locked) node."""
    withdraw(cursor, node["id"])
    cursor.execute(
        "insert into invitations (node_id, address, code, coded, timeout) values (%s, %s, %s, %s, %s)",
        (node["id"], address, code, code is not None, timeout),
    )
    record(cursor, who, "node.invited", "node", node["id"], {"address": address, "timeout": timeout})
    write_state(cursor, node, NodeState.BOOTING, f"to be invited at {address}", who)
    announce(cursor, "zw_nodes", node["id"])


def _fail(cursor: Cursor, node: Mapping[str, Any], reason: str) -> None:
    # What it could still join with goes; its code stays if it may be right: asked for again, it is tried again.
    forget_unused(cursor, node["id"])
    write_state(cursor, node, NodeState.ERROR, reason[:1000], "inviter")
