"""Image references, read as Docker reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from actors.images.digest import is_digest
from actors.images.problems import BadReference

_EXAMPLE = "write for example nginx, ghcr.io/owner/app:1.2 or localhost:5000/app"
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?")
_HUB = "docker.io"


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is. ``registry`` is a host with an optional port; ``digest`` wins over ``tag`` when both are."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def manifest(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag or "latest"

    @property
    def api_host(self) -> str:
        """The host and port that answer the registry's API."""
        return "registry-1.docker.io" if self.registry == _HUB else self.registry

    @property
    def is_loopback(self) -> bool:
        """Whether the registry is on this machine: the only ones that may speak plain HTTP."""
        return is_loopback(self.api_host)

    @property
    def scheme(self) -> str:
        """``https``, or ``http`` for a registry on this machine."""
        return "http" if self.is_loopback else "https"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def is_loopback(host: str) -> bool:
    """Return whether ``host`` (with or without a port or brackets) is localhost, in 127.0.0.0/8, or ::1."""
    if host.startswith("["):
        name = host[1 : host.find("]")]
    else:
        name = host if host.count(":") > 1 else host.partition(":")[0]
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def parse_reference(text: object) -> Reference:
    """Return the reference that ``text`` spells; without a registry it is Docker Hub's, without a tag ``latest``.

    Raises `BadReference` (field ``reference``).
    """
    if not isinstance(text, str) or not text.strip():
        raise BadReference("the image reference is empty", _EXAMPLE)
    text = text.strip()
    if len(text) > 500:
        raise BadReference(f"the image reference is {len(text)} characters long; 500 are allowed", _EXAMPLE)
    if "://" in text:
        scheme, _, rest = text.partition("://")
        raise BadReference(f"an image reference has no {scheme}:// in front", f"write {rest or 'the name alone'}")
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise BadReference(f"{digest!r} is not a digest", "write @sha256: and 64 hexadecimal digits, or leave it out")
    registry, path = _split_registry(name)
    path, tag = _split_tag(path, text)
    if registry == _HUB and "/" not in path:
        path = f"library/{path}"
    _check_repository(path, text)
    return Reference(registry, path, tag or (None if at else "latest"), digest or None)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    looks_like_host = "." in first or ":" in first or first.startswith("[") or first.lower() == "localhost"
    if not slash or not (looks_like_host or first != first.lower()):
        return _HUB, name
    if not _HOST.fullmatch(first):
        raise BadReference(f"{first!r} is not a registry's host name", _EXAMPLE)
    port = first.rpartition("]")[2].partition(":")[2]
    if port and not 0 < int(port) < 65536:
        raise BadReference(f"port {port} of registry {first!r} is not between 1 and 65535", _EXAMPLE)
    if first.startswith("["):
        _check_ipv6(first)
    host = first.lower()
    return (_HUB if host in ("index.docker.io", "registry-1.docker.io") else host), rest


def _check_ipv6(host: str) -> None:
    try:
        ip_address(host[1 : host.find("]")])
    except ValueError:
        raise BadReference(f"{host!r} is not an IPv6 address in brackets", "write for example [::1]:5000/app") from None


def _split_tag(path: str, text: str) -> tuple[str, str | None]:
    path, colon, tag = path.partition(":")
    if not colon:
        return path, None
    if not _TAG.fullmatch(tag):
        raise BadReference(
            f"{tag!r} in {text!r} is not a tag",
            "a tag has up to 128 letters, digits, dots, dashes and underscores and starts with a letter, digit or _",
        )
    return path, tag


def _check_repository(path: str, text: str) -> None:
    if path != path.lower():
        raise BadReference(f"the repository name in {text!r} has capital letters", f"write {path.lower()!r}")
    if len(path) > 255:
        raise BadReference("the repository name is longer than 255 characters", _EXAMPLE)
    for component in path.split("/"):
        if not _COMPONENT.fullmatch(component):
            raise BadReference(f"{component!r} in {text!r} is not part of a repository name", _EXAMPLE)
