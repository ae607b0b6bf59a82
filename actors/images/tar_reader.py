"""A strict, streaming reader of tar: ustar, PAX and GNU long names. Names and links stay bytes.

Written here because the standard library's reader loads headers of any size, fills in sparse files and guesses at
encodings, which is wrong for input that may be hostile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

import msgspec

from actors.images.decompress import truncated
from actors.images.limits import Limits
from actors.images.problems import ImageRefused

BLOCK = 512
_ZEROS = bytes(BLOCK)
_FIX = "save or build the image again with a current tool"
_XATTR = b"SCHILY.xattr."


class Kind(Enum):
    """Types of entries."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"
    FIFO = "fifo"
    CHARACTER = "character device"
    BLOCK_DEVICE = "block device"


_KINDS = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"1": Kind.HARDLINK, b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER, b"4": Kind.BLOCK_DEVICE, b"5": Kind.DIRECTORY, b"6": Kind.FIFO,
}  # fmt: skip
NO_XATTRS: dict[bytes, bytes] = {}


class Member(msgspec.Struct, gc=False):
    """One entry: ``size`` bytes of data (0 unless a file) from ``offset`` of the archive; ``mtime`` in whole seconds.

    Unknown to the garbage collector: an image may have hundreds of thousands, and each full collection would hold up
    every thread for as long as it takes to look at them all.
    """

    name: bytes
    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    offset: int = 0
    xattrs: dict[bytes, bytes] = NO_XATTRS


class TarReader:
    """Reads members from a source of chunks (``b""`` at the end). ``ended`` tells whether the end mark was there."""

    def __init__(self, source: Callable[[], bytes], limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._buffer = b""
        self._at = 0
        self._left = 0  # data bytes of the current member that nobody read yet
        self._padding = 0
        self.ended = False
        self.offset = 0  # bytes consumed from the source so far

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next()) is not None:
            yield member

    def data(self) -> Iterator[memoryview]:
        """Yield the current member's data. What is not read is skipped."""
        while self._left:
            if self._at == len(self._buffer):
                self._refill()
            view = memoryview(self._buffer)[self._at : self._at + self._left]
            self._at += len(view)
            self._left -= len(view)
            self.offset += len(view)
            yield view

    def content(self) -> bytes:
        """Return the current member's data (the caller has checked its size)."""
        return b"".join(self.data())

    def drain(self) -> None:
        """Read to the end of the source: what follows the end mark still counts for a digest."""
        self._buffer, self._at = b"", 0
        while self._source():
            pass

    def _refill(self) -> None:
        self._buffer = self._source()
        self._at = 0
        if not self._buffer:
            raise truncated()

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._buffer):
            parts = [self._buffer[self._at :]]
            have = len(parts[0])
            while have < count:
                self._buffer, self._at = self._source(), 0
                if not self._buffer:
                    if have == 0 and count == BLOCK:
                        return b""
                    raise truncated()
                parts.append(self._buffer)
                have += len(self._buffer)
            joined = b"".join(parts)
            self._buffer, self._at, end = joined, 0, count
        data = self._buffer[self._at : end]
        self._at = end
        self.offset += count
        return data

    def _skip(self, count: int) -> None:
        self.offset += count
        while count:
            have = len(self._buffer) - self._at
            if have >= count:
                self._at += count
                return
            count -= have
            self._refill()

    def _next(self) -> Member | None:
        self._skip(self._left + self._padding)
        self._left = self._padding = 0
        pax: dict[bytes, bytes] = {}
        long_name = long_link = None
        seen = 0
        while True:
            header = self._take(BLOCK)
            if not header or header == _ZEROS:
                if seen:
                    raise truncated()
                self.ended = bool(header)
                return None
            kind, size = header[156:157], _number(header[124:136], "size")
            _check_sum(header)
            if size < 0:
                raise ImageRefused("an entry of a tar archive has a negative size", fix=_FIX)
            if kind not in b"xgLKX":
                break
            seen += 1
            if size > self._limits.header or seen > 16:
                raise ImageRefused(f"a tar archive has more than {self._limits.header} bytes about one file", fix=_FIX)
            extra = self._take(size)
            self._skip(-size % BLOCK)
            if kind in b"xX":
                pax.update(_pax_records(extra))
            elif kind == b"L":
                long_name = extra.split(b"\0", 1)[0]
            elif kind == b"K":
                long_link = extra.split(b"\0", 1)[0]
            # Global records ("g") are a comment in practice; Docker and containerd ignore them too.
        return self._member(header, kind, size, pax, long_name, long_link)

    def _member(
        self, header: bytes, flag: bytes, size: int, pax: dict[bytes, bytes], name: bytes | None, link: bytes | None
    ) -> Member:
        kind = _KINDS.get(flag)
        if kind is None:
            what = "a sparse file" if flag == b"S" else f"an entry of type {flag!r}"
            raise ImageRefused(f"a tar archive holds {what}, which is not supported", fix=_FIX)
        if name is None:
            name = header[:100].split(b"\0", 1)[0]
            if header[257:263] == b"ustar\0" and header[345]:
                name = header[345:500].split(b"\0", 1)[0] + b"/" + name
        if link is None:
            link = header[157:257].split(b"\0", 1)[0]
        uid, gid = _number(header[108:116], "uid"), _number(header[116:124], "gid")
        mtime = _number(header[136:148], "mtime")
        xattrs = NO_XATTRS
        if pax:
            name, link = pax.get(b"path", name), pax.get(b"linkpath", link)
            size, uid = _decimal(pax, b"size", size), _decimal(pax, b"uid", uid)
            gid, mtime = _decimal(pax, b"gid", gid), _decimal(pax, b"mtime", mtime)
            for key, value in pax.items():
                if key.startswith(_XATTR):
                    xattrs = xattrs if xattrs is not NO_XATTRS else {}
                    xattrs[key[len(_XATTR) :]] = value
                elif key.startswith(b"GNU.sparse."):
                    raise ImageRefused("a tar archive holds a sparse file, which is not supported", fix=_FIX)
        if kind is Kind.FILE and flag == b"\0" and name.endswith(b"/"):
            kind = Kind.DIRECTORY
        if kind is not Kind.FILE:
            size = 0
        if size < 0 or not 0 <= uid < 2**32 or not 0 <= gid < 2**32:
            raise ImageRefused(f"the tar entry {shown(name)} has a size or owner that is out of range", fix=_FIX)
        if b"\0" in name or b"\0" in link:
            raise ImageRefused(f"the name of the tar entry {shown(name)} has a zero byte", fix=_FIX)
        self._left, self._padding = size, -size % BLOCK
        mode = _number(header[100:108], "mode") & 0o7777
        return Member(name, kind, mode, uid, gid, size, mtime, link, self.offset, xattrs)


