"""Small files that must be whole or absent."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from contextlib import suppress
from pathlib import Path

from actors.model.errors import Failed

_LIBC = ctypes.CDLL(None, use_errno=True)
#: FALLOC_FL_PUNCH_HOLE with FALLOC_FL_KEEP_SIZE, without which it is refused; holes are whole pages.
_PUNCH_HOLE, _PAGE = 3, 4096
_CHATTER = "[DevPreview]"
#: What to do about it.
FREE_SPACE = "free some space there, for example by deleting images"
#: Bytes that are as good as none.
_LITTLE = 64 * 1024
_PREFIX = re.compile(r"^\d{4}-\d\d-\d\dT\S+ \[[^\]]*\] ")


def write_atomic(path: Path, data: bytes, *, durable: bool, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data`` in one step; with ``durable``, file and name are on disk on return. Blocking."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        sync_directory(path.parent)


def unwritable(error: OSError, place: Path) -> Failed:
    """Return what to tell people when something could not be written in ``place``."""
    return refused(error, f"the host could not write in {error.filename or place}: {error.strerror or error}")


def refused(error: OSError, words: str) -> Failed:
    """Return ``words`` about an error as a problem that says so when a disk or a quota is full."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Failed(
        words,
        code="disk-full" if full else None,
        fix=FREE_SPACE if full else None,
        status=507 if full else None,
    )


def keep_end(path: Path, content: bytes) -> None:
    """Let ``content``, the end of a file that nobody writes any more, take its place; b"" removes it. Blocking.

    It is a new file: the old one may be long, full of holes, and belong to a user of its own. On a full disk it goes.
    """
    if content.strip(b"\0"):
        with suppress(OSError):
            write_atomic(path, content.replace(b"\0", b""), durable=False)
            return
    path.unlink(missing_ok=True)


def first_full(*places: Path) -> Path | None:
    """Return the first of some directories whose file system takes nothing more, None when all do. Blocking."""
    for place in places:
        try:
            found = os.statvfs(place)
        except OSError:
            continue
        # Some file systems have no fixed number of files, and say 0 of 0.
        if found.f_bavail * found.f_frsize < _LITTLE or (found.f_files and not found.f_favail):
            return place
    return None


def sync_directory(path: Path) -> None:
    """Make names that were created, renamed or removed in a directory durable. Blocking."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_words(path: Path, limit: int = 2000) -> str:
    """Return the end of a log on one line, at most ``limit`` bytes, "" when there is none. Blocking.

    What Firecracker writes before each line (time, thread) and about the youth of its snapshots says nothing to people
    and is left out.
    """
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - limit))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = (_PREFIX.sub("", line).strip(" \t\0") for line in text.splitlines())
    return " | ".join(line for line in lines if line and not line.startswith(_CHATTER))


def size(path: Path) -> int:
    """Return a file's size in bytes, 0 when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def stored(path: Path) -> int:
    """Return the bytes that a file takes on its disk, holes left out; 0 when there is none."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def shed(path: Path, limit: int) -> bool:
    """Give the older part of a file that takes more than ``limit`` bytes back to the disk; return whether it did.

    For files whose writer keeps its own place in them, as Firecracker does: emptied, they would be as long as before
    with its next word. Half of ``limit`` stays readable at the end. Blocking. Raises `OSError`.
    """
    if stored(path) <= limit:
        return False
    with path.open("r+b") as file:
        length = max(0, file.seek(0, os.SEEK_END) - limit // 2) // _PAGE * _PAGE
        result = _LIBC.fallocate(file.fileno(), _PUNCH_HOLE, ctypes.c_long(0), ctypes.c_long(length))
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    return True
