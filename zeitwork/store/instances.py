"""Instances: what people want to run. Writes the table ``instances``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from actors.model.errors import Conflict, NotFound
from actors.model.health import HealthState
from actors.model.resources import Resources
from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import InstanceDesired, InstanceState, Outcome
from zeitwork.store.events import event_row
from zeitwork.store.health import check_from_json, check_to_json
from zeitwork.store.identifiers import new_id
from zeitwork.store.instance_checks import check_image, check_room, check_snapshot
from zeitwork.store.journal import announce, record
from zeitwork.store.nodes import resource_rows
from zeitwork.store.paging import check_limit, page, parse_cursor
from zeitwork.store.placement_rows import placement_row
from zeitwork.store.rows import EventRow, InstanceRow, NewInstance, Page, PlacementRow
from zeitwork.store.units import Cursor, Units

_SELECT = """
select i.*, m.source as image_source, p.id as placement_id, p.node_id, p.v4, p.v6,
    coalesce(p.health, 'unknown') as health_state, coalesce(p.health_reason, '') as health_reason, p.health_changed_at,
    coalesce(p.restarts, 0) as restarts, case when i.state in ('starting', 'crash_loop')
        and (i.retry_asked_at > p.updated_at) is not true then p.next_try_at end as next_try_at
from instances i join images m on m.id = i.image_id left join lateral (
    select id, node_id, v4, v6, restarts, next_try_at, updated_at, health, health_reason, health_changed_at
    from placements where instance_id = i.id and state <> 'removed' order by generation desc limit 1) p on true
"""
_ENDED = (InstanceState.STOPPED, InstanceState.FAILED, InstanceState.CRASH_LOOP)


def lock_instance(cursor: Cursor, instance_id: UUID) -> dict[str, Any] | None:
    """Return an instance's row, locked until the transaction ends, None when there is none."""
    cursor.execute("select * from instances where id = %s for no key update", (instance_id,))
    return cursor.fetchone()


def write_observed(
    cursor: Cursor,
    instance: Mapping[str, Any],
    state: InstanceState,
    reason: str,
    *,
    generation: int,
    outcome: Outcome | None = None,
    exit_status: int | None = None,
    who: str,
) -> None:
    """Write what an instance is when that differs from what its (locked) row says."""
    before = (instance["state"], instance["reason"], instance["observed_generation"])
    if before == (state, reason, generation):
        return
    cursor.execute(
        "update instances set state = %(state)s, reason = %(reason)s, observed_generation = %(generation)s, "
        "outcome = %(outcome)s, exit_status = %(exit_status)s, updated_at = now(), "
        "state_changed_at = case when state = %(state)s then state_changed_at else now() end where id = %(id)s",
        {
            "state": state,
            "reason": reason,
            "generation": generation,
            "outcome": outcome,
            "exit_status": exit_status,
            "id": instance["id"],
        },
    )
    data = {"from": instance["state"], "to": state, "reason": reason, "generation": generation}
    record(cursor, who, "instance.state", "instance", instance["id"], data)
    announce(cursor, "zw_instances", instance["id"])


def has_live_placement(cursor: Cursor, instance_id: UUID) -> bool:
    """Say whether a placement of the instance is not yet removed."""
    cursor.execute("select from placements where instance_id = %s and state <> 'removed' limit 1", (instance_id,))
    return cursor.fetchone() is not None


def restored_from(row: Mapping[str, Any]) -> UUID | None:
    """Return the snapshot that an instance's present generation goes on from, None when it boots."""
    snapshot_id: UUID | None = row["snapshot_id"]
    return snapshot_id if row["snapshot_generation"] == row["generation"] else None


def missing_instance(instance_id: UUID) -> NotFound:
    """Return the refusal of an id that no instance has."""
    return NotFound(f"there is no instance {instance_id}", fix="`zeitwork ps` lists them")


