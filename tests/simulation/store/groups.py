"""`zeitwork.store.groups` in memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from uuid import UUID

from actors.model.errors import Conflict, InvalidInput, NotFound
from actors.model.scheduling import MAX_REPLICAS
from actors.model.states import InstanceDesired, InstanceState
from actors.scheduler.store import GroupChange, GroupView, Member
from tests.simulation.store import tables
from tests.simulation.store.current import current
from tests.simulation.store.database import Transaction, moment, moment_or_none
from tests.simulation.store.instance_rows import end, insert_instance, record_created
from tests.simulation.store.nodes import resource_rows
from tests.simulation.store.units import Units
from zeitwork.store.group_rows import _reason as said_of_group
from zeitwork.store.instance_checks import check_room
from zeitwork.store.rows import GroupRow, NewGroup

_ENDED = (InstanceState.FAILED, InstanceState.STOPPED)
_ALIVE = (InstanceState.STARTING, InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.UNKNOWN)


def members_of(tx: Transaction, group_id: UUID) -> list[tables.Instance]:
    """Return a group's instances that are not terminated, by slot."""
    found = [
        row for row in tx.database.instances if row.group_id == group_id and row.state is not InstanceState.TERMINATED
    ]
    return sorted(found, key=lambda row: row.slot or 0)


def group_row(tx: Transaction, group_id: UUID) -> GroupRow:
    """Return a group as it is handed out. Raises `NotFound`."""
    row = get_group(tx, group_id)
    members = members_of(tx, group_id)
    image = tx.database.images.get(row.template.image_id)
    assert image is not None
    return GroupRow(
        id=row.id,
        name=row.name,
        template=row.template,
        image_source=image.source,
        replicas=row.replicas,
        generation=row.generation,
        members=len(members),
        running=sum(1 for one in members if one.state is InstanceState.RUNNING),
        alive=sum(1 for one in members if one.state in _ALIVE),
        reason=_reason(row, members),
        failures=row.failures,
        retry_at=moment_or_none(row.retry_at),
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
        deleted_at=moment_or_none(row.deleted_at),
        gone_at=moment_or_none(row.gone_at),
    )


def _reason(row: tables.Group, members: list[tables.Instance]) -> str:
    """Say what keeps a group from being what is wanted, as Postgres's rows are said."""
    waiting = Counter(
        (one.state.value, one.reason)
        for one in members
        if one.state is not InstanceState.RUNNING and one.desired is InstanceDesired.RUNNING and one.reason
    )
    (state, reason), count = min(waiting.items(), key=lambda item: (-item[1], item[0]), default=((None, None), None))
    return said_of_group(
        {
            "gone_at": row.gone_at,
            "deleted_at": row.deleted_at,
            "members": len(members),
            "failures": row.failures,
            "waiting_state": state,
            "waiting_reason": reason,
            "waiting": count,
        }
    )


def get_group(tx: Transaction, group_id: UUID) -> tables.Group:
    """Return a group. Raises `NotFound`."""
    row = tx.database.groups.get(group_id)
    if row is None:
        raise NotFound(f"there is no group {group_id}", fix="`zeitwork groups` lists them")
    return row


