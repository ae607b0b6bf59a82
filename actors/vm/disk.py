"""The writable layer of one placement: a sparse file with an ext4 file system, made without mounting anything."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from pathlib import Path

import trio

from actors.model.crash_points import CrashPoint
from actors.model.errors import Failed, Problem
from actors.vm.files import sync_directory
from actors.vm.process import read_stat
from runtime import crash

#: Seconds for mke2fs; it writes little, but a disk may be slow.
_DEADLINE = 120.0
#: Below this ext4 has no room for a journal and overlayfs none for its work.
MIN_DISK = 16
_CHUNK = 64 * 1024
_FICLONE = 0x40049409


async def make_disk(path: Path, mib: int, templates: Path) -> None:
    """Make ``path`` an empty ext4 of ``mib`` MiB, unless it is there already: then it is kept as it is.

    It takes space only as the guest writes. It is copied from one of its size in ``templates``, which is made first
    when it is missing: copying takes a tenth of formatting. Raises `Problem` when the disk is full or mke2fs is
    missing. A cancelled or failed attempt leaves nothing under the final name.
    """
    mib = max(MIN_DISK, mib)
    template = templates / f"ext4-{mib}.template"
    temporary = path.with_name(f".{path.name}.new")
    try:
        if not await trio.to_thread.run_sync(_take, template, temporary, path):
            await _make_template(template, mib)
            await trio.to_thread.run_sync(_publish_copy, template, temporary, path)
    except OSError as error:
        raise _problem(error.strerror or str(error), path) from error
    finally:
        temporary.unlink(missing_ok=True)


async def _make_template(template: Path, mib: int) -> None:
    # A name of its own: two placements may be the first of their size.
    scratch = template.with_name(f".{template.name}.{_life()}.{id(trio.lowlevel.current_task())}")
    try:
        await trio.to_thread.run_sync(_allocate, scratch, mib)
        await _format(scratch)
        crash.point(CrashPoint.TEMPLATE_FORMATTED)
        await trio.to_thread.run_sync(_publish, scratch, template)
    finally:
        scratch.unlink(missing_ok=True)


def sweep(templates: Path) -> None:
    """Remove half-made templates of a process that was killed. Blocking; the data directory is this process's alone."""
    own = f".{_life()}."
    for path in templates.glob(".ext4-*.template.*"):
        if own not in path.name:
            path.unlink(missing_ok=True)


def _life() -> str:
    """Return a name for this process: its PID alone comes again, in a container at once."""
    stat = read_stat(os.getpid())
    return f"{os.getpid()}-{stat[1] if stat else 0}"


async def restore_disk(path: Path, saved: Path) -> None:
    """Make ``path`` a copy of a snapshot's disk, in the place of what an interrupted start left. As `make_disk`."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        await trio.to_thread.run_sync(_publish_copy, saved, temporary, path)
    except FileNotFoundError as error:
        raise Failed(f"the snapshot's disk {saved} is missing", fix="restore another snapshot") from error
    except OSError as error:
        raise _problem(error.strerror or str(error), path) from error
    finally:
        temporary.unlink(missing_ok=True)


async def save_disk(path: Path, target: Path) -> None:
    """Copy a disk whose guest is held still; nothing is made durable. Raises `Problem`; the caller cleans up."""
    try:
        await trio.to_thread.run_sync(copy_sparse, path, target)
    except OSError as error:
        raise _problem(error.strerror or str(error), target) from error


def _take(template: Path, temporary: Path, path: Path) -> bool:
    """Copy a template unless the disk is there already; False when there is no template."""
    if path.exists():
        return True
    if not template.exists():
        return False
    _publish_copy(template, temporary, path)
    return True


def _publish_copy(template: Path, temporary: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    copy_sparse(template, temporary, durable=True)
    crash.point(CrashPoint.DISK_WRITTEN)
    temporary.replace(path)
    crash.point(CrashPoint.DISK_MADE)
    sync_directory(path.parent.parent)


def copy_sparse(template: Path, temporary: Path, *, durable: bool = False) -> None:
    """Copy the parts that hold something; the rest stays a hole. Shares blocks where the file system can. Blocking."""
    source = os.open(template, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if _clone(source, target):
                if durable:
                    os.fsync(target)
                return
            size = os.fstat(source).st_size
            os.ftruncate(target, size)
            at = 0
            while at < size:
                try:
                    begin = os.lseek(source, at, os.SEEK_DATA)
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    break  # only a hole is left
                at = os.lseek(source, begin, os.SEEK_HOLE)
                _copy_range(source, target, begin, at)
            if durable:  # what is under the final name must be whole after a power cut too
                os.fsync(target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _clone(source: int, target: int) -> bool:
    """Make ``target`` share all blocks of ``source``; False where the file system can't."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _copy_range(source: int, target: int, begin: int, end: int) -> None:
    while begin < end:
        data = os.pread(source, min(_CHUNK, end - begin), begin)
        if not data:
            raise OSError(errno.EIO, "a template ended early")
        # Blocks of zeros (an empty journal) need not be written at all.
        if data.count(0) != len(data):
            os.pwrite(target, data, begin)
        begin += len(data)


def _allocate(path: Path, mib: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, mib * 1024 * 1024)
    finally:
        os.close(descriptor)


async def _format(path: Path) -> None:
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", options, str(path)]
    with trio.move_on_after(_DEADLINE):
        try:
            result = await trio.run_process(
                command, capture_stdout=True, stderr=subprocess.STDOUT, check=False, stdin=subprocess.DEVNULL
            )
        except FileNotFoundError:
            raise Failed("mke2fs is not installed", fix="run zeitwork setup, or: apt install e2fsprogs") from None
        if result.returncode:
            words = result.stdout.decode("utf-8", "replace").strip()[-500:]
            raise _problem(words or f"mke2fs failed with status {result.returncode}", path)
        return
    raise Failed(f"mke2fs did not end within {_DEADLINE:g} s")


def _publish(temporary: Path, path: Path) -> None:
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)


def _problem(words: str, path: Path) -> Problem:
    if "No space left" in words or "File too large" in words or "quota" in words.lower():
        return Failed(
            f"the host's disk is full: a writable layer could not be made in {path.parent.parent}: {words}",
            code="disk-full",
            fix="free some space there, for example by deleting images",
            status=507,
        )
    return Failed(f"a writable layer could not be made: {words}")
