"""Manifests and indexes, OCI and Docker: which one is ours, which configuration, which layers."""

from __future__ import annotations

from dataclasses import dataclass

from actors.images.config import load_object
from actors.images.digest import checked_digest
from actors.images.limits import DEFAULT_LIMITS, Limits
from actors.images.problems import ImageRefused

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
ACCEPT = ", ".join((OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_INDEX))

_LAYERS = frozenset(
    f"application/vnd.{kind}"
    for kind in (
        "oci.image.layer.v1.tar",
        "oci.image.layer.v1.tar+gzip",
        "oci.image.layer.v1.tar+zstd",
        "docker.image.rootfs.diff.tar",
        "docker.image.rootfs.diff.tar.gzip",
        "docker.image.rootfs.diff.tar.zstd",
    )
)
_CONFIGS = frozenset({"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"})
_AGAIN = "push or save the image again with a current tool"
_OTHER_PLATFORM = "build and push it for linux/amd64, for example with docker buildx build --platform linux/amd64"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to content: its media type, digest and size in bytes."""

    media_type: str
    digest: str
    size: int
    platform: tuple[str, str] | None = None  # (os, architecture)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image of one platform; layers lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def size(self) -> int:
        """Bytes to download."""
        return self.config.size + sum(layer.size for layer in self.layers)


def parse_document(data: bytes, media_type: str | None, limits: Limits = DEFAULT_LIMITS) -> Manifest | list[Descriptor]:
    """Return a manifest, or the descriptors of an index. ``media_type`` is what the sender called it, if anything.

    Raises `ImageRefused`.
    """
    if len(data) > limits.manifest:
        raise ImageRefused(f"the manifest is larger than {limits.manifest} bytes", fix=_AGAIN)
    document = load_object(data, "the manifest")
    kind = document.get("mediaType") or (media_type or "").partition(";")[0].strip()
    if document.get("schemaVersion") == 1:
        raise ImageRefused("the image has a manifest of Docker's first schema, which is obsolete", fix=_AGAIN)
    if isinstance(document.get("manifests"), list) and kind not in MANIFESTS:
        return _descriptors(document, "manifests", 2000)
    if not isinstance(document.get("layers"), list) or kind in INDEXES:
        raise ImageRefused("the reference leads to something that is not a container image", fix=_AGAIN)
    config = _descriptor(document.get("config"), "the configuration")
    if config.media_type not in _CONFIGS:
        raise ImageRefused(
            f"the reference leads to an artifact that is not a container image ({config.media_type[:100]})",
            fix="check the reference; charts, signatures and the like can't be run",
        )
    if config.size > limits.config:
        raise ImageRefused(f"the image's configuration is larger than {limits.config} bytes", fix=_AGAIN)
    layers = tuple(_descriptors(document, "layers", limits.layers))
    for layer in layers:
        if layer.media_type not in _LAYERS:
            raise ImageRefused(f"layers of type {layer.media_type[:100]} are not supported", fix=_OTHER_PLATFORM)
    manifest = Manifest(config, layers)
    if manifest.size > limits.download:
        raise ImageRefused(
            f"the image is {manifest.size} bytes to download; {limits.download} are allowed",
            fix="make the image smaller",
        )
    return manifest


def choose(descriptors: list[Descriptor]) -> Descriptor:
    """Return the index's entry for linux/amd64. An entry without a platform is taken when it is the only candidate.

    Raises `ImageRefused` that names the platforms there are.
    """
    images = [item for item in descriptors if item.media_type in MANIFESTS | INDEXES]
    for item in images:
        if item.platform == ("linux", "amd64"):
            return item
    unnamed = {item.digest: item for item in images if item.platform is None}
    if len(unnamed) == 1:
        return next(iter(unnamed.values()))
    names = sorted({"/".join(item.platform) for item in images if item.platform} - {"unknown/unknown"})
    there = f"it is there for {', '.join(names[:12])}" if names else "it names no platforms"
    raise ImageRefused(f"the image is not for linux/amd64: {there}", fix=_OTHER_PLATFORM)


def _descriptors(document: dict[str, object], key: str, most: int) -> list[Descriptor]:
    items = document[key]
    if not isinstance(items, list) or len(items) > most:
        raise ImageRefused(f"the manifest lists more than {most} {key}", fix=_AGAIN)
    return [_descriptor(item, f"an entry of {key}") for item in items]


def _descriptor(value: object, what: str) -> Descriptor:
    if not isinstance(value, dict):
        raise ImageRefused(f"{what} of the manifest can't be read", fix=_AGAIN)
    size, media_type = value.get("size"), value.get("mediaType")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0 or not isinstance(media_type, str):
        raise ImageRefused(f"{what} of the manifest has no size or media type", fix=_AGAIN)
    platform = value.get("platform")
    pair = None
    if isinstance(platform, dict):
        pair = (str(platform.get("os", "unknown"))[:40], str(platform.get("architecture", "unknown"))[:40])
    return Descriptor(media_type, checked_digest(value.get("digest"), what), size, pair)
