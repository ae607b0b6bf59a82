"""Root filesystems by manifest digest, published whole or not at all.

Blocking, so for worker threads, except `RootCache.take`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from actors.images.digest import hex_of, is_digest
from actors.model.image import ImageConfig, RootImage

ROOTFS, CONFIG = "rootfs.squashfs", "config.json"
_FORMAT = 1
_HEX_LENGTH = 64


class RootCache:
    """``<images>/<hex>/{rootfs.squashfs,config.json}``; ``work`` holds what is being made."""

    def __init__(self, images: Path) -> None:
        self.images = images
        self.blobs = images / "blobs"
        self._work = images / "work"

    def prepare(self) -> None:
        """Make the directories, and remove what an earlier life left half-done."""
        for directory in (self.images, self.blobs, self._work):
            directory.mkdir(mode=0o755 if directory == self.images else 0o700, parents=True, exist_ok=True)
        for leftover in self._work.iterdir():
            remove(leftover)

    def workspace(self) -> Path:
        """Return a new directory to make a root in; the caller removes it unless it is published."""
        path = self._work / secrets.token_hex(8)
        path.mkdir(mode=0o755)
        return path

    def find(self, digest: str) -> tuple[RootImage, int] | None:
        """Return the root image and its size in bytes, None when it is not here in full."""
        if not is_digest(digest):
            return None
        directory = self.images / hex_of(digest)
        rootfs = directory / ROOTFS
        try:
            document = json.loads((directory / CONFIG).read_bytes())
            size = rootfs.stat().st_size
            if document["format"] != _FORMAT or document["size"] != size or size == 0:
                return None
            config = _config(document["config"])
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
        return RootImage(digest, str(rootfs), config), size

    def publish(self, workspace: Path, digest: str, config: ImageConfig, size: int) -> None:
        """Give a finished workspace (its `ROOTFS` is fsynced) its digest's name, durably.

        If the digest is there already, that one stays and the workspace is removed.
        """
        document = {"format": _FORMAT, "digest": digest, "size": size, "config": asdict(config)}
        with (workspace / CONFIG).open("x", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            os.fchmod(file.fileno(), 0o444)
            os.fsync(file.fileno())
        _sync_directory(workspace)
        target = self.images / hex_of(digest)
        if target.exists():
            # Damaged, or made by another pull of the same image a moment ago.
            remove(workspace if self.find(digest) else self.take(target))
        if workspace.exists():
            workspace.rename(target)
        _sync_directory(self.images)

    def digests(self) -> frozenset[str]:
        """Return the digests of the roots that are here."""
        return frozenset(f"sha256:{directory.name}" for directory in self._roots())

    def superfluous(self, in_use: Collection[str], *, older_than: float, now: float) -> list[str]:
        """Return digests of roots that are not in use and have not been touched for so many seconds."""
        found = []
        for directory in self._roots():
            digest = f"sha256:{directory.name}"
            if digest not in in_use and now - directory.stat().st_mtime >= older_than:
                found.append(digest)
        return found

    def take(self, path: Path) -> Path:
        """Rename something of the cache out of sight, which is quick; the caller then removes what is returned."""
        return path.rename(self._work / secrets.token_hex(8))

    def root(self, digest: str) -> Path:
        """Return the directory of a digest's root."""
        return self.images / hex_of(digest)

    def touch(self, digest: str) -> None:
        """Count as use: a collection that is under way leaves it alone."""
        os.utime(self.root(digest))

    def usage(self) -> tuple[int, int]:
        """Return how many roots there are, and their bytes."""
        roots = self._roots()
        return len(roots), sum(_size(directory) for directory in roots)

    def free_bytes(self) -> int:
        """Return what is free on the disk that holds the cache."""
        stat = os.statvfs(self.images)
        return stat.f_bavail * stat.f_frsize

    def _roots(self) -> list[Path]:
        return [path for path in self.images.iterdir() if len(path.name) == _HEX_LENGTH and path.is_dir()]


def remove(path: Path) -> None:
    """Remove a file or a directory with all in it; not being there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _config(document: dict[str, object]) -> ImageConfig:
    def strings(key: str) -> tuple[str, ...]:
        value = document[key]
        if not isinstance(value, list):
            raise TypeError(key)
        return tuple(str(item) for item in value)

    ports, labels = document["exposed_ports"], document["labels"]
    if not isinstance(ports, list) or not isinstance(labels, dict):
        raise TypeError("exposed_ports or labels")
    return ImageConfig(
        entrypoint=strings("entrypoint"),
        cmd=strings("cmd"),
        env=strings("env"),
        working_dir=str(document["working_dir"]),
        user=str(document["user"]),
        exposed_ports=tuple(int(port) for port in ports),
        stop_signal=str(document["stop_signal"]),
        labels={str(key): str(value) for key, value in labels.items()},
    )


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
