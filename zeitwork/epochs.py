"""The highest epoch of leadership that this host has seen, in its data directory: no backup of the database has it."""

from __future__ import annotations

import os
from pathlib import Path

import structlog
import trio

_log = structlog.get_logger()


class EpochFile:
    """`runtime.lease.EpochMemory` in a small file, replaced as a whole and synced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._highest = 0
        self._lock = trio.Lock()

    @property
    def highest(self) -> int:
        """Return the highest epoch that was read or written so far."""
        return self._highest

    async def load(self) -> int:
        """Return the epoch, 0 when there is none or the file can't be understood. Raises `OSError`."""
        async with self._lock:
            self._highest = max(self._highest, await trio.to_thread.run_sync(self._read))
            return self._highest

    async def keep(self, epoch: int) -> None:
        """Keep the epoch if it is higher than what was kept before. Raises `OSError`."""
        async with self._lock:
            if epoch > self._highest:
                await trio.to_thread.run_sync(self._write, epoch)
                self._highest = epoch

    def _read(self) -> int:
        try:
            text = self._path.read_bytes()[:32].decode("ascii").strip()
        except FileNotFoundError:
            return 0
        except UnicodeDecodeError:
            text = ""
        if not text.isdecimal():
            # The database and the other hosts know it, too.
            _log.warning("the highest epoch seen is forgotten: its file can't be understood", path=str(self._path))
            return 0
        return int(text)

    def _write(self, epoch: int) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, f"{epoch}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