class Groups:
    """Groups as people see them: made, changed in number, deleted. The leader makes and ends their members."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def create(self, new: NewGroup, *, who: str = "api") -> GroupRow:
        """Write that so many instances like the template shall run. Raises `InvalidInput` and `Conflict`."""
        _check_replicas(new.replicas)

        def unit(tx: Transaction) -> GroupRow:
            group_id = new.id or tx.database.new_id()
            if tx.database.groups.get(group_id) is not None:
                return group_row(tx, group_id)
            image = tx.database.images.get(new.template.image_id)
            if image is None or image.deleted_at is not None:
                raise InvalidInput(
                    f"there is no image {new.template.image_id}", field="image_id", fix="`zeitwork images` lists them"
                )
            check_room(replace(new.template, node_id=None), resource_rows(tx))
            for row in tx.database.groups:
                if row.name == new.name and row.gone_at is None:
                    raise Conflict(f"a group named {new.name} exists already", field="name")
            template = replace(new.template, name=None, id=None, node_id=None)
            tx.database.groups.put(group_id, tables.Group(group_id, new.name, template, new.replicas, tx.now, tx.now))
            data = {"name": new.name, "image_id": str(new.template.image_id), "replicas": new.replicas}
            tx.record(who, "group.created", "group", group_id, data)
            tx.announce("zw_instances", group_id)
            return group_row(tx, group_id)

        return await self._units.run(unit, name="groups.create")

    async def get(self, group_id: UUID) -> GroupRow:
        """Return a group, a deleted one too. Raises `NotFound`."""
        return await self._units.read(lambda tx: group_row(tx, group_id), name="groups.get")

    async def scale(self, group_id: UUID, replicas: int, *, who: str = "api") -> GroupRow:
        """Want another number of members. Raises `NotFound`, and `Conflict` when the group is deleted."""
        _check_replicas(replicas)

        def unit(tx: Transaction) -> GroupRow:
            row = get_group(tx, group_id)
            if row.deleted_at is not None:
                raise Conflict("the group is deleted: that is final", fix="create another one")
            if row.replicas != replicas:
                tx.database.groups.put(
                    group_id,
                    replace(row, replicas=replicas, generation=row.generation + 1, retry_at=None, updated_at=tx.now),
                )
                tx.record(who, "group.scaled", "group", group_id, {"from": row.replicas, "to": replicas})
                tx.announce("zw_instances", group_id)
            return group_row(tx, group_id)

        return await self._units.run(unit, name="groups.scale")

    async def delete(self, group_id: UUID, *, who: str = "api") -> GroupRow:
        """Want a group gone: the leader terminates its members. Raises `NotFound`."""

        def unit(tx: Transaction) -> GroupRow:
            row = get_group(tx, group_id)
            if row.deleted_at is None:
                tx.database.groups.put(
                    group_id,
                    replace(
                        row,
                        deleted_at=tx.now,
                        generation=row.generation + 1,
                        failures=0,
                        retry_at=None,
                        updated_at=tx.now,
                    ),
                )
                tx.record(who, "group.deleted", "group", group_id, {"name": row.name})
                tx.announce("zw_instances", group_id)
            return group_row(tx, group_id)

        return await self._units.run(unit, name="groups.delete")


def views(tx: Transaction) -> tuple[GroupView, ...]:
    """Return groups whose members are not what is wanted, in part or whole."""
    return tuple(
        _view(tx, row)
        for row in sorted(tx.database.groups, key=lambda row: row.id)
        if row.gone_at is None and not _settled(tx, row)
    )


def _settled(tx: Transaction, row: tables.Group) -> bool:
    members = members_of(tx, row.id)
    kept = sum(1 for one in members if one.desired is not InstanceDesired.TERMINATED)
    well = sum(1 for one in members if one.desired is InstanceDesired.RUNNING and not _ended(one))
    return row.deleted_at is None and row.failures == 0 and kept == row.replicas and well == row.replicas


def _ended(row: tables.Instance) -> bool:
    return row.state in _ENDED and row.observed_generation == row.generation


def _view(tx: Transaction, row: tables.Group) -> GroupView:
    members = []
    for one in members_of(tx, row.id):
        placement = current(tx, one)
        node = tx.database.nodes.get(placement.node_id) if placement is not None else None
        members.append(
            Member(
                id=one.id,
                slot=one.slot or 0,
                desired=one.desired,
                state=one.state,
                generation=one.generation,
                placed=node is not None,
                node_state=node.state if node is not None else None,
            )
        )
    return GroupView(
        id=row.id,
        name=row.name,
        generation=row.generation,
        replicas=row.replicas,
        deleted=row.deleted_at is not None,
        failures=row.failures,
        retry_in=max(0.0, row.retry_at - tx.now) if row.retry_at is not None else 0.0,
        members=tuple(members),
    )


def apply(tx: Transaction, changes: tuple[GroupChange, ...]) -> int:
    """Create and terminate members; return how many. A change of a group that was changed meanwhile is left out."""
    return sum(_apply(tx, change) for change in sorted(changes, key=lambda change: change.group_id))


def _apply(tx: Transaction, change: GroupChange) -> int:
    group = tx.database.groups.get(change.group_id)
    if group is None or group.generation != change.generation or group.gone_at is not None:
        return 0
    ended = sum(_terminate(tx, group, instance_id) for instance_id in sorted(change.terminate))
    created = 0
    if group.deleted_at is None:
        created = sum(_create(tx, group, slot) for slot in sorted(change.create))
        _write_failures(tx, change)
    elif change.gone and not members_of(tx, group.id):
        tx.database.groups.put(group.id, replace(group, gone_at=tx.now, updated_at=tx.now))
        tx.record("scheduler", "group.gone", "group", group.id, {"name": group.name})
    return ended + created


def _write_failures(tx: Transaction, change: GroupChange) -> None:
    row = tx.database.groups.get(change.group_id)
    assert row is not None
    if change.failures is None and change.retry_in is None:
        return
    retry_at = row.retry_at
    if change.retry_in is not None:
        retry_at = tx.now + change.retry_in if change.retry_in > 0 else None
    failures = row.failures if change.failures is None else change.failures
    tx.database.groups.put(row.id, replace(row, failures=failures, retry_at=retry_at, updated_at=tx.now))


def _create(tx: Transaction, group: tables.Group, slot: int) -> bool:
    """Make the member of a slot, unless there is one: then this was applied before, or the former still ends."""
    if any(one.slot == slot for one in members_of(tx, group.id)):
        return False
    new = replace(group.template, name=f"{group.name}-{slot}")
    instance_id = tx.database.new_id()
    if not insert_instance(tx, instance_id, new, group_id=group.id, slot=slot):
        data = {"name": new.name, "instance_id": str(instance_id), "reason": f"another instance is named {new.name}"}
        tx.record("scheduler", "group.name-taken", "group", group.id, data)
        new = replace(new, name=None)
        insert_instance(tx, instance_id, new, group_id=group.id, slot=slot)
    record_created(tx, "scheduler", instance_id, new, group_id=group.id, slot=slot)
    return True


def _terminate(tx: Transaction, group: tables.Group, instance_id: UUID) -> bool:
    """End a member that is not about to end anyway."""
    row = tx.database.instances.get(instance_id)
    if row is None or row.group_id != group.id or row.desired is InstanceDesired.TERMINATED:
        return False
    end(tx, row, InstanceDesired.TERMINATED, False, None, "scheduler")
    return True


def _check_replicas(replicas: int) -> None:
    if not 0 <= replicas <= MAX_REPLICAS:
        raise InvalidInput(
            f"a group has 0 to {MAX_REPLICAS} replicas", field="replicas", fix="make a second group for more"
        )
