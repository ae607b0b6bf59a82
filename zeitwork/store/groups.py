"""Groups of instances: how many of a kind people want. Uses the functions of those who write the tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from actors.model.errors import Conflict, InvalidInput, NotFound
from actors.model.scheduling import MAX_REPLICAS
from actors.model.states import InstanceDesired, InstanceState, NodeState
from actors.scheduler.store import GroupChange, GroupView, Member
from zeitwork.store.current import COUNTS, FIRST
from zeitwork.store.events import event_row
from zeitwork.store.group_rows import (
    SELECT,
    get_group,
    group_row,
    insert_group,
    lock_group,
    missing_group,
    template_from_json,
    write_deleted,
    write_failures,
    write_gone,
    write_replicas,
)
from zeitwork.store.identifiers import new_id
from zeitwork.store.instance_checks import check_image, check_room
from zeitwork.store.instance_rows import Named, end, insert_instances, lock_instance, record_created
from zeitwork.store.journal import announce, record
from zeitwork.store.node_rows import resource_rows
from zeitwork.store.paging import check_limit, page, parse_cursor
from zeitwork.store.rows import EventRow, GroupRow, NewGroup, Page
from zeitwork.store.units import Cursor, Units

# Groups of which something may have to be done: a member more or less than wanted, or one that ended for good; some
# failed before and may run now; deleted. One pass over members, whatever the number of groups.
_UNSETTLED = """
select g.id, g.name, g.generation, g.replicas, g.deleted_at is not null as deleted, g.failures,
    greatest(0, coalesce(extract(epoch from g.retry_at - now()), 0))::float8 as retry_in
from instance_groups g left join (
    select group_id, count(*) filter (where desired <> 'terminated') as kept,
        count(*) filter (where desired = 'running' and not (state in ('failed', 'stopped')
            and observed_generation = generation)) as well
    from instances where group_id is not null and state <> 'terminated' group by group_id) m on m.group_id = g.id
where g.gone_at is null and (g.deleted_at is not null or g.failures > 0
    or coalesce(m.kept, 0) <> g.replicas or coalesce(m.well, 0) <> g.replicas)
order by g.id
"""
_MEMBERS = f"""
select i.group_id, i.id, i.slot, i.desired, i.state, i.generation, p.node_state
from instances i left join lateral (
    select n.state as node_state from placements c join nodes n on n.id = c.node_id
    where c.instance_id = i.id and {COUNTS} order by {FIRST} limit 1) p on true
