"""The cluster's authority and its join tokens. Writes the table ``cluster_ca``, and `zeitwork.store.join_tokens`."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from actors.model.errors import Conflict, InvalidInput, NotFound, Problem
from actors.model.states import NodeState
from zeitwork.store.join_tokens import forget_old, insert_token, write_all_revoked, write_revoked, write_used
from zeitwork.store.journal import record
from zeitwork.store.nodes import write_host
from zeitwork.store.units import Cursor, Units
from zeitwork.trust import certificates
from zeitwork.trust.certificates import Authority
from zeitwork.trust.token import Token

#: How long a token may be valid at least and at most.
SHORTEST, LONGEST = timedelta(minutes=1), timedelta(days=7)
#: Tokens that may be valid and unused at once.
MOST_TOKENS = 1000
_TOKENS = """
select *, case when used_at is not null then 'used' when revoked_at is not null then 'revoked'
    when expires_at <= now() then 'expired' else 'valid' end as state,
    (select hostname from nodes where nodes.host_id = used_by) as hostname from join_tokens
"""
_LEAVE = "zeitwork leave --force on that machine makes it one that can join anew"
_NEW_ONE = "make a new one with zeitwork token create"


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A join token, without its secret. ``state``: valid, used, expired or revoked.

    ``used_by`` is the machine that came with it; ``hostname`` is what the node is called that it is now, if it is one.
    """

    id: UUID
    created_at: datetime
    created_by: str
    expires_at: datetime
    used_at: datetime | None
    used_by: UUID | None
    state: str
    hostname: str | None


@dataclass(frozen=True, slots=True)
class Signed:
    """A host's new certificate, the authority's, and the cluster both belong to."""

    certificate: str
    authority: str
    cluster: UUID


class WrongToken(Problem):
    """A token that opens nothing. What exactly is wrong is said only to who knows its secret."""

    code = "wrong-token"
    status = 403


class Trust:
    """Signs hosts. Whoever reaches the database can: its key is in there, in the clear, as secret as all the rest."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def authority(self) -> str:
        """Return the certificate (PEM) of the cluster's authority, made when there is none."""
        return await self._units.run(lambda cursor: _authority(cursor)[0].certificate, name="trust.authority")

    async def sign(self, host: UUID, request: bytes, *, life: timedelta = certificates.HOST_LIFE) -> Signed:
        """Sign the key of a host of this cluster: the way in which hosts that have the database renew. Idempotent.

        Raises `Conflict` for a host that was removed: who can no longer prove to be of the cluster stays outside.
        """

        def unit(cursor: Cursor) -> Signed:
            # Held until the commit: whoever removes it meanwhile waits, and what was signed before ends soon.
            cursor.execute(
                "select hostname, state from nodes where id = %(id)s or host_id = %(id)s for share", {"id": host}
            )
            if any(row["state"] == NodeState.TERMINATED for row in cursor):
                raise Conflict("this host was removed from the cluster", code="removed", fix=_LEAVE)
            return _sign(cursor, host, request, life)

        return await self._units.run(unit, name="trust.sign")

    async def add_token(self, token: Token, *, life: timedelta, who: str) -> TokenRow:
        """Enter a token. Raises `InvalidInput` for a life out of bounds, `Conflict` when there are too many."""
        if not SHORTEST <= life <= LONGEST:
            raise InvalidInput(
                "a join token is valid for one minute to seven days", field="ttl", fix="give, for example, 1h"
            )

        def unit(cursor: Cursor) -> TokenRow:
            forget_old(cursor)
            cursor.execute(
                "select count(*) as count from join_tokens "
                "where used_at is null and revoked_at is null and expires_at > now()"
            )
            row = cursor.fetchone()
            if row is not None and row["count"] >= MOST_TOKENS:
                raise Conflict(f"{MOST_TOKENS} join tokens are valid already", fix="revoke some, or wait")
            insert_token(cursor, token.id, token.secret_hash, life, who)
            _tell(cursor, who, "token.created", token.id, seconds=life.total_seconds())
            return _row(cursor, token.id)

        return await self._units.run(unit, name="trust.add_token")

    async def tokens(self) -> tuple[TokenRow, ...]:
        """Return all tokens that are remembered, the newest first; at most a thousand."""

        def unit(cursor: Cursor) -> tuple[TokenRow, ...]:
            cursor.execute(f"{_TOKENS} order by created_at desc, id limit 1000".encode())
            return tuple(_token_row(row) for row in cursor)

        return await self._units.read(unit, name="trust.tokens")

    async def revoke(self, token: UUID, *, who: str) -> TokenRow:
        """Make a token worthless. Raises `NotFound`; harmless when it was used, expired or revoked."""

        def unit(cursor: Cursor) -> TokenRow:
            if write_revoked(cursor, token):
                _tell(cursor, who, "token.revoked", token)
            return _row(cursor, token)

        return await self._units.run(unit, name="trust.revoke")

    async def redeem(
        self,
        token: UUID,
        secret_hash: bytes,
        *,
        host: UUID,
        request: bytes,
        remote: str,
        node: UUID | None = None,
        life: timedelta = certificates.HOST_LIFE,
    ) -> Signed:
        """Use a token up and sign the key of the host that brought it, both or neither.

        The host takes the place of the node that the token was made for, or that it says to have been invited as
        (``node``). The same host may bring it again with the same key, for the answer may have been lost. Raises
        `WrongToken`, `InvalidInput` for a request that can't be signed, and `Conflict` when that place is taken or an
        operator said of this host that it never comes back.
        """
        key = certificates.public_key_hash(request)

        def unit(cursor: Cursor) -> Signed:
            cursor.execute(
                "select *, expires_at <= now() as expired from join_tokens where id = %s for update", (token,)
            )
            row = cursor.fetchone()
            # Compared in any case, and in constant time: neither the time nor the words tell which ids exist.
            known = bytes(row["secret_hash"]) if row is not None else bytes(32)
            if not hmac.compare_digest(known, secret_hash) or row is None:
                raise WrongToken("the join token is not valid here", field="token", fix=_NEW_ONE)
            if row["revoked_at"] is not None:
                raise WrongToken("the join token was revoked", field="token", fix=_NEW_ONE)
            again = row["used_by"] == host and row["used_key"] is not None and bytes(row["used_key"]) == key
            if row["used_at"] is not None and not again:
                raise WrongToken(
                    f"the join token was used already, {row['used_at']:%Y-%m-%d %H:%M} UTC", field="token", fix=_NEW_ONE
                )
            if row["expired"]:
                raise WrongToken("the join token has expired", field="token", fix=_NEW_ONE)
            _take_place(cursor, host, row["node_id"] or node)
            signed = _sign(cursor, host, request, life)
            if not again:
                write_used(cursor, token, host, key)
                _tell(cursor, "join", "token.used", token, host=str(host), remote=remote)
            return signed

        return await self._units.run(unit, name="trust.redeem")


