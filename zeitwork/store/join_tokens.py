"""Writes the table ``join_tokens``, as a part of what others do."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from zeitwork.store.units import Cursor


def insert_token(
    cursor: Cursor, token: UUID, secret_hash: bytes, life: timedelta, who: str, *, node: UUID | None = None
) -> None:
    """Enter a token, which lets a host in as ``node`` only if that is given. Harmless when it is there."""
    cursor.execute(
        "insert into join_tokens (id, secret_hash, created_by, expires_at, node_id) values (%s, %s, %s, now() + %s, %s)"
        " on conflict (id) do nothing",
        (token, secret_hash, who, life, node),
    )


def write_used(cursor: Cursor, token: UUID, host: UUID, key: bytes) -> None:
    """Write that a host has used a token with a key of this hash."""
    cursor.execute(
        "update join_tokens set used_at = now(), used_by = %s, used_key = %s where id = %s", (host, key, token)
    )


def write_revoked(cursor: Cursor, token: UUID) -> bool:
    """Make a token worthless; False when it can't let anybody in any more."""
    cursor.execute(
        "update join_tokens set revoked_at = now() where id = %s and revoked_at is null and used_at is null", (token,)
    )
    return cursor.rowcount > 0


def write_all_revoked(cursor: Cursor) -> list[UUID]:
    """Make every token worthless that nobody has used; return which those were."""
    cursor.execute(
        "update join_tokens set revoked_at = now() where revoked_at is null and used_at is null returning id"
    )
    return [row["id"] for row in cursor]


def forget_old(cursor: Cursor) -> None:
    """Delete tokens that ended a month ago."""
    cursor.execute("delete from join_tokens where expires_at < now() - interval '30 days'")


def forget_unused(cursor: Cursor, node: UUID) -> None:
    """Delete those tokens for one node that nobody has used."""
    cursor.execute("delete from join_tokens where node_id = %s and used_at is null", (node,))
