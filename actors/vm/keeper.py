"""What becomes of a snapshot once its machine goes on: made durable and told, or removed and told why."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from actors.host.store import SnapshotStore
from actors.model.crash_points import CrashPoint
from actors.vm.intent import Intent
from actors.vm.operations import Operations
from actors.vm.report import until_told
from runtime import Environment, crash


class SnapshotKeeper:
    """Keeps the snapshots of one machine. What it tells, it tells until the database has taken it."""

    def __init__(self, operations: Operations, store: SnapshotStore, env: Environment, log: Any) -> None:
        self._operations = operations
        self._store = store
        self._env = env
        self._log = log

    async def keep(self, snapshot: UUID, intent: Intent) -> None:
        """Make a snapshot durable and tell it; one that nobody wants any more is removed. Raises `OSError`."""
        try:
            made = await self._operations.keep_snapshot(snapshot, intent)
        except OSError as error:
            await self._operations.destroy_snapshot(snapshot)
            await self.fail(snapshot, f"it could not be kept: {error.strerror or error}")
            return
        crash.point(CrashPoint.SNAPSHOT_KEPT)
        tell = partial(self._store.taken, snapshot, made)
        wanted = await until_told(tell, self._env, self._log, snapshot=str(snapshot))
        crash.point(CrashPoint.SNAPSHOT_TOLD)
        if not wanted:
            await self._operations.destroy_snapshot(snapshot)

    async def fail(self, snapshot: UUID, reason: str) -> None:
        """Tell that a snapshot could not be taken."""
        self._log.warning("snapshot failed", snapshot=str(snapshot), reason=reason)
        await until_told(partial(self._store.failed, snapshot, reason), self._env, self._log, snapshot=str(snapshot))
