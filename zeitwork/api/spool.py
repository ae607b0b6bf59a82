"""Uploaded archives: written to the spool as they arrive, whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import trio
from starlette.requests import Request

from actors.model.errors import InvalidInput, Problem
from zeitwork.api.decode import stalling_stream, too_large

#: What stands before an archive's path in an image's source (`actors.images.pull`).
ARCHIVE = "archive:"
#: Bytes that an archive's name may have, so that it and the id before it fit a file name.
NAME_LIMIT = 200
#: Seconds for which an upload may pause: archives come out of programs that pack while they send.
UPLOAD_STALL_S = 300.0
_PARTIAL = ".part"
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Received:
    """An archive that arrived whole, under a provisional name. ``digest`` is its SHA-256, ``size`` in bytes."""

    path: Path
    digest: bytes
    size: int

    def keep(self, directory: Path, image_id: UUID, name: str) -> Path:
        """Give the archive its final name and return it. Doing it again for the same image replaces the file."""
        final = directory / f"{image_id}_{name}"
        self.path.rename(final)
        _sync_directory(directory)
        return final


def source_of(path: Path) -> str:
    """Return the source of an image that is made from the archive at ``path``, as the images actor reads it."""
    return f"{ARCHIVE}{path}"


def shown_source(source: str) -> str:
    """Return a source as people see it: an archive by the name they gave it, not by where it waits."""
    if not source.startswith(ARCHIVE):
        return source
    return ARCHIVE + source.rpartition("/")[2].partition("_")[2]


def discard_partial(spool: Path) -> None:
    """Remove what uploads left that an earlier process did not finish."""
    for path in spool.glob(f"*{_PARTIAL}"):
        path.unlink(missing_ok=True)


@asynccontextmanager
async def receive(request: Request, spool: Path, name: str, limit: int) -> AsyncIterator[Received]:
    """Yield the request's body as a file; unless it is kept in the block, it is gone afterwards.

    Raises `Problem` 413 above ``limit`` bytes, 507 when the disk is full, `InvalidInput` when it is empty.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    path = spool / f"{name}{_PARTIAL}"
    try:
        yield await _write(request, path, limit)
    except OSError as error:
        raise _storage_problem(error) from error
    finally:
        path.unlink(missing_ok=True)


async def _write(request: Request, path: Path, limit: int) -> Received:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest, size = hashlib.sha256(), 0
    pending = bytearray()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def flush() -> None:
        digest.update(pending)
        view = memoryview(pending)
        while view:
            view = view[os.write(descriptor, view) :]
        view.release()

    try:
        async for chunk in stalling_stream(request, UPLOAD_STALL_S):
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            pending += chunk
            if len(pending) >= _BUFFER:
                await trio.to_thread.run_sync(flush)
                pending = bytearray()
        await trio.to_thread.run_sync(flush)
        await trio.to_thread.run_sync(os.fsync, descriptor)
    finally:
        os.close(descriptor)
    if not size:
        raise InvalidInput("the archive is empty", fix="send what `docker save` writes, or a tar of an OCI layout")
    return Received(path, digest.digest(), size)


def _storage_problem(error: OSError) -> Problem:
    return Problem(
        f"the archive can't be stored: {error.strerror or error}",
        fix="free space in the data directory and send it again",
        code="insufficient-storage",
        status=507,
    )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
