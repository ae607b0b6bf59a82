"""Archives: what ``docker save`` writes (old and new) and OCI layouts as tar; plain, gzip or zstd.

Blobs are used where they lie in the archive; only a compressed archive is unpacked, as one tar file. Blocking: use it
in a worker thread.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from actors.images.config import ParsedConfig, parse_config
from actors.images.decompress import Budget, Slice, Unpacked, compression
from actors.images.digest import digest_of, hex_of
from actors.images.layers import Layer
from actors.images.limits import DEFAULT_LIMITS, Limits
from actors.images.manifest import INDEXES, MANIFESTS, Descriptor, choose, parse_document
from actors.images.problems import ImageRefused
from actors.images.tar_reader import Kind, TarReader, components, shown
from actors.model.image import ImageConfig

_FIX = "make it with docker save IMAGE, or as a tar of an OCI layout"
_LAYOUT, _INDEX, _LEGACY = "oci-layout", "index.json", "manifest.json"
_NAMED_BY_DIGEST = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?")


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image whose parts are all on this host. ``digest`` names it: the manifest's, or else the configuration's."""

    digest: str
    config: ImageConfig
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """Stored bytes of the layers."""
        return sum(layer.data.size for layer in self.layers)


def open_archive(
    path: Path, work: Path, checkpoint: Callable[[int], None], limits: Limits = DEFAULT_LIMITS
) -> LocalImage:
    """Return the image in an archive. ``work`` is a directory for the unpacked tar of a compressed one.

    ``checkpoint`` gets the count of stored bytes read, from time to time; it may raise. Raises `ImageRefused`.
    """
    whole = Slice(path, 0, path.stat().st_size)
    if whole.size == 0:
        raise ImageRefused("the archive is empty", fix=_FIX)
    if compression(whole) != "plain":
        whole = _unpack(whole, work / "archive.tar", checkpoint, limits)
    archive = _Archive(whole, checkpoint, limits)
    if archive.has(_LAYOUT) and archive.has(_INDEX):
        return _from_layout(archive, limits)
    if archive.has(_LEGACY):
        return _from_docker(archive, limits)
    raise ImageRefused("the archive holds neither a docker save image nor an OCI layout", fix=_FIX)


def _unpack(packed: Slice, target: Path, checkpoint: Callable[[int], None], limits: Limits) -> Slice:
    last = 0

    def report(total: int) -> None:
        nonlocal last
        checkpoint(total - last)
        last = total

    with target.open("xb") as file, Unpacked(packed, Budget(limits), report) as unpacked:
        while data := unpacked.chunk():
            file.write(data)
        return Slice(target, 0, unpacked.produced)


class _Archive:
    """The members of an archive by name: each a range of its file, or another name."""

    def __init__(self, whole: Slice, checkpoint: Callable[[int], None], limits: Limits) -> None:
        self._files: dict[str, Slice] = {}
        self._links: dict[str, str] = {}
        # Not compressed any more, so that only its own size can be spent.
        with Unpacked(whole, Budget(limits), lambda _total: checkpoint(0)) as unpacked:
            reader = TarReader(unpacked.chunk, limits)
            for count, member in enumerate(reader):
                if count >= limits.archive_members:
                    raise ImageRefused(f"the archive has more than {limits.archive_members} members", fix=_FIX)
                parts = components(member.name)
                name = b"/".join(parts).decode("utf-8", "surrogateescape")
                if member.kind is Kind.DIRECTORY:
                    continue
                if name in self._files or name in self._links:
                    raise ImageRefused(f"the archive holds {shown(member.name)} twice", fix=_FIX)
                link = member.link.decode("utf-8", "surrogateescape")
                match member.kind:
                    case Kind.FILE:
                        self._files[name] = Slice(whole.path, member.offset, member.size)
                    case Kind.SYMLINK:
                        self._links[name] = _inside(posixpath.join(posixpath.dirname(name), link), member.link)
                    case Kind.HARDLINK:
                        self._links[name] = _inside(link, member.link)
                    case _:
                        raise ImageRefused(f"the archive holds a {member.kind.value}, {shown(member.name)}", fix=_FIX)
            if not reader.ended:
                raise ImageRefused("the archive ends in the middle: it is truncated", fix="save or upload it again")

    def has(self, name: str) -> bool:
        return name in self._files or name in self._links

    def file(self, name: str) -> Slice:
        name = posixpath.normpath(name)
        for _ in range(10):
            if name in self._files:
                return self._files[name]
            if name not in self._links:
                break
            name = self._links[name]
        raise ImageRefused(f"the archive does not hold {name[:200]!r}, which it names as part of the image", fix=_FIX)

    def read(self, name: str, most: int) -> bytes:
        found = self.file(name)
        if found.size > most:
            raise ImageRefused(f"{name[:200]!r} in the archive is larger than {most} bytes", fix=_FIX)
        return found.read()

    def blob(self, digest: str, most: int) -> bytes:
        data = self.read(_blob_name(digest), most)
        if digest_of(data) != digest:
            raise ImageRefused(
                f"a part of the archive does not match its digest {digest}",
                fix="the archive is damaged or was changed: save it again",
                code="digest-mismatch",
            )
        return data


