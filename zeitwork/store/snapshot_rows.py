"""Rows of ``snapshots``, read and changed as a part of what others do too. Writes the table ``snapshots``.

Locks are taken in one order everywhere: the instance, its placement, the node, the snapshot.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from actors.model.errors import Conflict, NotFound
from actors.model.records import SnapshotMade
from actors.model.resources import Resources
from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import PlacementState, SnapshotState
from zeitwork.store.cursor import Cursor
from zeitwork.store.health import check_from_json
from zeitwork.store.journal import announce, record
from zeitwork.store.rows import SnapshotRow

SELECT = """
select s.*, i.name as instance_name, m.source as image_source
from snapshots s join instances i on i.id = s.instance_id join images m on m.id = s.image_id
"""
#: Placements that a snapshot can be taken of.
TAKEN_WHILE = (PlacementState.RUNNING, PlacementState.PAUSED)
#: Instances that a refusal names.
_NAMED = 5

# An instance needs its snapshot until its machine has gone on from it once; from then on it has a disk of its own.
_NEEDED_BY = """
select coalesce(i.name, i.id::text) as name from instances i join placements p on p.instance_id = i.id
where p.snapshot_id = %(id)s and p.state <> 'removed' and p.running_at is null
union
select coalesce(i.name, i.id::text) from instances i
where i.snapshot_id = %(id)s and i.snapshot_generation = i.generation and i.desired = 'running'
    and not exists (select from placements where instance_id = i.id and generation = i.generation)
    and not (i.state = 'failed' and i.observed_generation = i.generation)
order by 1
"""


def snapshot_row(row: Mapping[str, Any]) -> SnapshotRow:
    """Return a row of `SELECT` as what is handed out."""
    return SnapshotRow(
        id=row["id"],
        name=row["name"],
        instance_id=row["instance_id"],
        instance_name=row["instance_name"],
        placement_id=row["placement_id"],
        node_id=row["node_id"],
        image_id=row["image_id"],
        image_source=row["image_source"],
        image_digest=row["image_digest"],
        resources=Resources(row["vcpu"], row["memory"], row["disk"]),
        default_port=row["default_port"],
        environment=dict(row["environment"]),
        command=tuple(row["command"]),
        stop_timeout=row["stop_timeout"],
        restart=RestartPolicy(RestartMode(row["restart_mode"]), row["restart_max_attempts"]),
        health_check=check_from_json(row["health"]),
        state=SnapshotState(row["state"]),
        reason=row["reason"],
        size=row["size"],
        hypervisor=row["hypervisor"],
        vmm_version=row["vmm_version"],
        guest=row["guest"],
        cpu=row["cpu"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        ready_at=row["ready_at"],
        deleted_at=row["deleted_at"],
    )


def get_snapshot(cursor: Cursor, snapshot_id: UUID) -> SnapshotRow:
    """Return a snapshot, a deleted one too. Raises `NotFound`."""
    cursor.execute(f"{SELECT} where s.id = %s".encode(), (snapshot_id,))
    row = cursor.fetchone()
    if row is None:
        raise missing_snapshot(snapshot_id)
    return snapshot_row(row)


def missing_snapshot(snapshot_id: UUID) -> NotFound:
    """Return the refusal of an id that no snapshot has."""
    return NotFound(f"there is no snapshot {snapshot_id}", fix="`zeitwork snapshots` lists them")


def lock_snapshot(cursor: Cursor, snapshot_id: UUID, *, to_use: bool = False) -> dict[str, Any] | None:
    """Return a snapshot's row, locked until the transaction ends, None when there is none.

    ``to_use`` is for those who need it unchanged: any number may hold that lock, and a deletion waits for them.
    """
    cursor.execute(
        b"select * from snapshots where id = %s for share"
        if to_use
        else b"select * from snapshots where id = %s for no key update",
        (snapshot_id,),
    )
    return cursor.fetchone()


def lock_snapshots(cursor: Cursor, snapshot_ids: Collection[UUID]) -> dict[UUID, dict[str, Any]]:
    """Return snapshots' rows by id, locked to be used."""
    cursor.execute("select * from snapshots where id = any(%s) order by id for share", (list(snapshot_ids),))
    return {row["id"]: row for row in cursor}


