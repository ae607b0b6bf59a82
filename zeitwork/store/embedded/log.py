"""The server's log: appended to by the server itself, rotated by copy and truncation, read for its last words."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: Bytes of a log before it is rotated, and how many old ones are kept.
LIMIT = 4 * 1024 * 1024
KEPT = 2


def open_log(path: Path) -> int:
    """Return a descriptor that appends to ``path``."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)


def rotate(path: Path, *, limit: int = LIMIT) -> bool:
    """Rotate the log when it is larger than ``limit`` bytes; return whether it was.

    The server keeps writing to the same file (opened for appending), so nothing has to be told to it; lines written
    between copy and truncation are lost. When there is no room for a copy, the old lines are lost instead.
    """
    try:
        if path.stat().st_size <= limit:
            return False
    except FileNotFoundError:
        return False
    for number in range(KEPT - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    copy = path.with_name(f"{path.name}.1")
    try:
        shutil.copyfile(path, copy)
    except OSError:
        copy.unlink(missing_ok=True)
    os.truncate(path, 0)
    return True


def size(path: Path) -> int:
    """Return how many bytes the log has, 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def last_words(path: Path, start: int) -> str:
    """Return the errors that were written after byte ``start``, else the last lines; at most 600 characters."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, size(path) - 16384))
            lines = file.read(16384).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    telling = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "ERROR:", "error:"))]
    chosen = telling[-2:] or lines[-3:]
    return "; ".join(line.partition("] ")[2].strip() or line.strip() for line in chosen)[:600]