def _take_place(cursor: Cursor, host: UUID, node: UUID | None) -> None:
    """Make a new host the one that is expected as ``node``, and no longer one that was removed before."""
    cursor.execute("select * from nodes where host_id = %s or id = %s order by id for no key update", (host, node))
    rows = {row["id"]: row for row in cursor}
    former = next((row for row in rows.values() if row["host_id"] == host), None)
    if former is not None and former["buried_at"] is not None:
        raise Conflict("this host was removed from the cluster for good", field="host", code="removed", fix=_LEAVE)
    if former is not None and former["state"] == NodeState.TERMINATED:
        # It comes as another node: hosts that remember the one that was removed refuse that one for good.
        write_host(cursor, former["id"], None)
        former = None
    if node is None:
        return
    place = rows.get(node)
    if place is None or place["state"] == NodeState.TERMINATED:
        raise Conflict("nobody is expected as the node that this host was invited as any more", field="node")
    if place["host_id"] == host:
        return
    if place["host_id"] is not None or former is not None:
        taken = place["hostname"] if former is None else former["hostname"]
        raise Conflict(f"the host is known already, as {taken}", field="node", fix="invite another one")
    write_host(cursor, node, host)


def revoke_all(cursor: Cursor, who: str) -> None:
    """Make every token worthless that was not used: some may have been since this database was written."""
    for token in write_all_revoked(cursor):
        _tell(cursor, who, "token.revoked", token)


def _authority(cursor: Cursor) -> tuple[Authority, UUID]:
    cursor.execute("select id from cluster")
    cluster = cursor.fetchone()
    assert cluster is not None  # written when the store is opened
    cursor.execute("select certificate, key from cluster_ca")
    row = cursor.fetchone()
    if row is None:
        made = certificates.new_authority(cluster["id"], certificates.now())
        cursor.execute(
            "insert into cluster_ca (certificate, key) values (%s, %s) on conflict do nothing",
            (made.certificate, made.key),
        )
        cursor.execute("select certificate, key from cluster_ca")
        row = cursor.fetchone()
        assert row is not None
    return Authority(row["certificate"], row["key"]), cluster["id"]


def _sign(cursor: Cursor, host: UUID, request: bytes, life: timedelta) -> Signed:
    authority, cluster = _authority(cursor)
    certificate = certificates.sign(authority, request, cluster=cluster, host=host, now=certificates.now(), life=life)
    return Signed(certificate, authority.certificate, cluster)


def _row(cursor: Cursor, token: UUID) -> TokenRow:
    cursor.execute(f"{_TOKENS} where id = %s".encode(), (token,))
    row = cursor.fetchone()
    if row is None:
        raise NotFound(f"there is no join token {token}", field="id", fix="zeitwork token ls shows them")
    return _token_row(row)


def _token_row(row: Mapping[str, Any]) -> TokenRow:
    return TokenRow(
        id=row["id"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        expires_at=row["expires_at"],
        used_at=row["used_at"],
        used_by=row["used_by"],
        state=row["state"],
        hostname=row["hostname"],
    )


def _tell(cursor: Cursor, who: str, what: str, token: UUID, **data: object) -> None:
    cursor.execute("select id from cluster")
    cluster = cursor.fetchone()
    assert cluster is not None  # written when the store is opened
    record(cursor, who, what, "cluster", cluster["id"], {"token": str(token), **data})
