"""Reading stored bytes, decompressed as they stream, under bounds that a bomb can't pass."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

import zstandard

from actors.images.limits import Limits
from actors.images.problems import ImageRefused

CHUNK = 512 * 1024
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x04\x22\x4d\x18": "lz4"}
#: Decoders reserve this much memory at most, whatever the data asks for.
_ZSTD_WINDOW = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes of a file on this host: a downloaded blob, or a member of an archive that stays where it is."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return all of it (the caller has checked ``size``)."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise truncated()
        return data


class Budget:
    """What may still come out of decompression for one image, over all its layers."""

    def __init__(self, limits: Limits) -> None:
        self._left = limits.unpacked
        self._limits = limits

    def spend(self, produced: int, total_out: int, total_in: int) -> None:
        """Count ``produced`` more bytes of a stream that stands at the totals. Raises `ImageRefused`."""
        self._left -= produced
        if self._left < 0:
            raise ImageRefused(
                f"the image unpacks to more than {self._limits.unpacked} bytes", fix="make the image smaller"
            )
        if total_out > self._limits.ratio_floor and total_out > self._limits.ratio * max(total_in, 1):
            raise ImageRefused(
                f"the image unpacks to more than {self._limits.ratio} times its size, like a decompression bomb",
                fix="only add images from sources that you trust; large files of zeros do not belong into an image",
            )


def truncated() -> ImageRefused:
    """Return the refusal of data that ends too early."""
    return ImageRefused("the image's data ends in the middle: it is truncated", fix="download or save it again")


def compression(slice_: Slice) -> str:
    """Return ``gzip``, ``zstd`` or ``plain`` by the first bytes. Raises `ImageRefused` for known other formats."""
    with slice_.path.open("rb") as file:
        file.seek(slice_.offset)
        magic = file.read(min(8, slice_.size))
    for prefix, name in _OTHERS.items():
        if magic.startswith(prefix):
            raise ImageRefused(
                f"the data is compressed with {name}", fix="compress it with gzip or zstd, or not at all"
            )
    return "gzip" if magic.startswith(_GZIP) else "zstd" if magic.startswith(_ZSTD) else "plain"


class Unpacked:
    """The decompressed bytes of a slice as a sequence of chunks. Blocking: use it in a worker thread.

    ``checkpoint`` is called once for each chunk with the count of stored bytes read so far; it may raise.
    """

    def __init__(self, slice_: Slice, budget: Budget, checkpoint: Callable[[int], None]) -> None:
        self._slice = slice_
        self._budget = budget
        self._checkpoint = checkpoint
        self.consumed = 0
        self.produced = 0

    def __enter__(self) -> Self:
        kind = compression(self._slice)
        self._file: BinaryIO = self._slice.path.open("rb")
        self._file.seek(self._slice.offset)
        if kind == "gzip":
            self._zlib = zlib.decompressobj(wbits=31)
            self._tail = b""
            self._produce = self._gunzip
        elif kind == "zstd":
            decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
            source = cast("BinaryIO", _Source(self))
            self._zstd = decompressor.stream_reader(source, read_across_frames=True, closefd=False)
            self._produce = self._unzstd
        else:
            self._produce = self._stored
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def chunk(self) -> bytes:
        """Return the next bytes, ``b""`` at the end. Raises `ImageRefused` on broken data or a passed bound."""
        self._checkpoint(self.consumed)
        data = self._produce()
        self.produced += len(data)
        self._budget.spend(len(data), self.produced, self.consumed)
        return data

    def stored(self, count: int) -> bytes:
        """Return up to ``count`` more of the slice's own bytes; ``b""`` only at its end."""
        count = min(count, self._slice.size - self.consumed)
        data = self._file.read(count)
        if len(data) < count:
            raise truncated()
        self.consumed += len(data)
        return data

    def _stored(self) -> bytes:
        return self.stored(CHUNK)

    def _gunzip(self) -> bytes:
        while True:
            data = self._tail or self.stored(128 * 1024)
            self._tail = b""
            if not data:
                if not self._zlib.eof and (self.consumed or self.produced):
                    raise truncated()
                return b""
            if self._zlib.eof:
                # Another member, or the zeros that tape tools pad with.
                data = data.lstrip(b"\0")
                if not data:
                    continue
                self._zlib = zlib.decompressobj(wbits=31)
            try:
                out = self._zlib.decompress(data, CHUNK)
            except zlib.error:
                raise ImageRefused("the image's gzip data is damaged", fix="download or save it again") from None
            self._tail = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
            if out:
                return out

    def _unzstd(self) -> bytes:
        try:
            return self._zstd.read(CHUNK)
        except zstandard.ZstdError:
            raise ImageRefused("the image's zstd data is damaged", fix="download or save it again") from None


class _Source:
    """What the zstd reader pulls from."""

    def __init__(self, unpacked: Unpacked) -> None:
        self._unpacked = unpacked

    def read(self, count: int) -> bytes:
        return self._unpacked.stored(count)
