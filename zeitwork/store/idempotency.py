"""Answers kept for repeated requests. Writes the table ``idempotency_keys``."""

from __future__ import annotations

from zeitwork.store.rows import IdempotencyRow
from zeitwork.store.units import Units


class Idempotency:
    """What `Idempotency-Key` needs: one answer per key, kept for 24 hours, the oldest dropped beyond a bound."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def begin(self, key: str, request_hash: bytes) -> IdempotencyRow:
        """Take a key, or return what is known of it.

        Raises `Conflict` when the key was used with another request, or when the first request is still being done
        (one that died in the middle gives the key back after 60 s, with the same token).
        """
        raise NotImplementedError

    async def finish(self, key: str, status: int, body: bytes) -> None:
        """Keep the answer."""
        raise NotImplementedError

    async def abandon(self, key: str) -> None:
        """Give the key back unanswered: the request failed in a way that may be tried again. The token is kept."""
        raise NotImplementedError

    async def prune(self) -> int:
        """Delete expired keys; return how many."""
        raise NotImplementedError
