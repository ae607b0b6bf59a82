"""Identifiers: UUIDv7 (RFC 9562) and the short form that fits interface names and socket paths."""

from __future__ import annotations

from uuid import UUID

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"


def uuid7(unix_ms: int, entropy: bytes) -> UUID:
    """Return a UUIDv7 from a Unix time in milliseconds and ten random bytes.

    Both are given so that simulated code stays deterministic. Raises `ValueError` on fewer than ten bytes or a time
    that does not fit 48 bits.
    """
    if len(entropy) < 10:
        raise ValueError("uuid7 needs ten random bytes")
    if not 0 <= unix_ms < 1 << 48:
        raise ValueError("unix_ms must fit 48 bits")
    random = int.from_bytes(entropy[:10], "big")
    rand_a, rand_b = random >> 68, random & ((1 << 62) - 1)
    return UUID(int=unix_ms << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b)


def short_id(identifier: UUID) -> str:
    """Return ten base32 characters of a UUIDv7's random part (50 bits): a TAP name may have 15, a socket path 108."""
    bits = identifier.int & ((1 << 50) - 1)
    return "".join(_BASE32[bits >> shift & 31] for shift in range(45, -1, -5))