def _inside(target: str, link: bytes) -> str:
    name = posixpath.normpath(target)
    if name.startswith(("/", "../")) or name in (".", "..") or "\0" in name:
        raise ImageRefused(f"the archive holds a link out of itself, to {shown(link)}", fix=_FIX)
    return name


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _from_layout(archive: _Archive, limits: Limits) -> LocalImage:
    found = parse_document(archive.read(_INDEX, limits.manifest), None, limits)
    digest = ""
    for _ in range(4):
        if not isinstance(found, list):
            break
        chosen = _only(found)
        digest = chosen.digest
        if not archive.has(_blob_name(digest)):
            raise ImageRefused(
                "the archive's index names an image for linux/amd64, and the archive does not hold it",
                fix="pull it with --platform linux/amd64 before saving it",
            )
        found = parse_document(archive.blob(digest, limits.manifest), chosen.media_type, limits)
    if isinstance(found, list) or not digest:
        raise ImageRefused("the archive's index leads to no image", fix=_FIX)
    parsed = parse_config(archive.blob(found.config.digest, limits.config), limits)
    slices = []
    for layer in found.layers:
        slice_ = archive.file(_blob_name(layer.digest))
        if slice_.size != layer.size:
            raise ImageRefused(f"the layer {layer.digest} in the archive has not the size that it should", fix=_FIX)
        slices.append(slice_)
    return LocalImage(digest, parsed.config, pair_layers(slices, parsed))


def _only(descriptors: list[Descriptor]) -> Descriptor:
    """Choose as from a registry's index, but refuse a choice between several images: nobody said which one."""
    ours = {
        item.digest
        for item in descriptors
        if item.media_type in MANIFESTS | INDEXES and item.platform in (None, ("linux", "amd64"))
    }
    if len(ours) > 1:
        raise ImageRefused(f"the archive holds {len(ours)} images", fix="save one image: docker save IMAGE")
    return choose(descriptors)


def _from_docker(archive: _Archive, limits: Limits) -> LocalImage:
    try:
        items = json.loads(archive.read(_LEGACY, limits.manifest))
    except (ValueError, RecursionError):
        items = None
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise ImageRefused("the archive's manifest.json can't be read", fix=_FIX)
    if len(items) > 1:
        raise ImageRefused(f"the archive holds {len(items)} images", fix="save one image: docker save IMAGE")
    name, layers = items[0].get("Config"), items[0].get("Layers")
    if not isinstance(name, str) or not isinstance(layers, list) or not all(isinstance(item, str) for item in layers):
        raise ImageRefused("the archive's manifest.json names no configuration or layers", fix=_FIX)
    data = archive.read(name, limits.config)
    digest = digest_of(data)
    stated = _NAMED_BY_DIGEST.fullmatch(name)
    if stated and stated[1] != hex_of(digest):
        raise ImageRefused(
            "the image's configuration does not match its digest",
            fix="the archive is damaged or was changed: save it again",
            code="digest-mismatch",
        )
    parsed = parse_config(data, limits)
    return LocalImage(digest, parsed.config, pair_layers([archive.file(item) for item in layers], parsed))


def pair_layers(slices: list[Slice], parsed: ParsedConfig) -> tuple[Layer, ...]:
    """Return the layers with their digests. Raises `ImageRefused` when there is not one digest for each."""
    if len(slices) != len(parsed.diff_ids):
        raise ImageRefused(
            f"the image has {len(slices)} layers and digests for {len(parsed.diff_ids)}",
            fix="build or save the image again with a current tool",
        )
    return tuple(Layer(data, diff_id) for data, diff_id in zip(slices, parsed.diff_ids, strict=True))
