"""Images made by hand with the standard library's tar writer, which shares no code with ours."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

Entry = tuple[tarfile.TarInfo, bytes]


def info(name: str, kind: bytes, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    member.mtime = 1_700_000_000
    for key, value in fields.items():
        setattr(member, key, value)
    return member


def file(name: str, data: bytes = b"", **fields: object) -> Entry:
    return info(name, tarfile.REGTYPE, size=len(data), **fields), data


def directory(name: str, **fields: object) -> Entry:
    return info(name, tarfile.DIRTYPE, **fields), b""


def symlink(name: str, target: str, **fields: object) -> Entry:
    return info(name, tarfile.SYMTYPE, linkname=target, mode=0o777, **fields), b""


def hardlink(name: str, target: str) -> Entry:
    return info(name, tarfile.LNKTYPE, linkname=target), b""


def fifo(name: str) -> Entry:
    return info(name, tarfile.FIFOTYPE), b""


def device(name: str, kind: bytes = tarfile.CHRTYPE) -> Entry:
    return info(name, kind, devmajor=1, devminor=3), b""


def whiteout(name: str) -> Entry:
    head, _, tail = name.rpartition("/")
    return file(f"{head}/.wh.{tail}" if head else f".wh.{tail}")


def opaque(name: str) -> Entry:
    return file(f"{name}/.wh..wh..opq" if name else ".wh..wh..opq")


def tar(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as archive:
        for member, data in entries:
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def pressed(data: bytes, how: str) -> bytes:
    match how:
        case "gzip":
            return gzip.compress(data, 1, mtime=0)
        case "zstd":
            return zstandard.compress(data)
        case _:
            return data


@dataclass
class Image:
    """Layers as plain tars, lowest first, and how each is compressed when it is stored."""

    layers: Sequence[bytes]
    compression: Sequence[str] = ()
    run: dict[str, object] = field(default_factory=lambda: {"Cmd": ["/hello"]})
    architecture: str = "amd64"
    os: str = "linux"

    @property
    def config(self) -> bytes:
        return json.dumps(
            {
                "architecture": self.architecture,
                "os": self.os,
                "config": self.run,
                "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in self.layers]},
            }
        ).encode()

    def stored(self) -> list[tuple[str, bytes]]:
        how = list(self.compression) or ["gzip"] * len(self.layers)
        suffix = {"gzip": "+gzip", "zstd": "+zstd", "plain": ""}
        return [
            (f"application/vnd.oci.image.layer.v1.tar{suffix[kind]}", pressed(layer, kind))
            for layer, kind in zip(self.layers, how, strict=True)
        ]

    @property
    def manifest(self) -> bytes:
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": digest(self.config),
                    "size": len(self.config),
                },
                "layers": [
                    {"mediaType": kind, "digest": digest(data), "size": len(data)} for kind, data in self.stored()
                ],
            }
        ).encode()

    def blobs(self) -> dict[str, bytes]:
        everything = [self.config, self.manifest, *(data for _, data in self.stored())]
        return {digest(data): data for data in everything}

    def descriptor(self, **more: object) -> dict[str, object]:
        return {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(self.manifest),
            "size": len(self.manifest),
            **more,
        }


def layout(*images: Image, platforms: bool = True) -> dict[str, bytes]:
    """The files of an OCI layout."""
    index = {
        "schemaVersion": 2,
        "manifests": [
            image.descriptor(
                **({"platform": {"os": image.os, "architecture": image.architecture}} if platforms else {})
            )
            for image in images
        ],
    }
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode()}
    for image in images:
        files |= {f"blobs/sha256/{name[7:]}": data for name, data in image.blobs().items()}
    return files


def docker_save(image: Image) -> dict[str, bytes]:
    """The files of a docker save archive as Docker wrote it up to version 24."""
    names = [f"{digest(layer)[7:]}/layer.tar" for layer in image.layers]
    config = f"{digest(image.config)[7:]}.json"
    manifest = [{"Config": config, "RepoTags": ["app:latest"], "Layers": names}]
    return {
        **dict(zip(names, image.layers, strict=True)),
        config: image.config,
        "manifest.json": json.dumps(manifest).encode(),
    }


def archive(files: dict[str, bytes], *extra: Entry) -> bytes:
    return tar(*(file(name, data) for name, data in files.items()), *extra)


def write_layout(path: Path, *images: Image) -> Path:
    for name, data in layout(*images).items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return path


@dataclass(frozen=True)
class Found:
    """A file of a squashfs, as sqfs2tar and the standard library read it."""

    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    data: bytes
    link: str
    xattrs: tuple[tuple[str, str], ...]


def read_squashfs(path: Path) -> dict[str, Found]:
    done = subprocess.run(["sqfs2tar", "--root-becomes", ".", str(path)], capture_output=True, timeout=120, check=False)
    if done.returncode != 0:
        done = subprocess.run(["sqfs2tar", str(path)], capture_output=True, timeout=120, check=True)
    return read_tar(done.stdout)


def read_tar(data: bytes) -> dict[str, Found]:
    found: dict[str, Found] = {}
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        for member in archive:
            name = member.name.removeprefix("./").rstrip("/")
            content = archive.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            xattrs = tuple(
                sorted(
                    (key.removeprefix("SCHILY.xattr."), value)
                    for key, value in member.pax_headers.items()
                    if key.startswith("SCHILY.xattr.")
                )
            )
            link = member.linkname.removeprefix("./") if member.islnk() else member.linkname
            found["" if name == "." else name] = Found(
                member.type, member.mode, member.uid, member.gid, int(member.mtime), content, link, xattrs
            )
    return found
