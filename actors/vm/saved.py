"""Files of a saved machine: made where its monitor can write them, kept where nobody writes to them any more."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from actors.model.errors import Failed
from actors.vm.files import sync_directory

#: What a monitor knows about its guest, and, where that is a file of its own, the guest's memory.
STATE, MEMORY = "vm.state", "vm.memory"
#: In a jail these stand before the names: a machine that was restored may have files of the plain ones.
_PREFIX = "saved."
#: Zeros are looked for in steps of so many bytes, a multiple of every page size.
_STEP = 64 * 1024
_ZEROS = bytes(_STEP)
#: FALLOC_FL_PUNCH_HOLE with FALLOC_FL_KEEP_SIZE, without which it is refused.
_PUNCH_HOLE = 3
#: Seconds to let go of files, whatever happens to the caller.
_TIDY = 10.0
_LIBC = ctypes.CDLL(None, use_errno=True)


def check_saved(directory: Path, names: Sequence[str]) -> None:
    """Raise `Failed` unless every one of a saved machine's files is there. Blocking."""
    for name in names:
        path = directory / name
        if not path.is_file():
            raise Failed(f"the snapshot is not whole: {path} is missing", fix="restore another snapshot")


@dataclass(slots=True)
class Offer:
    """Empty files in ``target`` that a monitor is to fill. ``jail`` is the directory where it works, if it has one.

    ``open`` has them by name. ``inside`` has those that could not be made the same files in the jail, since that is
    on another file system: what is written there is copied.
    """

    target: Path
    jail: Path | None
    open: dict[str, int] = field(default_factory=dict)
    inside: dict[str, int] = field(default_factory=dict)

    def known(self, name: str) -> Path:
        """Return a file's name for its monitor."""
        return self.target.absolute() / name if self.jail is None else Path(f"{_PREFIX}{name}")

    def make(self, names: Sequence[str]) -> None:
        """Make the files. Blocking. Raises `OSError`; then, too, call `withdraw`."""
        for name in names:
            self.open[name] = _create(self.target / name)
            if self.jail is None:
                continue
            uid, within = self.jail.stat().st_uid, self.jail / self.known(name)
            within.unlink(missing_ok=True)
            os.fchown(self.open[name], uid, uid)
            try:
                within.hardlink_to(self.target / name)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):
                    raise
                self.inside[name] = _create(within)
                os.fchown(self.inside[name], uid, uid)

    def keep(self, sparse: Sequence[str]) -> None:
        """Bring what was written to the disk, to be read by everybody's monitors. Blocking. Raises `OSError`.

        Zeros in files named in ``sparse`` take no place there.
        """
        for name, descriptor in self.open.items():
            if name in self.inside:
                _copy(self.inside[name], descriptor)
            elif name in sparse:
                dig(descriptor)
            os.fchown(descriptor, os.geteuid(), os.getegid())
            os.fchmod(descriptor, 0o444)
            os.fsync(descriptor)
        sync_directory(self.target)

    def withdraw(self) -> None:
        """Let go of the files; nothing stays in the jail. Blocking; idempotent."""
        for name, descriptor in (*self.open.items(), *self.inside.items()):
            with contextlib.suppress(OSError):
                os.close(descriptor)
            if self.jail is not None:
                with contextlib.suppress(OSError):
                    (self.jail / self.known(name)).unlink(missing_ok=True)
        self.open.clear()
        self.inside.clear()


@asynccontextmanager
async def offered(
    target: Path, names: Sequence[str], *, jail: Path | None = None, sparse: Sequence[str] = ()
) -> AsyncIterator[Offer]:
    """Offer files in ``target`` for the length of the block, and keep them when it ends well. Raises `Failed`."""
    offer = Offer(target, jail)
    try:
        await trio.to_thread.run_sync(offer.make, names)
        yield offer
        await trio.to_thread.run_sync(offer.keep, sparse)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Failed(
            f"the snapshot can't be written in {target}: {error.strerror}",
            code="disk-full" if full else None,
            fix="free some space there" if full else None,
        ) from error
    finally:
        with trio.move_on_after(_TIDY, shield=True):
            await trio.to_thread.run_sync(offer.withdraw)


def dig(descriptor: int) -> None:
    """Give the disk back what a file has only zeros in. Blocking; where that is not possible nothing happens."""
    size = os.fstat(descriptor).st_size
    zeros = 0  # bytes before ``at`` that are a hole to be
    at = 0
    while at < size:
        data = os.pread(descriptor, _STEP, at)
        if len(data) == _STEP and data == _ZEROS:
            zeros += _STEP
        elif zeros:
            if not _punch(descriptor, at - zeros, zeros):
                return
            zeros = 0
        at += len(data) or size
    if zeros:
        _punch(descriptor, at - zeros, zeros)


def _punch(descriptor: int, start: int, length: int) -> bool:
    place = (ctypes.c_long(start), ctypes.c_long(length))
    return bool(_LIBC.fallocate(descriptor, _PUNCH_HOLE, *place) == 0)


def _copy(source: int, target: int) -> None:
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    at = 0
    while at < size:
        data = os.pread(source, _STEP, at)
        if not data:
            break
        at += len(data) if data == _ZEROS else os.pwrite(target, data, at)


def _create(path: Path) -> int:
    """Make a file that was not there, so that nobody else can have it open or have put a link in its place."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
