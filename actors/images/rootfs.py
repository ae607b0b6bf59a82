"""The root filesystem: tar2sqfs fed with the merged stream, under a deadline, leaving nothing half-done."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import trio

from actors.images.problems import full_disk, is_full_disk
from actors.model.errors import Failed

Stream = Iterable[bytes | memoryview]

#: One that Debian's cloud kernel reads. Level 3 packs about as fast as Python can feed it.
COMPRESSION = ("-c", "zstd", "-X", "level=3")
_PIPE_SIZE = 1024 * 1024
_BATCH = 256 * 1024
#: A file that can't grow by this much, on a disk that refused a write, met a full disk.
_PROBE = 1024 * 1024


async def pack(produce: Callable[[], Stream], target: Path, *, deadline: float, program: str = "tar2sqfs") -> int:
    """Write a squashfs of the tar stream that ``produce`` makes (in a worker thread) to ``target``; return its size.

    The file is 0444, owned by this process's user (root) and fsynced, and does not exist when this raises:
    `actors.model.errors.Problem` (a full disk, a missing program, the deadline in seconds) or what ``produce`` raised.
    """
    executable = shutil.which(program)
    if executable is None:
        raise Failed(
            f"{program} is not installed on this host", fix="run zeitwork setup: it installs squashfs-tools-ng"
        )
    done = False
    try:
        with target.open("xb") as output, trio.fail_after(deadline):
            await _run(executable, produce, output, target.parent)
            size = await trio.to_thread.run_sync(_settle, output)
            done = True
            return size
    except trio.TooSlowError:
        raise Failed(
            f"making the root filesystem took longer than {deadline:.0f} s", fix="make the image smaller, or try again"
        ) from None
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(target.parent) from error
        raise
    finally:
        if not done:
            _discard(target)


async def _run(executable: str, produce: Callable[[], Stream], output: BinaryIO, where: Path) -> None:
    workers = min(4, len(os.sched_getaffinity(0)))
    # By descriptor, so that it can't unlink the file when a write fails: its size then tells whether the disk is full.
    path = f"/proc/self/fd/{output.fileno()}"
    command = [executable, "-q", "-f", "-s", *COMPRESSION, "-j", str(workers), path]
    with _errors() as errors:
        read_end, write_end = os.pipe()
        feed = os.fdopen(write_end, "wb", buffering=0)
        try:
            with os.fdopen(read_end, "rb") as stdin:
                process = _spawn(command, stdin, errors, output)
        except BaseException:
            feed.close()
            raise
        fed = False
        failure: Exception | None = None
        try:
            with contextlib.suppress(OSError):  # only for speed
                fcntl.fcntl(feed.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            async with trio.open_nursery() as nursery:
                # A thread that is blocked on a full pipe comes back only when the reader is gone.
                nursery.start_soon(_kill_when_cancelled, process)
                try:
                    fed = await trio.to_thread.run_sync(_feed, produce, feed)
                    feed.close()
                    await _wait(process)
                except Exception as error:  # kept out of the nursery, which would wrap it in a group
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            feed.close()
            process.kill()
            process.wait(10)  # killed: this only reaps it
        if failure is not None:
            raise failure
        if process.returncode == 0 and fed:
            return
        if _is_full(output):
            raise full_disk(where)
        errors.seek(0)
        words = errors.read(2000).decode("utf-8", "replace").strip()
        raise Failed(
            f"tar2sqfs ended with status {process.returncode}: {words or 'no message'}",
            fix="check the host's disk and its squashfs-tools-ng; if those are in order, report this",
        )


def _spawn(command: list[str], stdin: BinaryIO, errors: BinaryIO, output: BinaryIO) -> subprocess.Popen[bytes]:
    # Not trio.open_process, which forks in a worker thread. It ends when we do: our death closes its standard input.
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=(output.fileno(),),
        env={"PATH": os.defpath, "LC_ALL": "C"},
        cwd="/",
    )


def _discard(target: Path) -> None:
    target.unlink(missing_ok=True)


def _errors() -> BinaryIO:
    return os.fdopen(os.memfd_create("tar2sqfs-stderr", os.MFD_CLOEXEC), "w+b")


async def _wait(process: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(process.pid)
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
    process.wait(10)


async def _kill_when_cancelled(process: subprocess.Popen[bytes]) -> None:
    try:
        await trio.sleep_forever()
    finally:
        process.kill()


def _feed(produce: Callable[[], Stream], feed: BinaryIO) -> bool:
    """Write the stream; False when the reader went away before its end."""
    small = bytearray()
    try:
        for piece in produce():
            if len(piece) < _BATCH and len(small) < _BATCH:
                small += piece
                continue
            _write_all(feed, small)
            small = bytearray()
            _write_all(feed, piece)
        _write_all(feed, small)
    except BrokenPipeError:
        return False
    return True


def _write_all(feed: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        trio.from_thread.check_cancelled()
        view = view[feed.write(view) :]


def _is_full(output: BinaryIO) -> bool:
    try:
        os.posix_fallocate(output.fileno(), os.fstat(output.fileno()).st_size, _PROBE)
    except OSError as error:
        return is_full_disk(error)
    return False


def _settle(output: BinaryIO) -> int:
    os.fchmod(output.fileno(), 0o444)
    os.fsync(output.fileno())
    return os.fstat(output.fileno()).st_size
