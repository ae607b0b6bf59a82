"""Proving to a registry who asks: basic, or bearer tokens from the place that it names."""

from __future__ import annotations

import json

import httpx
import trio

from actors.images.challenge import Challenge, parse_challenges
from actors.images.credentials import Credentials
from actors.images.problems import RegistryUnavailable
from actors.images.reference import Reference, is_loopback
from actors.model.errors import InvalidInput, Problem

_DEADLINE = 30.0
_MOST = 256 * 1024


def denied(reference: Reference, host: str) -> Problem:
    """Return the problem of a registry that does not let us have the image."""
    return InvalidInput(
        f"{host} denies access to {reference.repository}: it is private, or does not exist",
        field="reference",
        fix="check the name; for a private image put credentials into ~/.docker/config.json of the user that runs "
        "zeitwork (docker login writes it)",
        code="registry-denied",
    )


class Authorization:
    """The ``Authorization`` header for one repository, obtained when the registry asks for it."""

    def __init__(self, client: httpx.AsyncClient, reference: Reference, credentials: Credentials | None) -> None:
        self._client = client
        self._reference = reference
        self._credentials = credentials
        self._lock = trio.Lock()
        self.header: str | None = None

    async def obtain(self, challenge: list[str], used: str | None) -> None:
        """Make ``header`` one that answers the challenge. ``used`` is the header that was just refused.

        Raises `Problem` when there is no way, and `httpx.TransportError` or `trio.TooSlowError` when the place that
        hands out tokens does not answer.
        """
        async with self._lock:
            if self.header != used:
                return  # another download got a new one meanwhile
            offers = {item.scheme: item for item in reversed(parse_challenges(challenge))}
            if "bearer" in offers:
                with trio.fail_after(_DEADLINE):
                    self.header = f"Bearer {await self._token(offers['bearer'])}"
            elif "basic" in offers and self._credentials is not None and used is None:
                self.header = self._credentials.basic()
            else:
                raise denied(self._reference, self._reference.registry)

    async def _token(self, challenge: Challenge) -> str:
        try:
            realm = httpx.URL(challenge.parameters.get("realm", ""))
        except httpx.InvalidURL:
            realm = httpx.URL("")
        loopback = self._reference.is_loopback and is_loopback(realm.host)
        if realm.scheme != "https" and not (realm.scheme == "http" and loopback):
            raise RegistryUnavailable(
                f"registry {self._reference.registry} sends for tokens to {str(realm)[:200]!r}, no HTTPS address",
                "check the registry's configuration",
            )
        scope = challenge.parameters.get("scope") or f"repository:{self._reference.repository}:pull"
        wanted = {"service": challenge.parameters.get("service", ""), "scope": scope}
        request = self._request(realm, wanted)
        answer = await self._client.send(request, stream=True)
        try:
            if answer.status_code in (400, 401, 403, 404):
                raise denied(self._reference, realm.host)
            if answer.status_code != 200:
                raise httpx.RemoteProtocolError(
                    f"{realm.host} answered a request for a token with {answer.status_code}"
                )
            body = bytearray()
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > _MOST:
                    raise httpx.RemoteProtocolError(f"{realm.host} sent a token that is too long")
        finally:
            with trio.move_on_after(2, shield=True):
                await answer.aclose()
        return _token_in(bytes(body), realm.host)

    def _request(self, realm: httpx.URL, wanted: dict[str, str]) -> httpx.Request:
        if self._credentials and self._credentials.identity_token:
            form = {
                **wanted,
                "grant_type": "refresh_token",
                "client_id": "zeitwork",
                "refresh_token": self._credentials.identity_token,
            }
            return self._client.build_request("POST", realm, data=form)
        headers = {"Authorization": self._credentials.basic()} if self._credentials else {}
        return self._client.build_request("GET", realm.copy_merge_params(wanted), headers=headers)


def _token_in(body: bytes, host: str) -> str:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    token = (document.get("token") or document.get("access_token")) if isinstance(document, dict) else None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise httpx.RemoteProtocolError(f"{host} answered a request for a token without one")
    return token
