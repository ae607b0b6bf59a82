"""What a new host and one of the cluster say to each other, as bytes and values; no IO.

First the host of the cluster shows its authority's certificate, before anything else, to whoever comes. The new one
compares it with the fingerprint in its token, comes again over TLS that this authority vouches for, and only then says
the token's secret.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from actors.model.errors import Failed, InvalidInput, Problem
from runtime.links import cbor
from runtime.links.errors import Garbage
from zeitwork.trust import certificates
from zeitwork.trust.token import Token

#: Bytes of a message either way.
LONGEST = 32 * 1024
#: The only version so far.
VERSION = 1
#: Paths on the port for links.
SHOW, JOIN = "/trust", "/join"


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """Who wants to join. ``request`` asks to sign its key."""

    token: UUID
    secret: bytes
    host: UUID
    hostname: str
    request: bytes

    def __repr__(self) -> str:
        return f"<JoinRequest of {self.hostname} {self.host}>"


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a new host must know. ``database``: a DSN, or None for the tunnel to the cluster's embedded Postgres.

    ``peer`` is the host that has let it in.
    """

    certificate: str
    authority: str
    cluster: UUID
    database: str | None
    peer: UUID
    version: int = VERSION

    def __repr__(self) -> str:
        return f"<Welcome to {self.cluster}>"


def encode_authority(certificate: str) -> bytes:
    """Return the first thing that is said."""
    return cbor.encode({"version": VERSION, "authority": certificate})


def check_authority(message: bytes, token: Token) -> str:
    """Return the authority's certificate if it is the one that the token was made for. Raises `Failed`."""
    content = _decode(message, "the host at the join address")
    certificate = content.get("authority")
    try:
        shown = certificates.fingerprint(certificate) if isinstance(certificate, str) else b""
    except ValueError:
        shown = b""
    if not hmac.compare_digest(shown, token.fingerprint):
        raise Failed(
            "the host at the join address does not belong to the cluster that the token is for",
            field="join",
            code="wrong-cluster",
            fix="check the address; if it is right, somebody may be listening in between",
        )
    assert isinstance(certificate, str)
    return certificate


def encode_request(asked: JoinRequest) -> bytes:
    """Return the request's bytes."""
    return cbor.encode(
        {
            "version": VERSION,
            "token": asked.token.bytes,
            "secret": asked.secret,
            "host": asked.host.bytes,
            "hostname": asked.hostname,
            "request": asked.request,
        }
    )


def decode_request(message: bytes) -> JoinRequest:
    """Return the request. Raises `InvalidInput`."""
    try:
        content = _decode(message, "the new host")
    except Failed as error:
        raise InvalidInput(error.detail, field="join") from None
    if content.get("version") != VERSION:
        raise InvalidInput(
            f"joining is version {VERSION} here, the new host speaks {content.get('version')!r:.20}",
            field="version",
            fix="install the version of Zeitwork that this cluster runs",
        )
    hostname = content.get("hostname")
    if not isinstance(hostname, str) or not 0 < len(hostname) <= 253 or not hostname.isprintable():
        raise InvalidInput("the host's name is not a text of at most 253 characters", field="hostname")
    secret, request = _bytes(content, "secret", 64), _bytes(content, "request")
    return JoinRequest(_uuid(content, "token"), secret, _uuid(content, "host"), hostname, request)


def encode_welcome(welcome: Welcome) -> bytes:
    """Return the answer's bytes."""
    return cbor.encode(
        {
            "version": welcome.version,
            "certificate": welcome.certificate,
            "authority": welcome.authority,
            "cluster": welcome.cluster.bytes,
            "database": welcome.database,
            "peer": welcome.peer.bytes,
        }
    )


def encode_problem(problem: Problem) -> bytes:
    """Return the bytes of a refusal."""
    words = {"code": problem.code, "detail": problem.detail, "field": problem.field, "fix": problem.fix}
    return cbor.encode({"version": VERSION, "problem": {**words, "status": problem.status}})


def decode_welcome(message: bytes, *, key: str, authority: str) -> Welcome:
    """Return the answer. Raises `Failed`, or the refusal as a `Problem`."""
    content = _decode(message, "the host at the join address")
    problem = content.get("problem")
    if isinstance(problem, dict):
        words = {name: value for name in ("field", "fix", "code") if isinstance(value := problem.get(name), str)}
        status = problem.get("status")
        raise Problem(str(problem.get("detail"))[:500], status=status if isinstance(status, int) else 500, **words)
    try:
        certificate, database = content["certificate"], content["database"]
        cluster, peer = UUID(bytes=content["cluster"]), UUID(bytes=content["peer"])
        if content["authority"] != authority or not certificates.belongs(certificate, key):
            raise ValueError("it is for another key or of another authority")
        if not (database is None or isinstance(database, str)):
            raise ValueError("the database is no text")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Failed(f"the answer of the host that was asked can't be used: {error!r}", code="bad-answer") from None
    return Welcome(certificate, authority, cluster, database, peer)


def _decode(message: bytes, whose: str) -> dict[str, Any]:
    try:
        if len(message) > LONGEST or cbor.measure(message) != len(message):
            raise Garbage("too long")
        content = cbor.decode(message)
    except Garbage as error:
        raise Failed(f"what {whose} says can't be read: {error}", code="bad-answer") from None
    if not isinstance(content, dict):
        raise Failed(f"what {whose} says can't be read: no map", code="bad-answer")
    return content


def _bytes(content: dict[str, Any], name: str, longest: int = certificates.LONGEST_REQUEST) -> bytes:
    value = content.get(name)
    if not isinstance(value, bytes) or len(value) > longest:
        raise InvalidInput(f"{name} is not at most {longest} bytes", field=name)
    return value


def _uuid(content: dict[str, Any], name: str) -> UUID:
    value = content.get(name)
    if not isinstance(value, bytes) or len(value) != 16:
        raise InvalidInput(f"{name} is not 16 bytes", field=name)
    return UUID(bytes=value)
