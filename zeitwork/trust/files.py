"""A host's key and certificates in its data directory: 0600, replaced as a whole or not at all."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from actors.model.errors import Failed
from runtime.links.transport import Contexts
from zeitwork.trust import certificates

_BEGIN = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a host shows to others, and what it knows them by. All PEM."""

    key: str
    certificate: str
    authority: str

    def __repr__(self) -> str:
        return "<Credentials>"


class TrustFiles:
    """``DIRECTORY/host.pem`` holds key, certificate and authority in one file, so that they always fit each other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "host.pem"
        #: Settings made of the file, and which file that was.
        self._made: tuple[tuple[int, ...], Contexts] | None = None

    def load(self) -> Credentials | None:
        """Return what is there, None when the host never had any. Raises `Failed` for a file that is of no use."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise self._useless(str(error)) from error
        parts = text.split(_BEGIN)
        if len(parts) != 3:
            raise self._useless("it holds no key and two certificates")
        loaded = Credentials(parts[0], _BEGIN + parts[1], _BEGIN + parts[2])
        try:
            if not certificates.belongs(loaded.certificate, loaded.key):
                raise self._useless("the certificate is not for the key")
            certificates.fingerprint(loaded.authority)
        except ValueError as error:
            raise self._useless(str(error)) from error
        return loaded

    def save(self, credentials: Credentials) -> None:
        """Replace what is there. Raises `OSError`; then the old file is as it was."""
        replace_file(self.path, credentials.key + credentials.certificate + credentials.authority)

    def remove(self) -> None:
        """Forget the cluster. Harmless when there is nothing."""
        self.path.unlink(missing_ok=True)

    def contexts(self) -> Contexts:
        """Return TLS settings made of the file as it is now. Raises `Failed` without one.

        Made once for each file: whoever connects without being anybody must not cost the milliseconds that takes.
        """
        try:
            is_now = self.path.stat()
        except OSError as error:
            raise self._useless(error.strerror or str(error)) from error
        which = (is_now.st_dev, is_now.st_ino, is_now.st_size, is_now.st_mtime_ns)
        if self._made is None or self._made[0] != which:
            self._made = which, self._contexts()
        return self._made[1]

    def _contexts(self) -> Contexts:
        credentials = self.load()
        if credentials is None:
            raise self._useless("it does not exist")
        server = base_context(ssl.PROTOCOL_TLS_SERVER)
        # New hosts have no certificate yet; links refuse peers without one.
        server.verify_mode = ssl.CERT_OPTIONAL
        server.num_tickets = 0
        client = base_context(ssl.PROTOCOL_TLS_CLIENT)
        for context in (server, client):
            context.load_verify_locations(cadata=credentials.authority)
            context.load_cert_chain(self.path)
        return Contexts(server, client)

    def _useless(self, why: str) -> Failed:
        return Failed(
            f"{self.path} can't be used: {why}",
            field="data_dir",
            code="no-certificate",
            fix=f"remove {self.path} and join the cluster anew",
        )


def replace_file(path: Path, content: str) -> None:
    """Write a file that only its owner may read, 0600 in a directory that is made 0700, as a whole or not at all.

    It lasts from then on. Raises `OSError`; then what was there is as it was.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid4().hex}{path.suffix}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def base_context(protocol: int) -> ssl.SSLContext:
    """Return a context that speaks TLS 1.3 and trusts nobody yet. Names are checked by who uses it."""
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if protocol == ssl.PROTOCOL_TLS_CLIENT:
        context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def trust_directory(data: Path) -> Path:
    """Return where a host with this data directory keeps them."""
    return data / "trust"