where i.group_id = any(%s) and i.state <> 'terminated' order by i.group_id, i.slot
""".encode()


class Groups:
    """Groups as people see them: made, changed in number, deleted. The leader makes and ends their members."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def create(self, new: NewGroup, *, who: str = "api") -> GroupRow:
        """Write that so many instances like the template shall run.

        Raises `InvalidInput` that names the field when the image does not exist or no node could ever hold a member
        (with the numbers), `Conflict` when the name is taken. Creating the same ``id`` again returns what there is.
        """
        group_id = new.id or new_id()
        _check_replicas(new.replicas)
        if new.template.snapshot_id is not None:
            raise InvalidInput("members of a group boot from its image", field="snapshot_id", fix="leave it out")

        def unit(cursor: Cursor) -> GroupRow:
            cursor.execute("select from instance_groups where id = %s", (group_id,))
            if cursor.fetchone() is not None:
                return get_group(cursor, group_id)
            check_image(cursor, new.template.image_id)
            # Members are nobody's in particular: what one host is asked for is asked by requirements.
            check_room(replace(new.template, node_id=None), resource_rows(cursor))
            if insert_group(cursor, group_id, new):
                data = {"name": new.name, "image_id": str(new.template.image_id), "replicas": new.replicas}
                record(cursor, who, "group.created", "group", group_id, data)
                announce(cursor, "zw_instances", group_id)
                return get_group(cursor, group_id)
            # Of the same id, by a request that was sent twice at once; or another's name.
            cursor.execute("select from instance_groups where id = %s", (group_id,))
            if cursor.fetchone() is None:
                raise _taken(cursor, new.name)
            return get_group(cursor, group_id)

        return await self._units.run(unit, name="groups.create")

    async def get(self, group_id: UUID) -> GroupRow:
        """Return a group, a deleted one too. Raises `NotFound`."""
        return await self._units.read(lambda cursor: get_group(cursor, group_id), name="groups.get")

    async def find(self, name: str) -> GroupRow:
        """Return the group of that name of which something is left. Raises `NotFound`."""

        def unit(cursor: Cursor) -> GroupRow:
            cursor.execute(f"{SELECT} where g.name = %s and g.gone_at is null".encode(), (name,))
            row = cursor.fetchone()
            if row is None:
                raise NotFound(f"there is no group named {name}", fix="`zeitwork groups` lists them")
            return group_row(row)

        return await self._units.read(unit, name="groups.find")

    async def list(self, *, name: str | None = None, limit: int = 100, cursor: str | None = None) -> Page[GroupRow]:
        """Return groups of which something is left, oldest first; of one name when that is given."""
        after = parse_cursor(cursor)
        check_limit(limit)

        def unit(cursor: Cursor) -> Page[GroupRow]:
            cursor.execute(
                f"{SELECT} where g.id > %(after)s and g.gone_at is null and (%(name)s::text is null "
                "or g.name = %(name)s) order by g.id limit %(limit)s".encode(),
                {"after": after, "name": name, "limit": limit + 1},
            )
            return page(cursor.fetchall(), limit, group_row)

        return await self._units.read(unit, name="groups.list")

    async def scale(self, group_id: UUID, replicas: int, *, who: str = "api") -> GroupRow:
        """Want another number of members, 0 to `MAX_REPLICAS`. What is so already changes nothing.

        Raises `NotFound`, and `Conflict` when the group is deleted.
        """
        _check_replicas(replicas)

        def unit(cursor: Cursor) -> GroupRow:
            row = lock_group(cursor, group_id)
            if row is None:
                raise missing_group(group_id)
            if row["deleted_at"] is not None:
                raise Conflict("the group is deleted: that is final", fix="create another one")
            if row["replicas"] != replicas:
                write_replicas(cursor, group_id, replicas)
                data = {"from": row["replicas"], "to": replicas}
                record(cursor, who, "group.scaled", "group", group_id, data)
                announce(cursor, "zw_instances", group_id)
            return get_group(cursor, group_id)

        return await self._units.run(unit, name="groups.scale")

    async def delete(self, group_id: UUID, *, who: str = "api") -> GroupRow:
        """Want a group gone: the leader terminates its members. Twice is harmless. Raises `NotFound`."""

        def unit(cursor: Cursor) -> GroupRow:
            row = lock_group(cursor, group_id)
            if row is None:
                raise missing_group(group_id)
            if row["deleted_at"] is None:
                write_deleted(cursor, group_id)
                record(cursor, who, "group.deleted", "group", group_id, {"name": row["name"]})
                announce(cursor, "zw_instances", group_id)
            return get_group(cursor, group_id)

        return await self._units.run(unit, name="groups.delete")

    async def events(self, group_id: UUID, *, after: int = 0, limit: int = 100) -> tuple[EventRow, ...]:
        """Return what happened to it and to its members, oldest first. Raises `NotFound`."""
        check_limit(limit)

        def unit(cursor: Cursor) -> tuple[EventRow, ...]:
            get_group(cursor, group_id)
            cursor.execute(
                "select * from events where id > %(after)s and (subject_id = %(id)s or subject_id in "
                "(select id from instances where group_id = %(id)s)) order by id limit %(limit)s",
                {"after": after, "id": group_id, "limit": limit},
            )
            return tuple(event_row(row) for row in cursor)

        return await self._units.read(unit, name="groups.events")


def views(cursor: Cursor) -> tuple[GroupView, ...]:
    """Return groups whose members are not what is wanted, in part or whole."""
    cursor.execute(_UNSETTLED)
    groups = cursor.fetchall()
    if not groups:
        return ()
    cursor.execute(_MEMBERS, ([row["id"] for row in groups],))
    members: dict[UUID, list[Member]] = {row["id"]: [] for row in groups}
    for row in cursor:
        members[row["group_id"]].append(
            Member(
                id=row["id"],
                slot=row["slot"],
                desired=InstanceDesired(row["desired"]),
                state=InstanceState(row["state"]),
                generation=row["generation"],
                placed=row["node_state"] is not None,
                node_state=None if row["node_state"] is None else NodeState(row["node_state"]),
            )
        )
    return tuple(
        GroupView(
            id=row["id"],
            name=row["name"],
            generation=row["generation"],
            replicas=row["replicas"],
            deleted=row["deleted"],
            failures=row["failures"],
            retry_in=row["retry_in"],
            members=tuple(members[row["id"]]),
        )
        for row in groups
    )


