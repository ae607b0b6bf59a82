"""Join tokens: what a person carries from the cluster to a new host. One text, used once, for a short time."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from actors.model.errors import InvalidInput

_PREFIX = "zwt1_"
_ID, _SECRET, _FINGERPRINT, _SUM = 16, 24, 32, 4
_FIX = "copy it whole, or make a new one with zeitwork token create on a host of the cluster"


@dataclass(frozen=True, slots=True)
class Token:
    """``fingerprint`` is that of the cluster's authority: the new host knows by it whom it talks to."""

    id: UUID
    secret: bytes
    fingerprint: bytes

    def __str__(self) -> str:
        content = self.id.bytes + self.secret + self.fingerprint
        content += zlib.crc32(content).to_bytes(_SUM, "big")
        return _PREFIX + base64.urlsafe_b64encode(content).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"<Token {self.id}>"

    @property
    def secret_hash(self) -> bytes:
        """What the database keeps of it. The secret is random, so that a plain hash is enough."""
        return hash_secret(self.secret)


def hash_secret(secret: bytes) -> bytes:
    """Return the SHA-256 of a token's secret."""
    return hashlib.sha256(b"zeitwork join token" + secret).digest()


def new_token(fingerprint: bytes, entropy: Callable[[int], bytes]) -> Token:
    """Make a token for the cluster with this authority."""
    return Token(UUID(bytes=entropy(_ID), version=4), entropy(_SECRET), fingerprint)


def parse_token(text: str) -> Token:
    """Return the token that a person gave. Raises `InvalidInput` for one that is incomplete or was changed."""
    text = text.strip()
    if not text.startswith(_PREFIX):
        raise InvalidInput(f"not a join token: those begin with {_PREFIX}", field="token", fix=_FIX)
    body = text.removeprefix(_PREFIX)
    size = _ID + _SECRET + _FINGERPRINT + _SUM
    # Strict: the decoder would skip what is not of its alphabet, and ignore bits beyond the last byte.
    if not re.fullmatch(r"[A-Za-z0-9_-]+", body) or len(body) != (size * 8 + 5) // 6:
        raise InvalidInput("the join token is incomplete or was changed", field="token", fix=_FIX)
    content = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    check = content[-_SUM:]
    content = content[:-_SUM]
    token = Token(UUID(bytes=content[:_ID]), content[_ID : _ID + _SECRET], content[_ID + _SECRET :])
    if zlib.crc32(content).to_bytes(_SUM, "big") != check or str(token) != text:
        raise InvalidInput("the join token is incomplete or was changed", field="token", fix=_FIX)
    return token
