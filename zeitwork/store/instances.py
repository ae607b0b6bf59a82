"""Instances: what people want to run, and what became of it."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from actors.model.errors import Conflict, NotFound
from actors.model.resources import Resources
from actors.model.states import InstanceDesired, InstanceState, Volumes
from zeitwork.store.events import event_row
from zeitwork.store.identifiers import new_id
from zeitwork.store.instance_checks import check_image, check_room, check_snapshot
from zeitwork.store.instance_rows import (
    ENDED,
    SELECT,
    Named,
    end,
    get_instance,
    insert_instance,
    instance_row,
    lock_alive,
    next_generation,
    record_created,
    refuse_unless_running,
    set_paused,
    try_now,
    waits,
)
from zeitwork.store.node_rows import resource_rows
from zeitwork.store.paging import check_limit, page, parse_cursor
from zeitwork.store.placement_rows import placement_row
from zeitwork.store.relocation import replace as replace_placement
from zeitwork.store.rows import EventRow, InstanceRow, NewInstance, Page, PlacementRow
from zeitwork.store.units import Cursor, Units

# Of each subject by itself, which its index answers: in the order of all events it would be a reading of them all.
_EVENTS = """
select e.* from (
    select %(id)s::uuid as subject union all select id from placements where instance_id = %(id)s
    union all select id from snapshots where instance_id = %(id)s) s
    cross join lateral (
        select * from events where subject_id = s.subject and id > %(after)s order by id limit %(limit)s) e