def insert_snapshot(
    cursor: Cursor,
    snapshot_id: UUID,
    name: str | None,
    instance: Mapping[str, Any],
    placement: Mapping[str, Any],
    digest: str,
    who: str,
) -> None:
    """Want a snapshot of a live placement; its instance is locked. Announced to its host."""
    cursor.execute(
        "insert into snapshots (id, name, instance_id, placement_id, node_id, image_id, image_digest, vcpu, memory, "
        "disk, default_port, environment, command, stop_timeout, restart_mode, restart_max_attempts, health) "
        "values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            snapshot_id,
            name,
            instance["id"],
            placement["id"],
            placement["node_id"],
            instance["image_id"],
            digest,
            placement["vcpu"],
            placement["memory"],
            placement["disk"],
            instance["default_port"],
            Jsonb(instance["environment"]),
            Jsonb(instance["command"]),
            instance["stop_timeout"],
            instance["restart_mode"],
            instance["restart_max_attempts"],
            None if instance["health"] is None else Jsonb(instance["health"]),
        ),
    )
    data = {"instance_id": str(instance["id"]), "placement_id": str(placement["id"]), "name": name}
    record(cursor, who, "snapshot.created", "snapshot", snapshot_id, data)
    announce(cursor, "zw_snapshots", snapshot_id)
    announce(cursor, "zw_placements", placement["id"])


def write_snapshot(
    cursor: Cursor,
    row: Mapping[str, Any],
    state: SnapshotState,
    reason: str = "",
    *,
    made: SnapshotMade | None = None,
    who: str,
) -> None:
    """Write what a (locked) snapshot is now, and with ``made`` what it came to be."""
    cursor.execute(
        "update snapshots set state = %(state)s, reason = %(reason)s, updated_at = now(), "
        "size = coalesce(%(size)s, size), hypervisor = coalesce(%(hypervisor)s, hypervisor), "
        "vmm_version = coalesce(%(vmm_version)s, vmm_version), guest = coalesce(%(guest)s, guest), "
        "cpu = coalesce(%(cpu)s, cpu), ready_at = case when %(state)s = 'ready' then now() else ready_at end, "
        "deleted_at = case when %(state)s = 'deleted' then now() end where id = %(id)s",
        {
            "state": state,
            "reason": reason,
            "size": made.size if made else None,
            "hypervisor": made.hypervisor if made else None,
            "vmm_version": made.vmm_version if made else None,
            "guest": made.guest if made else None,
            "cpu": made.cpu if made else None,
            "id": row["id"],
        },
    )
    data = {"instance_id": str(row["instance_id"]), "from": row["state"], "to": state, "reason": reason}
    record(cursor, who, "snapshot.state", "snapshot", row["id"], data)
    announce(cursor, "zw_snapshots", row["id"])
    if row["state"] == SnapshotState.CREATING:
        announce(cursor, "zw_placements", row["placement_id"])  # it is not held up by this any more


def fail_snapshots_of(cursor: Cursor, placement_id: UUID, reason: str) -> None:
    """Fail what was to be taken of a placement that can't be any more."""
    cursor.execute(
        "select * from snapshots where placement_id = %s and state = 'creating' for no key update", (placement_id,)
    )
    for row in cursor.fetchall():
        write_snapshot(cursor, row, SnapshotState.FAILED, reason, who="host")


def lose_snapshots_of(cursor: Cursor, node_id: UUID, who: str) -> None:
    """Write that the snapshots of a node that is being deleted are gone with it. No placement is on it any more.

    Raises `Conflict` with the instances that have yet to start from one.
    """
    cursor.execute(
        "select * from snapshots where node_id = %s and state <> 'deleted' order by id for no key update", (node_id,)
    )
    for row in cursor.fetchall():
        refuse_while_needed(cursor, row["id"])
        write_snapshot(cursor, row, SnapshotState.DELETED, "its host was deleted", who=who)


def refuse_while_needed(cursor: Cursor, snapshot_id: UUID) -> None:
    """Raise `Conflict` with the instances that have yet to start from this snapshot; it is locked."""
    cursor.execute(_NEEDED_BY, {"id": snapshot_id})
    names = [row["name"] for row in cursor]
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise Conflict(
            f"snapshot {snapshot_id} is needed: {', '.join(names[:_NAMED])}{more} has yet to start from it",
            fix="wait until it runs, or remove it first",
            code="snapshot-needed",
        )
