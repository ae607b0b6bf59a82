"""The writable layer of one placement: a sparse file with an ext4 file system, made without mounting anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import trio

from actors.model.errors import Failed, Problem
from actors.vm.files import sync_directory

#: Seconds for mke2fs; it writes little, but a disk may be slow.
_DEADLINE = 120.0
#: Below this ext4 has no room for a journal and overlayfs none for its work.
MIN_DISK = 16


async def make_disk(path: Path, mib: int) -> None:
    """Make ``path`` an empty ext4 of ``mib`` MiB, unless it is there already: then it is kept as it is.

    It takes space only as the guest writes. Raises `Problem` when the disk is full or mke2fs is missing. A cancelled
    or failed attempt leaves nothing under the final name.
    """
    if await trio.Path(path).exists():
        return
    temporary = path.with_name(f".{path.name}.new")
    try:
        await trio.to_thread.run_sync(_allocate, temporary, mib)
        await _format(temporary)
        await trio.to_thread.run_sync(_publish, temporary, path)
    except OSError as error:
        raise _problem(error.strerror or str(error), path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _allocate(path: Path, mib: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, max(MIN_DISK, mib) * 1024 * 1024)
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
