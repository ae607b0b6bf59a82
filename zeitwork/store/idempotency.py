"""Answers kept for repeated requests. Writes the table ``idempotency_keys``."""

from __future__ import annotations

import itertools

from actors.model.errors import Conflict, InvalidInput
from zeitwork.store.identifiers import new_id
from zeitwork.store.rows import IdempotencyRow
from zeitwork.store.units import Cursor, Units

#: Seconds that an answer is kept, and after which a request that was begun and never finished may be taken over.
KEPT, TAKEN_OVER_AFTER = 24 * 3600.0, 60.0
#: Keys that are kept at most, and how often (in calls of `begin`) the rest are swept away.
MAX_KEYS, SWEEP_EVERY = 10_000, 64
#: Bytes of an answer that are kept.
MAX_BODY = 1024 * 1024


class Idempotency:
    """What `Idempotency-Key` needs: one answer per key, kept for 24 hours, the oldest dropped beyond a bound."""

    def __init__(self, units: Units) -> None:
        self._units = units
        self._calls = itertools.count(1)

    async def begin(self, key: str, request_hash: bytes) -> IdempotencyRow:
        """Take a key, or return what is known of it.

        Raises `Conflict` when the key was used with another request, or when the first request is still being done
        (one that died in the middle gives the key back after 60 s, with the same token).
        """
        if not 1 <= len(key) <= 255:
            raise InvalidInput("an Idempotency-Key has 1 to 255 characters", field="Idempotency-Key")
        sweep = next(self._calls) % SWEEP_EVERY == 0

        def unit(cursor: Cursor) -> IdempotencyRow:
            if sweep:
                _prune(cursor)
            return _begin(cursor, key, request_hash)

        return await self._units.run(unit, name="idempotency.begin")

    async def finish(self, key: str, status: int, body: bytes) -> None:
        """Keep the answer. One larger than `MAX_BODY` is not kept: the request may then be repeated."""
        if len(body) > MAX_BODY:
            await self.abandon(key)
            return

        def unit(cursor: Cursor) -> None:
            cursor.execute(
                "update idempotency_keys set state = 'finished', status = %s, body = %s "
                "where key = %s and state <> 'finished'",
                (status, body, key),
            )

        await self._units.run(unit, name="idempotency.finish")

    async def abandon(self, key: str) -> None:
        """Give the key back unanswered: the request failed in a way that may be tried again. The token is kept."""

        def unit(cursor: Cursor) -> None:
            cursor.execute("update idempotency_keys set state = 'abandoned' where key = %s and state = 'begun'", (key,))

        await self._units.run(unit, name="idempotency.abandon")

    async def prune(self) -> int:
        """Delete expired keys, and the oldest beyond the bound; return how many."""
        return await self._units.run(_prune, name="idempotency.prune")


def _begin(cursor: Cursor, key: str, request_hash: bytes) -> IdempotencyRow:
    cursor.execute("delete from idempotency_keys where key = %s and expires_at <= now()", (key,))
    cursor.execute(
        "insert into idempotency_keys (key, request_hash, token, expires_at) "
        "values (%s, %s, %s, now() + make_interval(secs => %s)) on conflict (key) do nothing returning token",
        (key, request_hash, new_id(), KEPT),
    )
    made = cursor.fetchone()
    if made is not None:
        return IdempotencyRow(key, made["token"], fresh=True)
    cursor.execute(
        "select *, begun_at < now() - make_interval(secs => %s) as stale from idempotency_keys "
        "where key = %s for update",
        (TAKEN_OVER_AFTER, key),
    )
    row = cursor.fetchone()
    if row is None:
        raise Conflict("this Idempotency-Key expired just now", field="Idempotency-Key", fix="send the request again")
    if bytes(row["request_hash"]) != request_hash:
        raise Conflict(
            "this Idempotency-Key was used with another request",
            field="Idempotency-Key",
            code="idempotency-key-reused",
            fix="use a new key for every request that is not a repetition",
        )
    if row["state"] == "finished":
        return IdempotencyRow(key, row["token"], fresh=False, status=row["status"], body=bytes(row["body"]))
    if row["state"] == "begun" and not row["stale"]:
        raise Conflict(
            "the first request with this Idempotency-Key is still being done",
            field="Idempotency-Key",
            code="request-in-progress",
            fix="wait a moment and send it again",
        )
    cursor.execute("update idempotency_keys set state = 'begun', begun_at = now() where key = %s", (key,))
    return IdempotencyRow(key, row["token"], fresh=True)


def _prune(cursor: Cursor) -> int:
    cursor.execute(
        "delete from idempotency_keys where expires_at <= now() or key in "
        "(select key from idempotency_keys order by begun_at desc offset %s)",
        (MAX_KEYS,),
    )
    return cursor.rowcount
