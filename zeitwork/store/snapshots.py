"""Snapshots of instances: asked for, taken by the host that has the machine, restored, deleted."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from actors.model.errors import Conflict
from actors.model.records import SnapshotMade
from actors.model.states import InstanceDesired, SnapshotState
from zeitwork.store.identifiers import new_id
from zeitwork.store.instance_rows import lock_instance, missing_instance
from zeitwork.store.paging import check_limit, page, parse_cursor
from zeitwork.store.rows import Page, SnapshotRow
from zeitwork.store.snapshot_rows import (
    SELECT,
    TAKEN_WHILE,
    get_snapshot,
    insert_snapshot,
    lock_snapshot,
    missing_snapshot,
    refuse_while_needed,
    snapshot_row,
    write_snapshot,
)
from zeitwork.store.units import Cursor, Units


class Snapshots:
    """Snapshots; also `actors.host.store.SnapshotStore`."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def create(
        self, instance_id: UUID, *, name: str | None = None, id: UUID | None = None, who: str = "api"
    ) -> SnapshotRow:
        """Ask for a snapshot of what runs now; it is ``creating`` until its host has taken it.

        Raises `NotFound`, and `Conflict` unless the instance runs or is paused, and while another is being taken of
        it. Creating the same ``id`` again returns what there is.
        """
        snapshot_id = id or new_id()

        def unit(cursor: Cursor) -> SnapshotRow:
            cursor.execute("select from snapshots where id = %s", (snapshot_id,))
            if cursor.fetchone() is None:
                _create(cursor, instance_id, snapshot_id, name, who)
            return get_snapshot(cursor, snapshot_id)

        return await self._units.run(unit, name="snapshots.create")

    async def get(self, snapshot_id: UUID) -> SnapshotRow:
        """Return a snapshot, a deleted one too. Raises `NotFound`."""
        return await self._units.read(lambda cursor: get_snapshot(cursor, snapshot_id), name="snapshots.get")

    async def list(
        self,
        *,
        instance_id: UUID | None = None,
        state: SnapshotState | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[SnapshotRow]:
        """Return snapshots, oldest first; deleted ones only when ``state`` asks for them."""
        after = parse_cursor(cursor)
        check_limit(limit)

        def unit(cursor: Cursor) -> Page[SnapshotRow]:
            shown = "s.state <> 'deleted'" if state is None else "s.state = %(state)s"
            cursor.execute(
                f"{SELECT} where s.id > %(after)s and {shown} and "
                "(%(instance)s::uuid is null or s.instance_id = %(instance)s) order by s.id limit %(limit)s".encode(),
                {"after": after, "state": state, "instance": instance_id, "limit": limit + 1},
            )
            return page(cursor.fetchall(), limit, snapshot_row)

        return await self._units.read(unit, name="snapshots.list")

    async def delete(self, snapshot_id: UUID, *, who: str = "api") -> SnapshotRow:
        """Ask that a snapshot be deleted; it is ``deleted`` once its host confirms that no file of it is left.

        Raises `NotFound`, and `Conflict` with the instances that have yet to start from it. Deleting it twice is
        harmless; one that is being taken is given up.
        """

        def unit(cursor: Cursor) -> SnapshotRow:
            row = lock_snapshot(cursor, snapshot_id)
            if row is None:
                raise missing_snapshot(snapshot_id)
            if row["state"] not in (SnapshotState.DELETING, SnapshotState.DELETED):
                refuse_while_needed(cursor, snapshot_id)
                write_snapshot(cursor, row, SnapshotState.DELETING, row["reason"], who=who)
            return get_snapshot(cursor, snapshot_id)

        return await self._units.run(unit, name="snapshots.delete")

    async def counts(self) -> dict[SnapshotState, int]:
        """Return how many snapshots that are not deleted have each state, zeros included."""

        def unit(cursor: Cursor) -> dict[SnapshotState, int]:
            cursor.execute("select state, count(*) as count from snapshots where state <> 'deleted' group by state")
            counts = {state: 0 for state in SnapshotState if state is not SnapshotState.DELETED}
            return counts | {SnapshotState(row["state"]): row["count"] for row in cursor}

        return await self._units.read(unit, name="snapshots.counts")

    async def taken(self, snapshot_id: UUID, made: SnapshotMade) -> bool:
        """Write that a snapshot is ready; False when nobody wants it any more: its files are to be removed."""

        def unit(cursor: Cursor) -> bool:
            row = lock_snapshot(cursor, snapshot_id)
            if row is None or row["state"] != SnapshotState.CREATING:
                return row is not None and row["state"] == SnapshotState.READY
            write_snapshot(cursor, row, SnapshotState.READY, made=made, who="host")
            return True

        return await self._units.run(unit, name="snapshots.taken")

    async def failed(self, snapshot_id: UUID, reason: str) -> None:
        """Write that a snapshot could not be taken, with a sentence for people."""

        def unit(cursor: Cursor) -> None:
            row = lock_snapshot(cursor, snapshot_id)
            if row is not None and row["state"] == SnapshotState.CREATING:
                write_snapshot(cursor, row, SnapshotState.FAILED, reason, who="host")

        await self._units.run(unit, name="snapshots.failed")

    async def deleting(self, node_id: UUID, snapshot_ids: Collection[UUID]) -> set[UUID]:
        """Return what may be destroyed on this host: of ``snapshot_ids`` those that failed or are deleted, and all
        that are to be deleted, whether they are among them or not.

        A host that has no files of one answers `removed` all the same: only that ends its deletion.
        """

        def unit(cursor: Cursor) -> set[UUID]:
            cursor.execute(
                "select id from snapshots where node_id = %s "
                "and (state = 'deleting' or state in ('failed', 'deleted') and id = any(%s))",
                (node_id, list(snapshot_ids)),
            )
            return {row["id"] for row in cursor}

        return await self._units.read(unit, name="snapshots.deleting")

    async def removed(self, snapshot_id: UUID) -> None:
        """Write that nothing of a snapshot that was to be deleted is left on its host."""

        def unit(cursor: Cursor) -> None:
            row = lock_snapshot(cursor, snapshot_id)
            if row is not None and row["state"] == SnapshotState.DELETING:
                write_snapshot(cursor, row, SnapshotState.DELETED, row["reason"], who="host")

        await self._units.run(unit, name="snapshots.removed")


def _create(cursor: Cursor, instance_id: UUID, snapshot_id: UUID, name: str | None, who: str) -> None:
    # Whoever observes a placement locks its instance first: what is read of both here is true until the commit.
    instance = lock_instance(cursor, instance_id)
    if instance is None:
        raise missing_instance(instance_id)
    cursor.execute(
        "select p.*, m.digest from placements p, images m where p.instance_id = %s and p.generation = %s "
        "and p.state = any(%s) and m.id = %s",
        (instance_id, instance["generation"], list(TAKEN_WHILE), instance["image_id"]),
    )
    placement = cursor.fetchone()
    if placement is None or instance["desired"] != InstanceDesired.RUNNING:
        wish = "" if instance["desired"] == InstanceDesired.RUNNING else f" and wanted {instance['desired']}"
        raise Conflict(
            f"the instance is {instance['state']}{wish}: a snapshot is taken of what runs",
            fix="take it while the instance is running or paused",
            code="not-running",
        )
    cursor.execute("select id from snapshots where instance_id = %s and state = 'creating'", (instance_id,))
    other = cursor.fetchone()
    if other is not None:
        raise Conflict(
            f"snapshot {other['id']} of the instance is being taken",
            fix="wait until it is ready, or delete it",
            code="snapshot-in-progress",
        )
    insert_snapshot(cursor, snapshot_id, name, instance, placement, placement["digest"], who)
