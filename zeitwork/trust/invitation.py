"""Invitations: what an unclaimed host prints, and what it and a host of the cluster say to each other; no IO.

The unclaimed host listens with a key that nobody knows yet. Its code carries that key's fingerprint and a secret: who
brings the code knows whom it talks to, and says the secret to nobody else. A host that was given a join token needs no
code: it knows the cluster by the token, and has whoever comes prove to be of it; that one tells it no secret.
"""

from __future__ import annotations

import base64
import hmac
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from actors.model.errors import InvalidInput, Problem
from runtime.links import cbor
from runtime.links.transport import Untrusted
from zeitwork.trust import certificates
from zeitwork.trust.exchange import VERSION, byte_string, decode_map, identifier, refusal_of
from zeitwork.trust.files import Credentials

#: Path on the port of an unclaimed host.
PATH = "/invitation"
_PREFIX = "zwi1_"
_SECRET, _FINGERPRINT, _SUM, _NONCE = 16, 16, 4, 32
_FIX = "copy it whole from what the unclaimed host prints"
_PURPOSE = b"zeitwork invitation 1"
#: What a host wants to be shown before it lets itself be invited.
Needs = Literal["code", "cluster"]


@dataclass(frozen=True, slots=True)
class Code:
    """What a person carries from an unclaimed host to the cluster. ``fingerprint``: the beginning of its key's."""

    secret: bytes
    fingerprint: bytes

    def __str__(self) -> str:
        content = self.secret + self.fingerprint
        return _PREFIX + base64.urlsafe_b64encode(content + zlib.crc32(content).to_bytes(_SUM, "big")).decode()

    def __repr__(self) -> str:
        return "<Code>"

    def names(self, fingerprint: bytes) -> bool:
        """Tell whether a certificate with this (whole) fingerprint is the one that the code was printed for."""
        return hmac.compare_digest(self.fingerprint, fingerprint[:_FINGERPRINT])


def new_code(fingerprint: bytes, entropy: Callable[[int], bytes]) -> Code:
    """Make a code for the host whose certificate has this fingerprint."""
    return Code(entropy(_SECRET), fingerprint[:_FINGERPRINT])


