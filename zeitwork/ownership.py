"""One process per data directory: a lock that the kernel drops with its holder, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.model.errors import Conflict, Failed

_FIXES = {
    errno.ENOSPC: "free some space",
    errno.EROFS: "mount it writable (dmesg says why it is not, if that was not you)",
}


@contextmanager
def hold(data_dir: Path) -> Iterator[None]:
    """Hold ``data_dir`` for this process.

    Raises `Conflict` naming the holder's PID when another process has it, `Failed` when the directory can't be
    written (read-only, full disk).
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Failed(
            f"{data_dir} can't be used: {error.strerror}",
            field="data_dir",
            fix=_FIXES.get(error.errno or 0, "give --data-dir a directory on a local disk"),
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise Conflict(
                f"{data_dir} is in use by another zeitwork process (PID {holder})",
                field="data_dir",
                fix="stop that one, or give this one another --data-dir",
                code="data-dir-in-use",
            ) from None
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise Failed(
                f"{data_dir} can't be written: {error.strerror}", field="data_dir", fix="free some space"
            ) from None
        yield
    finally:
        os.close(descriptor)