def apply(cursor: Cursor, changes: tuple[GroupChange, ...]) -> int:
    """Create and terminate members; return how many. A change of a group that was changed meanwhile is left out."""
    # In one order everywhere, or two of these could wait for each other.
    return sum(_apply(cursor, change) for change in sorted(changes, key=lambda change: change.group_id))


def _apply(cursor: Cursor, change: GroupChange) -> int:
    group = lock_group(cursor, change.group_id)
    if group is None or not _as_seen(group, change):
        return 0
    ended = _terminate(cursor, group, change.terminate)
    created = 0
    if group["deleted_at"] is None:
        created = _create(cursor, group, change.create)
        write_failures(cursor, group, change.failures, change.retry_in)
    elif change.gone and not _has_members(cursor, change.group_id):
        write_gone(cursor, change.group_id)
        record(cursor, "scheduler", "group.gone", "group", change.group_id, {"name": group["name"]})
    return ended + created


def _as_seen(group: Mapping[str, Any], change: GroupChange) -> bool:
    """Say whether a (locked) group is still what the change was decided for."""
    return bool(group["generation"] == change.generation and group["gone_at"] is None)


def _create(cursor: Cursor, group: Mapping[str, Any], slots: Collection[int]) -> int:
    """Make the members of slots that are free; return how many. That of another was made before, or still ends."""
    if not slots:
        return 0
    template = template_from_json(group["template"], group["image_id"])
    cursor.execute("select slot from instances where group_id = %s and state <> 'terminated'", (group["id"],))
    free = set(slots) - {row["slot"] for row in cursor}
    new = [Named(new_id(), f"{group['name']}-{slot}", group["id"], slot) for slot in sorted(free)]
    written = insert_instances(cursor, template, new)
    made = [one for one in new if one.id in written]
    nameless = [replace(one, name=None) for one in new if one.id not in written]
    for one in nameless:
        # Somebody's instance has that name. The count matters more: this one goes by the short form of its id.
        name = f"{group['name']}-{one.slot}"
        data = {"name": name, "instance_id": str(one.id), "reason": f"another instance is named {name}"}
        record(cursor, "scheduler", "group.name-taken", "group", group["id"], data)
    # Slots are filled under the group's lock only, so nothing can be in the way of these.
    insert_instances(cursor, template, nameless)
    for one in (*made, *nameless):
        record_created(cursor, "scheduler", template, one)
    return len(made) + len(nameless)


def _terminate(cursor: Cursor, group: Mapping[str, Any], instance_ids: Collection[UUID]) -> int:
    """End members that are not about to end anyway; return how many."""
    ended = 0
    # In one order everywhere, or two of these could wait for each other.
    for instance_id in sorted(instance_ids):
        row = lock_instance(cursor, instance_id)
        if row is None or row["group_id"] != group["id"] or row["desired"] == InstanceDesired.TERMINATED:
            continue
        end(cursor, row, InstanceDesired.TERMINATED, False, None, "scheduler")
        ended += 1
    return ended


def _has_members(cursor: Cursor, group_id: UUID) -> bool:
    cursor.execute("select from instances where group_id = %s and state <> 'terminated' limit 1", (group_id,))
    return cursor.fetchone() is not None


def _check_replicas(replicas: int) -> None:
    if not 0 <= replicas <= MAX_REPLICAS:
        raise InvalidInput(
            f"a group has 0 to {MAX_REPLICAS} replicas", field="replicas", fix="make a second group for more"
        )


def _taken(cursor: Cursor, name: str) -> Conflict:
    cursor.execute("select deleted_at from instance_groups where name = %s and gone_at is null", (name,))
    row = cursor.fetchone()
    if row is not None and row["deleted_at"] is not None:
        return Conflict(
            f"a group named {name} is still being removed", field="name", fix="wait for it, or choose another name"
        )
    return Conflict(
        f"a group named {name} exists already",
        field="name",
        fix=f"choose another name, change it with zeitwork scale {name} N, or remove it first: zeitwork rm {name}",
    )
