"""Tar headers, written for the one reader that gets them: tar2sqfs."""

from __future__ import annotations

from collections.abc import Mapping

from actors.images.tar_reader import BLOCK, Kind

_FLAGS = {Kind.FILE: b"0", Kind.HARDLINK: b"1", Kind.SYMLINK: b"2", Kind.DIRECTORY: b"5", Kind.FIFO: b"6"}
_OCTAL_ID = 0o7777777
_OCTAL_SIZE = 0o77777777777
END = bytes(2 * BLOCK)


def header(
    name: bytes,
    kind: Kind,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    xattrs: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """Return the blocks that announce one entry. What a plain header can't hold goes to a PAX header before it.

    ``mtime`` is clamped to what squashfs can keep (unsigned 32-bit seconds).
    """
    records: list[tuple[bytes, bytes]] = []
    if len(name) > 100:
        records.append((b"path", name))
    if len(link) > 100:
        records.append((b"linkpath", link))
    if size > _OCTAL_SIZE:
        records.append((b"size", b"%d" % size))
    if uid > _OCTAL_ID:
        records.append((b"uid", b"%d" % uid))
    if gid > _OCTAL_ID:
        records.append((b"gid", b"%d" % gid))
    if xattrs:
        records.extend((b"SCHILY.xattr." + key, xattrs[key]) for key in sorted(xattrs))
    mtime = min(max(mtime, 0), 2**32 - 1)
    block = _block(name[:100], _FLAGS[kind], mode, uid, gid, size, mtime, link[:100])
    if not records:
        return block
    payload = b"".join(_record(key, value) for key, value in records)
    front = _block(b"pax", b"x", 0o644, 0, 0, len(payload), 0, b"")
    return front + payload + bytes(-len(payload) % BLOCK) + block


def _block(name: bytes, flag: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, link: bytes) -> bytes:
    # Values too large for a field are in the PAX header; the field then holds zero.
    start = b"%-100b%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        b"",
        mode,
        uid if uid <= _OCTAL_ID else 0,
        gid if gid <= _OCTAL_ID else 0,
        size if size <= _OCTAL_SIZE else 0,
        mtime,
    )
    start = name.ljust(100, b"\0") + start[100:]
    end = flag + link.ljust(100, b"\0") + b"ustar\x0000" + bytes(247)
    total = sum(start) + sum(end) + 8 * 32
    return start + b"%06o\0 " % total + end


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(str(len(body)))
    # The length counts its own digits.
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return b"%d" % length + body