def shown(name: bytes) -> str:
    """Return a name from an archive as it may be shown: quoted, control characters escaped, bounded."""
    return repr(name.decode("utf-8", "backslashreplace")[:200])


def components(name: bytes, what: str = "path") -> list[bytes]:
    """Return the parts of a relative path; empty for the root itself.

    Raises `ImageRefused` for an absolute path, one with ``..``, and one that is longer than Linux allows.
    """
    if name.startswith(b"/") and name.strip(b"/"):
        raise ImageRefused(f"the image holds the absolute {what} {shown(name)}", fix=_FIX)
    if len(name) > 4095:
        raise ImageRefused(f"the image holds a {what} of {len(name)} bytes", fix=_FIX)
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    for part in parts:
        if part == b"..":
            raise ImageRefused(f"the image holds the {what} {shown(name)}, which climbs out of its root", fix=_FIX)
        if len(part) > 255:
            raise ImageRefused(f"the image holds a file name of {len(part)} bytes", fix=_FIX)
    return parts


def _check_sum(header: bytes) -> None:
    stated = _number(header[148:156], "checksum")
    actual = sum(header) - sum(header[148:156]) + 8 * 32
    if stated == actual:
        return
    # Some old writers summed signed characters.
    if stated != actual - 256 * sum(byte > 127 for byte in header[:148] + header[156:]):
        raise ImageRefused("a tar header's checksum is wrong: this is not a tar archive, or it is damaged", fix=_FIX)


def _number(field: bytes, what: str) -> int:
    first = field[0]
    if first & 0x80:
        # Base 256, two's complement with the marker bit in front.
        value = int.from_bytes(field, "big") - (first << 8 * (len(field) - 1))
        top = first & 0x7F
        if top & 0x40:
            top -= 0x80
        value += top << 8 * (len(field) - 1)
        if abs(value) >= 1 << 63:
            raise ImageRefused(f"a tar entry's {what} is out of range", fix=_FIX)
        return value
    text = field.split(b"\0", 1)[0].strip(b" ")
    if not text:
        return 0
    try:
        if text.isdigit():
            return int(text, 8)
    except ValueError:
        pass
    raise ImageRefused(f"a tar entry's {what} is not a number: this is no tar archive, or damaged", fix=_FIX)


def _decimal(pax: dict[bytes, bytes], key: bytes, default: int) -> int:
    text = pax.get(key)
    if not text:
        return default
    whole, _, fraction = text.partition(b".")
    digits = whole[1:] if whole[:1] == b"-" else whole
    if not digits.isdigit() or len(digits) > 18 or (fraction and not fraction.isdigit()):
        raise ImageRefused(f"a tar entry's {key.decode()} is not a number", fix=_FIX)
    return int(whole)


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > 0 else b""
        if not digits.isdigit():
            if not data[at:].strip(b"\0"):
                break
            raise ImageRefused("a tar archive has a damaged extended header", fix=_FIX)
        end = at + int(digits)
        if end > len(data) or end <= space + 1 or data[end - 1] != 0x0A:
            raise ImageRefused("a tar archive has a damaged extended header", fix=_FIX)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise ImageRefused("a tar archive has a damaged extended header", fix=_FIX)
        records[key] = value
        at = end
    return records
