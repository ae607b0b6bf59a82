"""What a new host and one of the cluster say to each other, as bytes and values; no IO.

First the host of the cluster shows its authority's certificate, before anything else, to whoever comes. The new one
compares it with the fingerprint in its token, comes again over TLS that this authority vouches for, and only then says
the token's secret.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
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
    """Who wants to join. ``request`` asks to sign its key.

    ``node`` is what it was invited as. ``database``: it has a DSN of its own, and needs none of the cluster's.
    """

    token: UUID
    secret: bytes
    host: UUID
    hostname: str
    request: bytes
    node: UUID | None = None
    database: bool = False

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
    content = decode_map(message, "the host at the join address")
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
    content: dict[str, object] = {
        "version": VERSION,
        "token": asked.token.bytes,
        "secret": asked.secret,
        "host": asked.host.bytes,
        "hostname": asked.hostname,
        "request": asked.request,
        "database": asked.database,
    }
    # Hosts of before there were invitations ignore what they do not know.
    return cbor.encode(content | ({} if asked.node is None else {"node": asked.node.bytes}))


def decode_request(message: bytes) -> JoinRequest:
    """Return the request. Raises `InvalidInput`."""
    try:
        content = decode_map(message, "the new host")
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
    secret, request = byte_string(content, "secret", 64), byte_string(content, "request")
    return JoinRequest(
        identifier(content, "token"),
        secret,
        identifier(content, "host"),
        hostname,
        request,
        node=identifier(content, "node") if "node" in content else None,
        database=content.get("database") is True,
    )


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
    content = decode_map(message, "the host at the join address")
    problem = refusal_of(content)
    if problem is not None:
        raise problem
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


def refusal_of(content: Mapping[str, Any]) -> Problem | None:
    """Return the refusal that a message holds, None for one that holds none."""
    problem = content.get("problem")
    if not isinstance(problem, dict):
        return None
    words = {name: value[:500] for name in ("field", "fix", "code") if isinstance(value := problem.get(name), str)}
    status = problem.get("status")
    return Problem(str(problem.get("detail"))[:500], status=status if isinstance(status, int) else 500, **words)


def decode_map(message: bytes, whose: str) -> dict[str, Any]:
    """Return a message's content. Raises `Failed` for what is no map, or too long."""
    try:
        if len(message) > LONGEST or cbor.measure(message) != len(message):
            raise Garbage("too long")
        content = cbor.decode(message)
    except Garbage as error:
        raise Failed(f"what {whose} says can't be read: {error}", code="bad-answer") from None
    if not isinstance(content, dict):
        raise Failed(f"what {whose} says can't be read: no map", code="bad-answer")
    return content


def byte_string(content: Mapping[str, Any], name: str, longest: int = certificates.LONGEST_REQUEST) -> bytes:
    """Return bytes out of a message. Raises `InvalidInput`."""
    value = content.get(name)
    if not isinstance(value, bytes) or len(value) > longest:
        raise InvalidInput(f"{name} is not at most {longest} bytes", field=name)
    return value


def identifier(content: Mapping[str, Any], name: str) -> UUID:
    """Return an id out of a message. Raises `InvalidInput`."""
    value = content.get(name)
    if not isinstance(value, bytes) or len(value) != 16:
        raise InvalidInput(f"{name} is not 16 bytes", field=name)
    return UUID(bytes=value)
