"""Certificates of the cluster: pure functions of keys, names and the time."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from actors.model.errors import InvalidInput
from runtime.links.transport import Proof, Untrusted

#: Of the authority, and of a host. Hosts renew theirs by themselves before half of it.
AUTHORITY_LIFE = timedelta(days=3650)
HOST_LIFE = timedelta(days=7)
#: How far the clocks of two hosts may differ.
SKEW = timedelta(minutes=5)
_SCHEME = "zeitwork://"
#: Bytes of a request to be signed; ours have about 300.
LONGEST_REQUEST = 4096


@dataclass(frozen=True, slots=True)
class Authority:
    """What signs hosts. Both PEM."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        return f"<Authority {fingerprint(self.certificate).hex()[:16]}>"


def new_key() -> str:
    """Return a new private key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain).decode()


def new_authority(cluster: UUID, now: datetime) -> Authority:
    """Make the authority of a cluster."""
    pem = new_key()
    key = _load_key(pem)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"zeitwork cluster {cluster}")])
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate.public_bytes(serialization.Encoding.PEM).decode(), pem)


def request(key: str) -> bytes:
    """Return a request (PKCS #10, DER) to have the public half of a key signed."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(_load_key(key), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def public_key_hash(asked: bytes) -> bytes:
    """Return the SHA-256 of the public key in a request whose own signature is right. Raises `InvalidInput`."""
    public = _checked(asked).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, form)).digest()


def sign(
    authority: Authority, asked: bytes, *, cluster: UUID, host: UUID, now: datetime, life: timedelta = HOST_LIFE
) -> str:
    """Return a certificate (PEM) for a host. Of the request only its key counts. Raises `InvalidInput`."""
    public = _checked(asked).public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise InvalidInput("a host's key is one of the curve P-256", field="csr")
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    key = _load_key(authority.key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"zeitwork host {host}")]))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{_SCHEME}{cluster}/{host}")]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def fingerprint(certificate: str) -> bytes:
    """Return the SHA-256 of a certificate's DER. Raises `ValueError`."""
    return x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256())


def digest(certificate: bytes) -> bytes:
    """Return the fingerprint of a certificate that is DER already."""
    return hashlib.sha256(certificate).digest()


def validity(certificate: str) -> tuple[float, float]:
    """Return from when and until when a certificate is valid, in seconds since 1970. Raises `ValueError`."""
    loaded = x509.load_pem_x509_certificate(certificate.encode())
    return loaded.not_valid_before_utc.timestamp(), loaded.not_valid_after_utc.timestamp()


def named(certificate: str) -> tuple[UUID, UUID] | None:
    """Return cluster and host that a certificate (PEM) names, None for none. Raises `ValueError`."""
    loaded = x509.load_pem_x509_certificate(certificate.encode())
    try:
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    shown = {"subjectAltName": [("URI", uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)]}
    try:
        return host_of(shown)
    except Untrusted:
        return None


def belongs(certificate: str, key: str) -> bool:
    """Tell whether a certificate is for this private key. Raises `ValueError`."""
    loaded = x509.load_pem_x509_certificate(certificate.encode())
    return loaded.public_key() == _load_key(key).public_key()


def host_of(certificate: Mapping[str, Any], cluster: UUID | None = None) -> tuple[UUID, UUID]:
    """Return cluster and host that a verified certificate names, as ``getpeercert`` gives it. Raises `Untrusted`."""
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(names) != 1 or not names[0].startswith(_SCHEME):
        raise Untrusted("the certificate names no host of a cluster")
    try:
        named, host = map(UUID, names[0].removeprefix(_SCHEME).split("/"))
    except ValueError:
        raise Untrusted(f"the certificate names no host: {names[0][:100]!r}") from None
    if cluster is not None and named != cluster:
        raise Untrusted(f"the certificate is for cluster {named}, this is {cluster}")
    return named, host


def prove(certificate: Mapping[str, Any], cluster: UUID) -> Proof:
    """Return what a peer's verified certificate proves. Raises `Untrusted`."""
    _, host = host_of(certificate, cluster)
    return Proof(host, float(ssl.cert_time_to_seconds(certificate["notAfter"])))


def now() -> datetime:
    """Return the time of day, in UTC."""
    return datetime.now(UTC)


def _load_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a key of an elliptic curve")
    return key


def _checked(asked: bytes) -> x509.CertificateSigningRequest:
    if len(asked) > LONGEST_REQUEST:
        raise InvalidInput("the signing request is too long", field="csr")
    try:
        loaded = x509.load_der_x509_csr(asked)
        valid = loaded.is_signature_valid
    except Exception as error:
        # The parser has its own errors for what is wrong inside, and they are not all of one family.
        raise InvalidInput(f"not a signing request: {error}", field="csr") from None
    if not valid:
        raise InvalidInput("the signing request is not signed by its own key", field="csr")
    return loaded


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
