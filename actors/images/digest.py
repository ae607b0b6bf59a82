"""Content digests: ``sha256:`` and 64 hexadecimal digits, the only algorithm that is accepted."""

from __future__ import annotations

import hashlib
import re

from actors.images.problems import ImageRefused

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_digest(text: object) -> bool:
    """Return whether ``text`` is a well-formed sha256 digest."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def checked_digest(text: object, what: str) -> str:
    """Return ``text`` if it is a digest. Raises `ImageRefused` that names ``what`` (digests become file names)."""
    if isinstance(text, str) and _DIGEST.fullmatch(text):
        return text
    shown = repr(text)[:80]
    raise ImageRefused(f"{what} has no sha256 digest: {shown}", fix="push or save the image again with a current tool")


def digest_of(data: bytes) -> str:
    """Return the digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def hex_of(digest: str) -> str:
    """Return the hexadecimal part of a checked digest: it names files."""
    return digest.removeprefix("sha256:")