def parse_code(text: str) -> Code:
    """Return the code that a person gave. Raises `InvalidInput` for one that is incomplete or was changed."""
    text = text.strip()
    if not text.startswith(_PREFIX):
        raise InvalidInput(f"not the code of an unclaimed host: those begin with {_PREFIX}", field="code", fix=_FIX)
    body = text.removeprefix(_PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", body) or len(body) * 3 != (_SECRET + _FINGERPRINT + _SUM) * 4:
        raise InvalidInput("the code is incomplete or was changed", field="code", fix=_FIX)
    content = base64.urlsafe_b64decode(body)
    check, content = content[-_SUM:], content[:-_SUM]
    if zlib.crc32(content).to_bytes(_SUM, "big") != check:
        raise InvalidInput("the code is incomplete or was changed", field="code", fix=_FIX)
    return Code(content[:_SECRET], content[_SECRET:])


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the unclaimed host says first. ``nonce`` is to be signed by whoever needs to prove its cluster."""

    needs: Needs
    hostname: str
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Invitation:
    """``join`` is where to go, as ``node``; ``secret`` that of the code and ``token`` what lets in, both where needed.

    ``signature`` is of the key of ``certificate``, which ``authority`` signed: over what this invitation is for.
    """

    join: str
    node: UUID
    certificate: str
    authority: str
    signature: bytes
    secret: bytes = b""
    token: str = ""

    def __repr__(self) -> str:
        return f"<Invitation to {self.join} as {self.node}>"


def invite(
    credentials: Credentials, greeting: Greeting, fingerprint: bytes, *, join: str, node: UUID, code: Code | None
) -> Invitation:
    """Return an invitation without its token. ``fingerprint`` is that of the certificate the host has shown.

    The secret is in it only for the host that the code names, and only if it asks for it.
    """
    key = serialization.load_pem_private_key(credentials.key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = key.sign(_signed(greeting.nonce, fingerprint, join, node), ec.ECDSA(hashes.SHA256()))
    secret = code.secret if code is not None and greeting.needs == "code" and code.names(fingerprint) else b""
    return Invitation(join, node, credentials.certificate, credentials.authority, signature, secret)


def check_cluster(offered: Invitation, authority: bytes, nonce: bytes, fingerprint: bytes, now: float) -> None:
    """Raise a `Problem` unless a host of the cluster with this authority (its fingerprint) made this invitation.

    ``nonce`` and ``fingerprint`` (of the certificate that was shown) are this host's, so that nobody in between can
    have passed on what was made for another. ``now`` in seconds since 1970.
    """
    try:
        if not hmac.compare_digest(certificates.fingerprint(offered.authority), authority):
            raise _stranger("it belongs to another cluster")
        leaf = x509.load_pem_x509_certificate(offered.certificate.encode())
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(offered.authority.encode()))
        since, until = certificates.validity(offered.certificate)
        if not since <= now < until:
            raise _stranger("its certificate is not valid now: do both clocks agree?")
        if certificates.named(offered.certificate) is None:
            raise _stranger("its certificate names no host")
        key = leaf.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise _stranger("its key is of another kind")
        signed = _signed(nonce, fingerprint, offered.join, offered.node)
        key.verify(offered.signature, signed, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, TypeError, Untrusted):
        raise _stranger("it can't prove it") from None


def check_secret(offered: Invitation, code: Code) -> bool:
    """Tell whether whoever made this invitation knows the code."""
    return hmac.compare_digest(offered.secret, code.secret)


def encode_greeting(greeting: Greeting) -> bytes:
    """Return the first thing that is said."""
    content = {"version": VERSION, "needs": greeting.needs, "hostname": greeting.hostname, "nonce": greeting.nonce}
    return cbor.encode(content)


def decode_greeting(message: bytes) -> Greeting:
    """Return what the unclaimed host says. Raises `Failed`, or `InvalidInput` for another version's."""
    content = _decode(message, "the host at that address")
    needs, hostname = content.get("needs"), content.get("hostname")
    if needs not in ("code", "cluster"):
        raise InvalidInput(f"the host at that address wants something unknown: {needs!r:.40}", field="needs")
    if not isinstance(hostname, str) or len(hostname) > 253 or not hostname.isprintable():
        raise InvalidInput("its name is not a text of at most 253 characters", field="hostname")
    nonce = byte_string(content, "nonce", _NONCE)
    if len(nonce) != _NONCE:
        raise InvalidInput(f"nonce is not {_NONCE} bytes", field="nonce")
    return Greeting(needs, hostname, nonce)


def encode_invitation(invitation: Invitation, token: str = "") -> bytes:
    """Return the bytes of the invitation, with that token if there is one."""
    return cbor.encode(
        {
            "version": VERSION,
            "join": invitation.join,
            "node": invitation.node.bytes,
            "certificate": invitation.certificate,
            "authority": invitation.authority,
            "signature": invitation.signature,
            "secret": invitation.secret,
            "token": token or invitation.token,
        }
    )


def decode_invitation(message: bytes) -> Invitation:
    """Return the invitation. Raises `Failed` or `InvalidInput`."""
    content = _decode(message, "who invites")
    texts = {}
    for name in ("join", "certificate", "authority", "token"):
        value = content.get(name)
        if not isinstance(value, str) or len(value) > 8192:
            raise InvalidInput(f"{name} is not a text", field=name)
        texts[name] = value
    return Invitation(
        join=texts["join"],
        node=identifier(content, "node"),
        certificate=texts["certificate"],
        authority=texts["authority"],
        signature=byte_string(content, "signature", 256),
        secret=byte_string(content, "secret", 64),
        token=texts["token"],
    )


def encode_joined(host: UUID) -> bytes:
    """Return what a host says that has joined as it was invited to."""
    return cbor.encode({"version": VERSION, "joined": host.bytes})


def decode_joined(message: bytes) -> UUID:
    """Return which host has joined. Raises its refusal as a `Problem`, or `Failed` or `InvalidInput`."""
    content = _decode(message, "the invited host")
    problem = refusal_of(content)
    if problem is not None:
        raise problem
    return identifier(content, "joined")


def _signed(nonce: bytes, fingerprint: bytes, join: str, node: UUID) -> bytes:
    # Parts of fixed length first: nothing can be read in two ways.
    return _PURPOSE + nonce + fingerprint + node.bytes + join.encode()


def _decode(message: bytes, whose: str) -> dict[str, object]:
    content = decode_map(message, whose)
    if content.get("version") != VERSION:
        raise InvalidInput(
            f"invitations are version {VERSION} here, {whose} speaks {content.get('version')!r:.20}",
            field="version",
            fix="install the version of Zeitwork that the cluster runs",
        )
    return content


def _stranger(why: str) -> Problem:
    return Problem(
        f"who invites is not of the cluster that this host's token is for: {why}",
        field="token",
        code="wrong-cluster",
        status=403,
        fix="invite it from the cluster whose token it was given, or start it without a token and bring its code",
    )