def _instance_row(row: Mapping[str, Any]) -> InstanceRow:
    return InstanceRow(
        id=row["id"],
        name=row["name"],
        image_id=row["image_id"],
        image_source=row["image_source"],
        pinned_node_id=row["pinned_node_id"],
        resources=Resources(row["vcpu"], row["memory"], row["disk"]),
        default_port=row["default_port"],
        environment=dict(row["environment"]),
        command=tuple(row["command"]),
        stop_timeout=row["stop_timeout"],
        restart=RestartPolicy(RestartMode(row["restart_mode"]), row["restart_max_attempts"]),
        health_check=check_from_json(row["health"]),
        desired=InstanceDesired(row["desired"]),
        paused=row["paused"],
        generation=row["generation"],
        snapshot_id=restored_from(row),
        state=InstanceState(row["state"]),
        observed_generation=row["observed_generation"],
        reason=row["reason"],
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
        exit_status=row["exit_status"],
        restarts=row["restarts"],
        next_try_at=row["next_try_at"],
        health=HealthState(row["health_state"]),
        health_reason=row["health_reason"],
        health_changed_at=row["health_changed_at"],
        node_id=row["node_id"],
        placement_id=row["placement_id"],
        v4=row["v4"],
        v6=row["v6"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        state_changed_at=row["state_changed_at"],
    )


def _get(cursor: Cursor, instance_id: UUID) -> InstanceRow:
    cursor.execute(f"{_SELECT} where i.id = %s".encode(), (instance_id,))
    row = cursor.fetchone()
    if row is None:
        raise missing_instance(instance_id)
    return _instance_row(row)


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
        instance_id, check = new.id or new_id(), check_to_json(new.health)

        def unit(cursor: Cursor) -> InstanceRow:
            cursor.execute("select from instances where id = %s", (instance_id,))
            if cursor.fetchone() is not None:
                return _get(cursor, instance_id)
            check_image(cursor, new.image_id)
            _check_new(cursor, new)
            cursor.execute(
                "insert into instances (id, name, image_id, pinned_node_id, vcpu, memory, disk, default_port, "
                "environment, command, stop_timeout, restart_mode, restart_max_attempts, health, snapshot_id, "
                "snapshot_generation) "
                "values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
                "on conflict do nothing",
                (
                    instance_id,
                    new.name,
                    new.image_id,
                    new.node_id,
                    new.resources.vcpu,
                    new.resources.memory,
                    new.resources.disk,
                    new.default_port,
                    Jsonb(dict(new.environment)),
                    Jsonb(list(new.command)),
                    new.stop_timeout,
                    new.restart.mode,
                    new.restart.max_attempts,
                    None if check is None else Jsonb(check),
                    new.snapshot_id,
                    None if new.snapshot_id is None else 1,
                ),
            )
            if cursor.rowcount:
                # Not the environment: it may hold secrets, and events are shown to everyone.
                data = {"name": new.name, "image_id": str(new.image_id)}
                if new.snapshot_id is not None:
                    data["snapshot_id"] = str(new.snapshot_id)
                record(cursor, who, "instance.created", "instance", instance_id, data)
                announce(cursor, "zw_instances", instance_id)
            else:
                cursor.execute("select from instances where id = %s", (instance_id,))
                if cursor.fetchone() is None:
                    raise Conflict(
                        f"an instance named {new.name} exists already",
                        field="name",
                        fix=f"choose another name, or remove it first: zeitwork rm {new.name}",
                    )
            return _get(cursor, instance_id)

        return await self._units.run(unit, name="instances.create")

    async def get(self, instance_id: UUID) -> InstanceRow:
        """Return an instance, a terminated one too. Raises `NotFound`."""
        return await self._units.read(lambda cursor: _get(cursor, instance_id), name="instances.get")

    async def find(self, name: str) -> InstanceRow:
        """Return the instance of that name that is not terminated. Raises `NotFound`."""

        def unit(cursor: Cursor) -> InstanceRow:
            cursor.execute(f"{_SELECT} where i.name = %s and i.state <> 'terminated'".encode(), (name,))
            row = cursor.fetchone()
            if row is None:
                raise NotFound(f"there is no instance named {name}", fix="`zeitwork ps` lists them")
            return _instance_row(row)

        return await self._units.read(unit, name="instances.find")

    async def list(
        self,
        *,
        state: InstanceState | None = None,
        node_id: UUID | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[InstanceRow]:
        """Return instances, oldest first; terminated ones only when ``state`` asks for them."""
        after = parse_cursor(cursor)
        check_limit(limit)

        def unit(cursor: Cursor) -> Page[InstanceRow]:
            shown = "i.state <> 'terminated'" if state is None else "i.state = %(state)s"
            cursor.execute(
                f"{_SELECT} where i.id > %(after)s and {shown} and (%(node)s::uuid is null or p.node_id = %(node)s) "
                "order by i.id limit %(limit)s".encode(),
                {"after": after, "state": state, "node": node_id, "limit": limit + 1},
            )
            return page(cursor.fetchall(), limit, _instance_row)

        return await self._units.read(unit, name="instances.list")

    async def set_desired(
        self,
        instance_id: UUID,
        desired: InstanceDesired,
        *,
        force: bool = False,
        stop_timeout: float | None = None,
        who: str = "api",
    ) -> InstanceRow:
        """Ask an instance to run, stop or terminate.

        Asking what is already so changes nothing. ``running`` on one that has ended starts its next generation, on
        one that waits for its next try it makes that try come at once, on a paused one it resumes it.
        ``force`` skips the graceful part of a stop, ``stop_timeout`` (seconds) replaces its wait. Raises `NotFound`,
        and `Conflict` for anything but terminated on a terminated one.
        """

        def unit(cursor: Cursor) -> InstanceRow:
            row = _lock_alive(cursor, instance_id, desired)
            if desired is InstanceDesired.RUNNING:
                if row["desired"] == desired and _waits(cursor, row):
                    _try_now(cursor, row, who)
                    _set_paused(cursor, row, False, who)
                elif row["desired"] != desired or row["state"] in _ENDED:
                    _next_generation(cursor, row, force=False, stop_wait=None, what="instance.started", who=who)
                else:
                    _set_paused(cursor, row, False, who)
            else:
                _end(cursor, row, desired, force, stop_timeout, who)
            return _get(cursor, instance_id)

        return await self._units.run(unit, name="instances.set_desired")

    async def restart(
        self, instance_id: UUID, *, force: bool = False, stop_timeout: float | None = None, who: str = "api"
    ) -> InstanceRow:
        """Start the next generation whatever the state; the present one is stopped first."""

        def unit(cursor: Cursor) -> InstanceRow:
            row = _lock_alive(cursor, instance_id, InstanceDesired.RUNNING)
            _next_generation(cursor, row, force=force, stop_wait=stop_timeout, what="instance.restarted", who=who)
            return _get(cursor, instance_id)

        return await self._units.run(unit, name="instances.restart")

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
            row = _lock_alive(cursor, instance_id, InstanceDesired.RUNNING)
            check_snapshot(
                cursor,
                snapshot_id,
                image_id=row["image_id"],
                resources=Resources(row["vcpu"], row["memory"], row["disk"]),
                environment=row["environment"],
                command=row["command"],
                node_id=row["pinned_node_id"],
            )
            _next_generation(
                cursor,
                row,
                force=force,
                stop_wait=stop_timeout,
                what="instance.restored",
                who=who,
                snapshot_id=snapshot_id,
            )
            return _get(cursor, instance_id)

        return await self._units.run(unit, name="instances.restore")

    async def pause(self, instance_id: UUID, *, who: str = "api") -> InstanceRow:
        """Ask that an instance's machine stand still; it keeps what it holds. Asking twice is asking once.

        Raises `NotFound`, and `Conflict` unless it runs. A stop, restart or start ends the pause.
        """

        def unit(cursor: Cursor) -> InstanceRow:
            row = _lock_alive(cursor, instance_id, InstanceDesired.RUNNING)
            if not row["paused"]:
                _refuse_unless_running(row, "only what runs can be paused")
                _set_paused(cursor, row, True, who)
            return _get(cursor, instance_id)

        return await self._units.run(unit, name="instances.pause")

    async def resume(self, instance_id: UUID, *, who: str = "api") -> InstanceRow:
        """Ask that a paused instance go on. Raises `NotFound`, and `Conflict` when it neither runs nor is paused."""

        def unit(cursor: Cursor) -> InstanceRow:
            row = _lock_alive(cursor, instance_id, InstanceDesired.RUNNING)
            if not row["paused"] and row["state"] != InstanceState.PAUSED:
                _refuse_unless_running(row, "only what is paused can be resumed")
            _set_paused(cursor, row, False, who)
            return _get(cursor, instance_id)

        return await self._units.run(unit, name="instances.resume")

    async def delete(
        self, instance_id: UUID, *, force: bool = False, stop_timeout: float | None = None, who: str = "api"
    ) -> InstanceRow:
        """Ask an instance to terminate; its state is ``terminated`` once the host confirms that nothing is left."""
        return await self.set_desired(
            instance_id, InstanceDesired.TERMINATED, force=force, stop_timeout=stop_timeout, who=who
        )

    async def placements(self, instance_id: UUID) -> tuple[PlacementRow, ...]:
        """Return every try to run it, oldest first. Raises `NotFound`."""

        def unit(cursor: Cursor) -> tuple[PlacementRow, ...]:
            _get(cursor, instance_id)
            cursor.execute("select * from placements where instance_id = %s order by generation", (instance_id,))
            return tuple(placement_row(row) for row in cursor)

        return await self._units.read(unit, name="instances.placements")

    async def events(self, instance_id: UUID, *, after: int = 0, limit: int = 100) -> tuple[EventRow, ...]:
        """Return what happened to it, its placements and snapshots, oldest first. Raises `NotFound`."""
        check_limit(limit)

        def unit(cursor: Cursor) -> tuple[EventRow, ...]:
            _get(cursor, instance_id)
            cursor.execute(
                "select * from events where id > %(after)s and (subject_id = %(id)s or subject_id in "
                "(select id from placements where instance_id = %(id)s union all "
                "select id from snapshots where instance_id = %(id)s)) order by id limit %(limit)s",
                {"after": after, "id": instance_id, "limit": limit},
            )
            return tuple(event_row(row) for row in cursor)

        return await self._units.read(unit, name="instances.events")

    async def counts(self) -> dict[InstanceState, int]:
        """Return how many instances are in each state, zeros included."""

        def unit(cursor: Cursor) -> dict[InstanceState, int]:
            cursor.execute("select state, count(*) as count from instances group by state")
            return dict.fromkeys(InstanceState, 0) | {InstanceState(row["state"]): row["count"] for row in cursor}

        return await self._units.read(unit, name="instances.counts")


#: The reason of an instance that is tried again because somebody asked.
_TRIED = "tried again at once"


def _lock_alive(cursor: Cursor, instance_id: UUID, desired: InstanceDesired) -> dict[str, Any]:
    row = lock_instance(cursor, instance_id)
    if row is None:
        raise missing_instance(instance_id)
    if row["desired"] == InstanceDesired.TERMINATED and desired is not InstanceDesired.TERMINATED:
        raise Conflict("the instance is terminated or about to be: that is final", fix="create another one")
    return row


def _waits(cursor: Cursor, row: Mapping[str, Any]) -> bool:
    """Return whether what is wanted now waits for its next try; an older generation that does is on its way out."""
    cursor.execute(
        "select from placements where instance_id = %s and generation = %s and state = 'waiting'",
        (row["id"], row["generation"]),
    )
    return cursor.fetchone() is not None


def _try_now(cursor: Cursor, row: Mapping[str, Any], who: str) -> None:
    """Make the next try of a waiting placement come at once; its earlier failures are forgotten. Once is enough."""
    if (row["state"], row["reason"]) == (InstanceState.STARTING, _TRIED):
        return
    # The clock, not the transaction's time: that may lie before the wait began.
    cursor.execute("update instances set retry_asked_at = clock_timestamp() where id = %s", (row["id"],))
    record(cursor, who, "instance.retried", "instance", row["id"], {"generation": row["generation"]})
    generation = row["observed_generation"]
    write_observed(cursor, row, InstanceState.STARTING, _TRIED, generation=generation, who=who)
    _announce_desired(cursor, row["id"])


def _refuse_unless_running(row: Mapping[str, Any], rule: str) -> None:
    """Raise `Conflict` unless the instance is wanted running and its present generation was seen to run."""
    if row["desired"] != InstanceDesired.RUNNING:
        found = f"the instance is {row['state']} and wanted {row['desired']}"
    elif row["state"] != InstanceState.RUNNING:
        found = f"the instance is {row['state']}"
    elif row["observed_generation"] < row["generation"]:
        found = "the instance is about to be started anew"
    else:
        return
    raise Conflict(f"{found}: {rule}", fix="try again when it runs: `zeitwork ps`", code="not-running")


def _set_paused(cursor: Cursor, row: Mapping[str, Any], paused: bool, who: str) -> None:
    """Want a running instance paused or going on, and tell its host when that is new."""
    if row["paused"] == paused:
        return
    cursor.execute("update instances set paused = %s, updated_at = now() where id = %s", (paused, row["id"]))
    record(cursor, who, "instance.paused" if paused else "instance.resumed", "instance", row["id"])
    _announce_desired(cursor, row["id"])


def _next_generation(
    cursor: Cursor,
    row: Mapping[str, Any],
    *,
    force: bool,
    stop_wait: float | None,
    what: str,
    who: str,
    snapshot_id: UUID | None = None,
) -> None:
    """Want the next generation to run. A live placement becomes unwanted by it, and its host stops it first."""
    cursor.execute(
        "update instances set desired = 'running', paused = false, generation = generation + 1, stop_force = %s, "
        "stop_wait = %s, snapshot_id = %s, snapshot_generation = case when %s::uuid is not null then generation + 1 "
        "end, updated_at = now() where id = %s returning generation",
        (force, stop_wait, snapshot_id, snapshot_id, row["id"]),
    )
    changed = cursor.fetchone()
    assert changed is not None
    data = {"generation": changed["generation"], "force": force}
    if snapshot_id is not None:
        data["snapshot_id"] = str(snapshot_id)
    record(cursor, who, what, "instance", row["id"], data)
    if not has_live_placement(cursor, row["id"]):
        write_observed(cursor, row, InstanceState.PENDING, "", generation=row["observed_generation"], who=who)
    _announce_desired(cursor, row["id"])


def _end(
    cursor: Cursor,
    row: Mapping[str, Any],
    desired: InstanceDesired,
    force: bool,
    stop_wait: float | None,
    who: str,
) -> None:
    """Want an instance stopped or terminated; what has no live placement is so at once."""
    if row["desired"] == desired and not (force and not row["stop_force"]) and stop_wait in (None, row["stop_wait"]):
        return
    cursor.execute(
        "update instances set desired = %s, paused = false, stop_force = stop_force and desired <> 'running' or %s, "
        "stop_wait = coalesce(%s, case when desired <> 'running' then stop_wait end), updated_at = now() "
        "where id = %s",
        (desired, force, stop_wait, row["id"]),
    )
    record(cursor, who, "instance.desired", "instance", row["id"], {"desired": desired, "force": force})
    if not has_live_placement(cursor, row["id"]):
        state = InstanceState(desired.value)
        reason = row["reason"] if row["state"] in _ENDED else "it was not running"
        write_observed(
            cursor,
            row,
            state,
            reason,
            # Of the generation that was never placed too: nothing of it will be seen any more.
            generation=row["generation"],
            outcome=row["outcome"],
            exit_status=row["exit_status"],
            who=who,
        )
    _announce_desired(cursor, row["id"])


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


def _announce_desired(cursor: Cursor, instance_id: UUID) -> None:
    """Wake the scheduler, and the hosts that have a placement of it."""
    announce(cursor, "zw_instances", instance_id)
    cursor.execute(
        "select pg_notify('zw_placements', id::text) from placements where instance_id = %s and state <> 'removed'",
        (instance_id,),
    )
