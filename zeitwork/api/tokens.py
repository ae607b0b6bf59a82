"""Join tokens. Whoever has one can make a host that reads all there is, so they are made through the socket only."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import msgspec

from actors.model.errors import Conflict, InvalidInput, Problem
from zeitwork.api.call import Answer, Call
from zeitwork.api.decode import Input

if TYPE_CHECKING:
    from zeitwork.store.trust import TokenRow, Trust

#: Seconds that a token is valid when nothing else was asked for.
DEFAULT_LIFE = 3600


class TokenState(StrEnum):
    """Only a ``valid`` one lets a host in."""

    VALID = "valid"
    USED = "used"
    EXPIRED = "expired"
    REVOKED = "revoked"


class NewToken(Input):
    """A token for one new host, valid for ``ttl`` seconds."""

    ttl: Annotated[int, msgspec.Meta(ge=60, le=7 * 24 * 3600)] = DEFAULT_LIFE


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A join token without its secret. ``used_by`` is the machine that came with it, by its ``host-id``; ``hostname``
    what its node is called, if it is one yet.
    """

    id: UUID
    state: TokenState
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    used_by: UUID | None
    hostname: str | None


class NewlyMade(msgspec.Struct, frozen=True, kw_only=True):
    """A join token. ``token`` is shown this once and kept nowhere; ``join`` is where the new host goes with it."""

    id: UUID
    token: str
    join: str
    expires_at: datetime


class TokenPage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens, newest first; those that ended more than 30 days ago are left out."""

    items: list[Token]
    next_cursor: str | None = None


def present(row: TokenRow) -> Token:
    """Return a token as the API shows it."""
    return Token(
        id=row.id,
        state=TokenState(row.state),
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
        used_by=row.used_by,
        hostname=row.hostname,
    )


async def listing(call: Call) -> Answer:
    """GET /api/v1/tokens."""
    return Answer(TokenPage(items=[present(row) for row in await _trust(call).tokens()]))


async def create(call: Call) -> Answer:
    """POST /api/v1/tokens."""
    if call.request.scope.get("server") is not None:
        raise Problem(
            "join tokens are made through the unix socket only",
            fix="run zeitwork token create on a host of the cluster, as root or a member of the socket's group",
            code="socket-only",
            status=HTTPStatus.FORBIDDEN,
        )
    if "idempotency-key" in call.request.headers:
        raise InvalidInput(
            "the answer holds a secret, which is not kept for a repetition",
            field="Idempotency-Key",
            fix="send it without; a token too many does no harm",
        )
    if call.deps.join_address is None:
        raise Conflict(
            "this host has no links, so no other can join through it",
            code="no-links",
            fix="run it with --advertise ADDRESS:PORT, which other hosts reach it by",
        )
    from zeitwork.trust import certificates
    from zeitwork.trust.token import new_token

    trust = _trust(call)
    token = new_token(certificates.fingerprint(await trust.authority()), os.urandom)
    body: NewToken = call.body or NewToken()
    row = await trust.add_token(token, life=timedelta(seconds=body.ttl), who="api")
    join = f"https://{call.deps.join_address}"
    return Answer(NewlyMade(id=row.id, token=str(token), join=join, expires_at=row.expires_at), status=201)


async def delete(call: Call) -> Answer:
    """DELETE /api/v1/tokens/{id}."""
    return Answer(present(await _trust(call).revoke(call.id, who="api")))


def _trust(call: Call) -> Trust:
    # What reads certificates takes a while to import; most hosts never do.
    from zeitwork.store.trust import Trust

    return Trust(call.deps.store.units)