order by e.id limit %(limit)s
"""


class Instances:
    """Desired and observed state of instances."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def create(self, new: NewInstance, *, who: str = "api") -> InstanceRow:
        """Write that an instance shall run.

        Raises `InvalidInput` that names the field when the image, node or snapshot does not exist, when it differs
        from the snapshot or no node could ever hold it (with the numbers), `Conflict` when the name is taken or the
        snapshot is not ready. Creating the same ``id`` again returns what there is.
        """
        instance_id = new.id or new_id()

        def unit(cursor: Cursor) -> InstanceRow:
            cursor.execute("select from instances where id = %s", (instance_id,))
            if cursor.fetchone() is not None:
                return get_instance(cursor, instance_id)
            check_image(cursor, new.image_id)
            _check_new(cursor, new)
            if insert_instance(cursor, instance_id, new):
                record_created(cursor, who, new, Named(instance_id, new.name))
            else:
                cursor.execute("select from instances where id = %s", (instance_id,))
                if cursor.fetchone() is None:
                    raise Conflict(
                        f"an instance named {new.name} exists already",
                        field="name",
                        fix=f"choose another name, or remove it first: zeitwork rm {new.name}",
                    )
            return get_instance(cursor, instance_id)

        return await self._units.run(unit, name="instances.create")

    async def get(self, instance_id: UUID) -> InstanceRow:
        """Return an instance, a terminated one too. Raises `NotFound`."""
        return await self._units.read(lambda cursor: get_instance(cursor, instance_id), name="instances.get")

    async def find(self, name: str) -> InstanceRow:
        """Return the instance of that name that is not terminated. Raises `NotFound`."""

        def unit(cursor: Cursor) -> InstanceRow:
            cursor.execute(f"{SELECT} where i.name = %s and i.state <> 'terminated'".encode(), (name,))
            row = cursor.fetchone()
            if row is None:
                raise NotFound(f"there is no instance named {name}", fix="`zeitwork ps` lists them")
            return instance_row(row)

        return await self._units.read(unit, name="instances.find")

    async def list(
        self,
        *,
        state: InstanceState | None = None,
        node_id: UUID | None = None,
        group_id: UUID | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[InstanceRow]:
        """Return instances, oldest first; terminated ones only when ``state`` asks for them.

        ``node_id`` and ``group_id`` leave those on a node and of a group.
        """
        after = parse_cursor(cursor)
        check_limit(limit)

        def unit(cursor: Cursor) -> Page[InstanceRow]:
            shown = "i.state <> 'terminated'" if state is None else "i.state = %(state)s"
            cursor.execute(
                f"{SELECT} where i.id > %(after)s and {shown} and (%(node)s::uuid is null or p.node_id = %(node)s) "
                "and (%(group)s::uuid is null or i.group_id = %(group)s) order by i.id limit %(limit)s".encode(),
                {"after": after, "state": state, "node": node_id, "group": group_id, "limit": limit + 1},
            )
            return page(cursor.fetchall(), limit, instance_row)

        return await self._units.read(unit, name="instances.list")

    async def set_desired(
        self,
        instance_id: UUID,
        desired: InstanceDesired,
        *,
        force: bool = False,
        stop_timeout: float | None = None,
        volumes: Volumes = Volumes.KEEP,
        who: str = "api",
    ) -> InstanceRow:
        """Ask an instance to run, stop or terminate.

        Asking what is already so changes nothing. ``running`` on one that has ended starts its next generation, on
        one that waits for its next try it makes that try come at once, on a paused one it resumes it.
        ``force`` skips the graceful part of a stop, ``stop_timeout`` (seconds) replaces its wait. ``volumes``
        says what becomes of them when it terminates, once it was to delete them for good. Raises `NotFound`, and
        `Conflict` for anything but terminated on a terminated one.
        """

        def unit(cursor: Cursor) -> InstanceRow:
            row = lock_alive(cursor, instance_id, desired)
            if desired is InstanceDesired.RUNNING:
                if row["desired"] == desired and waits(cursor, row):
                    try_now(cursor, row, who)
                    set_paused(cursor, row, False, who)
                elif row["desired"] != desired or row["state"] in ENDED:
                    next_generation(cursor, row, force=False, stop_wait=None, what="instance.started", who=who)
                else:
                    set_paused(cursor, row, False, who)
            else:
                end(cursor, row, desired, force, stop_timeout, who, volumes=volumes)
            return get_instance(cursor, instance_id)

        return await self._units.run(unit, name="instances.set_desired")

    async def restart(
        self, instance_id: UUID, *, force: bool = False, stop_timeout: float | None = None, who: str = "api"
    ) -> InstanceRow:
        """Start the next generation whatever the state; the present one is stopped first."""

        def unit(cursor: Cursor) -> InstanceRow:
            row = lock_alive(cursor, instance_id, InstanceDesired.RUNNING)
            next_generation(cursor, row, force=force, stop_wait=stop_timeout, what="instance.restarted", who=who)
            return get_instance(cursor, instance_id)

        return await self._units.run(unit, name="instances.restart")

    async def replace(self, instance_id: UUID, *, force: bool = False, who: str = "api") -> InstanceRow:
        """Ask that an instance be placed anew now. Asking again while that is under way changes nothing.

        It serves on where it is until the next one runs; when its host is down, nothing is waited for. A singleton is
        replaced with ``force`` only: it is stopped first, or when its host is down, two of it may run. Raises
        `NotFound`, and `Conflict` when it is not wanted running, when it may run on its host only, and without
        ``force``.
        """

        def unit(cursor: Cursor) -> InstanceRow:
            replace_placement(cursor, instance_id, force=force, who=who)
            return get_instance(cursor, instance_id)

        return await self._units.run(unit, name="instances.replace")

    async def restore(
        self,
        instance_id: UUID,
        snapshot_id: UUID,
        *,
        force: bool = False,
        stop_timeout: float | None = None,
        who: str = "api",
    ) -> InstanceRow:
        """Make the next generation go on from a snapshot; the present one is stopped first, and its disk is lost.

        Raises `NotFound`, `Conflict` when the snapshot is not ready, `InvalidInput` when the instance is not made of
        what the snapshot was.
        """

        def unit(cursor: Cursor) -> InstanceRow:
            row = lock_alive(cursor, instance_id, InstanceDesired.RUNNING)
            check_snapshot(
                cursor,
                snapshot_id,
                image_id=row["image_id"],
                resources=Resources(row["vcpu"], row["memory"], row["disk"]),
                environment=row["environment"],
                command=row["command"],
                node_id=row["pinned_node_id"],
            )
            next_generation(
                cursor,
                row,
                force=force,
                stop_wait=stop_timeout,
                what="instance.restored",
                who=who,
                snapshot_id=snapshot_id,
            )
            return get_instance(cursor, instance_id)

        return await self._units.run(unit, name="instances.restore")

    async def pause(self, instance_id: UUID, *, who: str = "api") -> InstanceRow:
        """Ask that an instance's machine stand still; it keeps what it holds. Asking twice is asking once.

        Raises `NotFound`, and `Conflict` unless it runs. A stop, restart or start ends the pause.
        """

        def unit(cursor: Cursor) -> InstanceRow:
            row = lock_alive(cursor, instance_id, InstanceDesired.RUNNING)
            if not row["paused"]:
                refuse_unless_running(row, "only what runs can be paused")
                set_paused(cursor, row, True, who)
            return get_instance(cursor, instance_id)

        return await self._units.run(unit, name="instances.pause")

    async def resume(self, instance_id: UUID, *, who: str = "api") -> InstanceRow:
        """Ask that a paused instance go on. Raises `NotFound`, and `Conflict` when it neither runs nor is paused."""

        def unit(cursor: Cursor) -> InstanceRow:
            row = lock_alive(cursor, instance_id, InstanceDesired.RUNNING)
            if not row["paused"] and row["state"] != InstanceState.PAUSED:
                refuse_unless_running(row, "only what is paused can be resumed")
            set_paused(cursor, row, False, who)
            return get_instance(cursor, instance_id)

        return await self._units.run(unit, name="instances.resume")

    async def delete(
        self,
        instance_id: UUID,
        *,
        force: bool = False,
        stop_timeout: float | None = None,
        volumes: Volumes = Volumes.KEEP,
        who: str = "api",
    ) -> InstanceRow:
        """Ask an instance to terminate; its state is ``terminated`` once the host confirms that nothing is left.

        On a host that is down it stays what it is until that host is back, and its reason says so.
        """
        return await self.set_desired(
            instance_id, InstanceDesired.TERMINATED, force=force, stop_timeout=stop_timeout, volumes=volumes, who=who
        )

    async def placements(self, instance_id: UUID) -> tuple[PlacementRow, ...]:
        """Return every try to run it, oldest first. Raises `NotFound`."""

        def unit(cursor: Cursor) -> tuple[PlacementRow, ...]:
            get_instance(cursor, instance_id)
            cursor.execute("select * from placements where instance_id = %s order by generation", (instance_id,))
            return tuple(placement_row(row) for row in cursor)

        return await self._units.read(unit, name="instances.placements")

    async def events(self, instance_id: UUID, *, after: int = 0, limit: int = 100) -> tuple[EventRow, ...]:
        """Return what happened to it, its placements and snapshots, oldest first. Raises `NotFound`."""
        check_limit(limit)

        def unit(cursor: Cursor) -> tuple[EventRow, ...]:
            get_instance(cursor, instance_id)
            cursor.execute(_EVENTS, {"after": after, "id": instance_id, "limit": limit})
            return tuple(event_row(row) for row in cursor)

        return await self._units.read(unit, name="instances.events")

    async def counts(self) -> dict[InstanceState, int]:
        """Return how many instances are in each state, zeros included."""

        def unit(cursor: Cursor) -> dict[InstanceState, int]:
            cursor.execute("select state, count(*) as count from instances group by state")
            return dict.fromkeys(InstanceState, 0) | {InstanceState(row["state"]): row["count"] for row in cursor}

        return await self._units.read(unit, name="instances.counts")


def _check_new(cursor: Cursor, new: NewInstance) -> None:
    """Refuse an instance that differs from its snapshot, or that no host could hold."""
    if new.snapshot_id is not None:
        node_id = check_snapshot(
            cursor,
            new.snapshot_id,
            image_id=new.image_id,
            resources=new.resources,
            environment=new.environment,
            command=new.command,
            node_id=new.node_id,
        )
        new = replace(new, node_id=node_id)
    check_room(new, resource_rows(cursor))
