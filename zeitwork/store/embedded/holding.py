"""Who may use an embedded server's directory, and whether what is in it is still the cluster's database."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from actors.model.errors import Conflict, Failed

#: What data that a restore has replaced are called: this and the time (UTC).
REPLACED = "replaced-"
#: Where a restore makes new data.
STAGING = "restore"
_MOVED = "moved"


def take_lock(directory: Path) -> int:
    """Hold the directory until the returned descriptor is closed, so that nobody else stops or shares its server.

    Raises `Conflict` when another process has it, `OSError`.
    """
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise Conflict(
            f"another process uses the database in {directory}",
            field="data_dir",
            code="data-dir-in-use",
            fix="stop the other `zeitwork run`, or give --data-dir",
        ) from error
    return lock


def mark_moved(directory: Path, where: str) -> None:
    """Let no server start on this directory any more: the cluster's database is ``where`` now. Raises `OSError`."""
    fresh = directory / f"{_MOVED}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, f"{where}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(directory / _MOVED)
    sync(directory)


def unmark_moved(directory: Path) -> None:
    """Undo `mark_moved`."""
    (directory / _MOVED).unlink(missing_ok=True)
    sync(directory)


def moved_to(directory: Path) -> str | None:
    """Return where the database was moved to, None while it is here."""
    try:
        return (directory / _MOVED).read_text(errors="replace").strip() or "elsewhere"
    except FileNotFoundError:
        return None


def refuse_replaced(directory: Path) -> None:
    """Raise `Failed` where a server would bring up an older copy of the cluster's database, or an empty one."""
    where = moved_to(directory)
    if where is not None:
        raise Failed(
            f"the cluster's database was moved to {where}",
            field="database_url",
            code="database-moved",
            fix=f"give its address: --database-url, or database_url in the configuration (to use the old one here "
            f"again, which knows nothing of what happened since, stop every host and remove {directory / _MOVED})",
        )
    present = [path for path in directory.glob("data-*") if path.suffix != ".new"]
    if not present and any(directory.glob(f"{REPLACED}*")):
        raise Failed(
            f"a restore of the database in {directory} was cut short",
            fix="run zeitwork db restore again",
            code="no-data",
        )


def sync(directory: Path) -> None:
    """Bring names in a directory to the disk, as far as its file system can."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
