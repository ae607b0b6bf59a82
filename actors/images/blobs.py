"""Downloaded blobs by digest: shared between pulls, resumed after a break, bounded by least recent use.

What touches files blocks: use it in worker threads. `Blobs.hold` and `Blobs.is_held` belong to the actor's own loop.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from actors.images.decompress import Slice
from actors.images.digest import hex_of
from actors.images.problems import ImageRefused

_CHUNK = 1024 * 1024
#: Seconds for which a download that broke off waits to be resumed.
PARTIAL_AGE = 3600.0


class Blobs:
    """A directory of blobs; those in use by a pull are held and never removed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held: Counter[str] = Counter()

    def path(self, digest: str) -> Path:
        """Return where the blob is once it is complete."""
        return self.directory / hex_of(digest)

    def partial(self, digest: str) -> Path:
        """Return where the blob grows while it is downloaded."""
        return self.directory / f"{hex_of(digest)}.partial"

    def find(self, digest: str, size: int) -> Slice | None:
        """Return the blob if it is here in full, and count that as use."""
        path = self.path(digest)
        try:
            if path.stat().st_size != size:
                path.unlink()
                return None
            os.utime(path)
        except FileNotFoundError:
            return None
        return Slice(path, 0, size)

    @contextmanager
    def hold(self, digests: Iterable[str]) -> Iterator[None]:
        """Keep these blobs as long as the context lasts."""
        names = [hex_of(digest) for digest in digests]
        self._held.update(names)
        try:
            yield
        finally:
            self._held.subtract(names)
            for name in names:
                if not self._held[name]:
                    del self._held[name]

    def discard(self, digests: Iterable[str]) -> None:
        """Remove blobs and what was begun of them: they turned out to be bad, or there is no room."""
        for digest in digests:
            if self._held[hex_of(digest)] > 1:
                continue  # another pull reads it
            self.path(digest).unlink(missing_ok=True)
            self.partial(digest).unlink(missing_ok=True)

    def superfluous(self, most: int, now: float) -> list[Path]:
        """Return the least recently used blobs beyond ``most`` bytes, and partial ones that nobody resumed."""
        found: list[Path] = []
        kept: list[tuple[float, int, Path]] = []
        for path in self.directory.iterdir():
            stat = path.stat()
            if path.suffix == ".partial" and now - stat.st_mtime > PARTIAL_AGE:
                found.append(path)
            else:
                kept.append((stat.st_mtime, stat.st_size, path))
        room = most
        for _, size, path in sorted(kept, reverse=True):
            room -= size
            if room < 0:
                found.append(path)
        return found

    def is_held(self, path: Path) -> bool:
        """Return whether a pull needs this file now."""
        return self._held[path.name.partition(".")[0]] > 0

    def usage(self) -> tuple[int, int]:
        """Return count and bytes."""
        sizes = [path.stat().st_size for path in self.directory.iterdir()]
        return len(sizes), sum(sizes)


class Download:
    """A blob in the making: what is there already is hashed again, then more is appended."""

    def __init__(self, blobs: Blobs, digest: str, size: int) -> None:
        self._blobs = blobs
        self._digest = digest
        self._size = size
        self._sha = hashlib.sha256()
        self.offset = 0

    def __enter__(self) -> Self:
        self._file = self._blobs.partial(self._digest).open("a+b")
        self._file.seek(0)
        while data := self._file.read(_CHUNK):
            self._sha.update(data)
            self.offset += len(data)
        if self.offset > self._size:
            self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self.offset == 0 and self._size:
            self._blobs.partial(self._digest).unlink(missing_ok=True)

    def restart(self) -> None:
        """Forget what is there."""
        self._file.truncate(0)
        self._sha = hashlib.sha256()
        self.offset = 0

    def write(self, data: bytes | bytearray) -> None:
        """Append. Raises `ImageRefused` when more comes than the blob's size, `OSError` when the disk refuses."""
        self.offset += len(data)
        if self.offset > self._size:
            self.restart()
            raise _mismatch(self._digest)
        self._sha.update(data)
        self._file.write(data)
        self._file.flush()

    def finish(self) -> Slice:
        """Return the complete blob under its own name. Raises `ImageRefused` when it does not match its digest."""
        partial = self._blobs.partial(self._digest)
        if self.offset != self._size or self._sha.hexdigest() != hex_of(self._digest):
            partial.unlink()
            raise _mismatch(self._digest)
        target = self._blobs.path(self._digest)
        partial.rename(target)
        return Slice(target, 0, self._size)


def _mismatch(digest: str) -> ImageRefused:
    return ImageRefused(
        f"what the registry sent does not match the digest {digest}",
        fix="try again; if it stays so, the registry or a proxy before it damages data",
        code="digest-mismatch",
    )
