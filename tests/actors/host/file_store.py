"""A double of the database in a directory: shared by the test and the host process that it kills and restarts."""

from __future__ import annotations

import fcntl
import json
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from actors.model.errors import NotFound, Unavailable
from actors.model.image import ImageConfig
from actors.model.network import Lease
from actors.model.records import Observation, Placement, SnapshotMade
from actors.model.resources import Resources
from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import PlacementState

NODE = uuid.UUID(int=7)


class FileStore:
    """Implements `actors.host.store.PlacementStore` and `SnapshotStore`. The file ``away`` makes it unavailable."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def add(self, placement_id: UUID, **row: Any) -> UUID:
        index = len(list(self.directory.glob("*.json")))
        row = {"index": index, "state": "assigned", "wanted": True, "boot_id": None, "observations": [], **row}
        self._write(placement_id, row)
        return placement_id

    def row(self, placement_id: UUID) -> dict[str, Any]:
        with self._lock():
            return json.loads(self._file(placement_id).read_text())

    def change(self, placement_id: UUID, **fields: Any) -> None:
        with self._lock():
            row = json.loads(self._file(placement_id).read_text())
            self._write(placement_id, {**row, **fields})

    def delete(self, placement_id: UUID) -> None:
        with self._lock():
            self._file(placement_id).unlink()

    @property
    def away(self) -> Path:
        return self.directory / "away"

    async def placements(self, node_id: UUID) -> list[Placement]:
        return await trio.to_thread.run_sync(self._placements)

    async def observe(self, placement_id: UUID, expected: Collection[PlacementState], observation: Observation) -> bool:
        return await trio.to_thread.run_sync(self._observe, placement_id, set(expected), observation)

    async def tombstones(self, node_id: UUID, placement_ids: Collection[UUID]) -> set[UUID]:
        self._check()
        found = set()
        for item in placement_ids:
            if self._file(item).exists() and self.row(item)["state"] == "removed":
                found.add(item)
        return found

    # --- `actors.host.store.SnapshotStore`: a snapshot is a file of its own, made by `order`

    def order(self, placement_id: UUID) -> UUID:
        """Want a snapshot of a placement and return its id."""
        identifier = uuid.uuid4()
        row = {"placement": str(placement_id), "state": "creating", "reason": "", "made": None}
        self._replace(self._snapshot(identifier), row)
        return identifier

    def snapshot(self, snapshot_id: UUID) -> dict[str, Any]:
        with self._lock():
            return json.loads(self._snapshot(snapshot_id).read_text())

    def ready(self) -> list[str]:
        """Return the snapshots that can be restored, in order."""
        return sorted(str(item) for item in self._orders() if self.snapshot(item)["state"] == "ready")

    def change_snapshot(self, snapshot_id: UUID, **fields: Any) -> None:
        with self._lock():
            row = json.loads(self._snapshot(snapshot_id).read_text())
            self._replace(self._snapshot(snapshot_id), {**row, **fields})

    async def taken(self, snapshot_id: UUID, made: SnapshotMade) -> bool:
        self._check()
        if self.snapshot(snapshot_id)["state"] not in ("creating", "ready"):
            return False
        self.change_snapshot(snapshot_id, state="ready", made=asdict(made))
        return True

    async def failed(self, snapshot_id: UUID, reason: str) -> None:
        self._check()
        self.change_snapshot(snapshot_id, state="failed", reason=reason)

    async def deleting(self, node_id: UUID, snapshot_ids: Collection[UUID]) -> set[UUID]:
        self._check()
        return {item for item in self._orders() if self.snapshot(item)["state"] == "deleting"} | {
            item
            for item in snapshot_ids
            if self._snapshot(item).exists() and self.snapshot(item)["state"] in ("failed", "deleted")
        }

    async def removed(self, snapshot_id: UUID) -> None:
        self._check()
        if self.snapshot(snapshot_id)["state"] == "deleting":
            self.change_snapshot(snapshot_id, state="deleted")

    def _orders(self, placement_id: UUID | None = None) -> list[UUID]:
        found = [UUID(path.stem) for path in sorted(self.directory.glob("*.snapshot"))]
        if placement_id is None:
            return found
        rows = [(item, self.snapshot(item)) for item in found]
        wanted = ("creating", str(placement_id))
        return [item for item, row in rows if (row["state"], row["placement"]) == wanted]

    def _snapshot(self, snapshot_id: UUID) -> Path:
        return self.directory / f"{snapshot_id}.snapshot"

    def _placements(self) -> list[Placement]:
        self._check()
        found = []
        for path in sorted(self.directory.glob("*.json")):
            row = self.row(UUID(path.stem))
            if row["state"] != "removed":
                identifier = UUID(path.stem)
                found.append(replace(to_placement(identifier, row), snapshots=tuple(self._orders(identifier))))
        return found

    def _observe(self, placement_id: UUID, expected: set[PlacementState], seen: Observation) -> bool:
        self._check()
        with self._lock():
            if not self._file(placement_id).exists():
                raise NotFound(f"there is no placement {placement_id}")
            row = json.loads(self._file(placement_id).read_text())
            if row["state"] not in expected or row["state"] == "removed":
                return bool(row["state"] == seen.state)
            row["state"] = seen.state
            row["boot_id"] = seen.boot_id or row["boot_id"]
            row["failures"] = row.get("failures", 0) if seen.failures is None else seen.failures
            row["next_try_at"] = seen.next_try_at
            row["ran"] = row.get("ran", False) or seen.state == "running"
            row["observations"].append(
                {
                    "state": seen.state,
                    "reason": seen.reason,
                    "outcome": seen.outcome,
                    "exit_status": seen.exit_status,
                    "hypervisor": seen.hypervisor,
                    "pid": seen.pid,
                }
            )
            self._write(placement_id, row)
            return True

    def _check(self) -> None:
        if self.away.exists():
            raise Unavailable("the database is away")

    def _file(self, placement_id: UUID) -> Path:
        return self.directory / f"{placement_id}.json"

    def _write(self, placement_id: UUID, row: dict[str, Any]) -> None:
        self._replace(self._file(placement_id), row)

    def _replace(self, file: Path, row: dict[str, Any]) -> None:
        # In one step: whoever writes may be killed in the middle, and a database would not mind.
        temporary = file.with_name(f".{file.stem}.new")
        temporary.write_text(json.dumps(row))
        temporary.replace(file)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with open(self.directory / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def to_placement(identifier: UUID, row: dict[str, Any]) -> Placement:
    return Placement(
        id=identifier,
        instance_id=uuid.uuid5(uuid.NAMESPACE_OID, str(identifier)),
        generation=1,
        node_id=NODE,
        wanted=row["wanted"],
        image_id=uuid.UUID(int=1),
        image_digest=row.get("digest", "sha256:test"),
        image_config=ImageConfig(entrypoint=tuple(row.get("argv", ())), env=("GREETING=hello",)),
        resources=Resources(vcpu=1, memory=row.get("memory", 128), disk=64),
        lease=Lease(v6=IPv6Address("fd7a:77::2") + row["index"], v4=IPv4Address("172.31.0.2") + row["index"]),
        default_port=80,
        state=PlacementState(row["state"]),
        hostname=row.get("hostname", "test-guest"),
        stop_timeout=row.get("stop_timeout", 10.0),
        force=row.get("force", False),
        boot_id=row["boot_id"],
        restart=RestartPolicy(RestartMode(row.get("restart", "never")), row.get("max_attempts")),
        failures=row.get("failures", 0),
        next_try_at=row.get("next_try_at"),
        paused=row.get("paused", False),
        restore=UUID(row["restore"]) if row.get("restore") and not row.get("ran") else None,
    )
