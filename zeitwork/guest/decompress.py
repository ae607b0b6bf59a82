"""Bounded decompression of what kernel packages hold: gzip, xz, zstd, and lz4's legacy stream."""

from __future__ import annotations

import io
import lzma
import zlib

import lz4.block
import zstandard

GZIP = b"\x1f\x8b\x08"
XZ = b"\xfd7zXZ\x00"
ZSTD = b"\x28\xb5\x2f\xfd"
LZ4_LEGACY = b"\x02\x21\x4c\x18"

_LZ4_BLOCK = 8 * 1024 * 1024


class DecompressionError(ValueError):
    """The data is damaged, unknown, or would grow beyond the limit."""


def decompress(data: bytes, limit: int) -> bytes:
    """Return the contents of a stream whose format its first bytes tell; bytes after its end are ignored.

    Raises `DecompressionError` when the format is unknown, the data damaged, or the result larger than ``limit``.
    """
    try:
        if data.startswith(GZIP):
            return _zlib(data, limit)
        if data.startswith(XZ):
            return _xz(data, limit)
        if data.startswith(ZSTD):
            return _zstd(data, limit)
        if data.startswith(LZ4_LEGACY):
            return _lz4_legacy(data, limit)
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, lz4.block.LZ4BlockError, EOFError) as error:
        raise DecompressionError(f"damaged data: {error}") from error
    raise DecompressionError(f"unknown compression, starting with {data[:6].hex()}")


def _zlib(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    result = stream.decompress(data, limit)
    if not stream.eof:
        _check_end(stream.unconsumed_tail, limit)
    return result


def _xz(data: bytes, limit: int) -> bytes:
    stream = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=1 << 30)
    result = stream.decompress(data, limit)
    if not stream.eof:
        _check_end(not stream.needs_input, limit)
    return result


def _zstd(data: bytes, limit: int) -> bytes:
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(io.BytesIO(data))
    result = reader.read(limit + 1)
    _check_size(len(result), limit)
    return result


def _lz4_legacy(data: bytes, limit: int) -> bytes:
    """Blocks of up to 8 MiB, each behind its own 32-bit length; the kernel's build appends the total size as well."""
    parts: list[bytes] = []
    total, at = 0, 4
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        at += 4
        # What follows the last block (the kernel's size field, or the rest of the image) can't be a block's length.
        if length == 0 or length > len(data) - at or length > _LZ4_BLOCK + _LZ4_BLOCK // 255 + 16:
            break
        part = lz4.block.decompress(data[at : at + length], uncompressed_size=_LZ4_BLOCK)
        parts.append(part)
        total += len(part)
        _check_size(total, limit)
        at += length
        if len(part) < _LZ4_BLOCK:
            break
    if not parts:
        raise DecompressionError("damaged data: an lz4 stream without blocks")
    return b"".join(parts)


def _check_end(more: object, limit: int) -> None:
    if more:
        raise DecompressionError(f"more than {limit} bytes when decompressed")
    raise DecompressionError("damaged data: it is cut short")


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise DecompressionError(f"more than {limit} bytes when decompressed")
