"""Credentials for registries, from the file that ``docker login`` writes."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from pathlib import Path

from actors.model.errors import Failed

_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user with a password, or an identity token that is exchanged for access tokens."""

    user: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """Return the value of a basic ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")


def credentials_for(registry: str, config: Path | None) -> Credentials | None:
    """Return what a Docker ``config.json`` says about a registry; None without the file or an entry. Blocking.

    Raises `Failed` when the file is there and can't be read, or names a credential helper for this registry
    (helpers run programs that belong to a person's session, so they are not called).
    """
    if config is None:
        return None
    try:
        document = json.loads(config.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise Failed(f"the registry credentials in {config} can't be read: {error}", fix="write it anew") from None
    if not isinstance(document, dict):
        raise Failed(f"the registry credentials in {config} are not a JSON object", fix="write the file anew")
    keys = _HUB_KEYS if registry == "docker.io" else (registry, f"https://{registry}", f"https://{registry}/v2/")
    auths, helpers = document.get("auths"), document.get("credHelpers")
    for key in keys:
        entry = auths.get(key) if isinstance(auths, dict) else None
        if isinstance(entry, dict) and (found := _entry(entry)) is not None:
            return found
        if isinstance(helpers, dict) and key in helpers:
            raise Failed(
                f"{config} names a credential helper for {registry}, and Zeitwork calls none",
                fix="put the registry's auth into the file itself (docker login with no credsStore set)",
            )
    return None


def _entry(entry: dict[str, object]) -> Credentials | None:
    token = entry.get("identitytoken")
    user, password = entry.get("username"), entry.get("password")
    encoded = entry.get("auth")
    if isinstance(encoded, str) and encoded:
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
    if isinstance(token, str) and token:
        return Credentials(user if isinstance(user, str) else "", "", token)
    if isinstance(user, str) and isinstance(password, str) and user:
        return Credentials(user, password.rstrip("\0"))
    return None
