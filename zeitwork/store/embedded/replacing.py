"""Other data for an embedded server that does not run: made beside the present ones, which are kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from actors.model.errors import Failed
from zeitwork.store.embedded import postmaster
from zeitwork.store.embedded.holding import REPLACED, STAGING, refuse_replaced, sync, take_lock
from zeitwork.store.embedded.server import LEFTOVER_PATIENCE, EmbeddedServer
from zeitwork.store.problems import disk_full
from zeitwork.store.system_user import require_user

T = TypeVar("T")


async def replace_data(directory: Path, run: Path, fill: Callable[[str], Awaitable[T]]) -> tuple[T, tuple[Path, ...]]:
    """Have ``fill`` write into an empty database, given its DSN, then put that in place of the present one.

    Returns what ``fill`` returned, and where the data are that were there before: nothing of them is deleted. When
    anything fails, or this is cancelled, they stay in use and nothing of the new ones is left. Raises `Conflict` when
    a server is in use there, `Failed` when the database was moved away, and what ``fill`` raises.
    """
    user, staging = require_user(), directory / STAGING
    lock = await trio.to_thread.run_sync(_hold, directory)
    try:
        await trio.to_thread.run_sync(_clear, directory, staging, user.pw_uid)
        # Not at the socket of the server to be: one of a restore that was killed takes its own away as it ends.
        async with EmbeddedServer(staging, run / STAGING).running() as server:
            result = await fill(server.dsn)
        # Stopped in order: what is in there is on the disk.
        with trio.CancelScope(shield=True):
            kept = await trio.to_thread.run_sync(_swap, directory, staging)
    except OSError as error:
        raise disk_full(error, directory) or Failed(f"{directory} can't be changed: {error}") from error
    finally:
        with trio.CancelScope(shield=True):
            for left in (staging, run / STAGING):
                await trio.to_thread.run_sync(partial(shutil.rmtree, left, ignore_errors=True))
        os.close(lock)
    return result, kept


def _hold(directory: Path) -> int:
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        directory.chmod(0o755)
        lock = take_lock(directory)
    except OSError as error:
        raise disk_full(error, directory) or Failed(f"{directory} can't be used: {error}") from error
    try:
        if any(directory.glob("data-*")):
            # After a restore that was cut short there are none, and another one is what mends it.
            refuse_replaced(directory)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _clear(directory: Path, staging: Path, uid: int) -> None:
    """End servers that outlived their process, and remove what a restore that was killed left."""
    for data in (*directory.glob("data-*"), *staging.glob("data-*")):
        postmaster.stop_leftover(data, uid, patience=LEFTOVER_PATIENCE)
        if postmaster.servers(data, uid):
            raise Failed(f"a leftover database server on {data} could not be stopped", fix="reboot the machine")
    if staging.exists():
        shutil.rmtree(staging)


def _swap(directory: Path, staging: Path) -> tuple[Path, ...]:
    (made,) = (path for path in staging.glob("data-*") if path.suffix != ".new")
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = []
    for present in sorted(directory.glob("data-*")):
        aside = directory / f"{REPLACED}{stamp}-{present.name}"
        present.rename(aside)
        kept.append(aside)
    # Between these two no server starts here: see `refuse_replaced`.
    sync(directory)
    made.rename(directory / made.name)
    sync(directory)
    return tuple(kept)
