"""Rows of ``instances``, read and changed as a part of what others do too. Writes the table ``instances``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from actors.model.errors import Conflict, NotFound
from actors.model.health import HealthState
from actors.model.resources import Resources
from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import InstanceDesired, InstanceState, Outcome, Volumes
from zeitwork.store.arrays import numbers, texts, uuids
from zeitwork.store.current import COUNTS, FIRST
from zeitwork.store.cursor import Cursor
from zeitwork.store.health import check_from_json, check_to_json
from zeitwork.store.journal import announce, record
from zeitwork.store.placement_rows import current_placement, release_kept
from zeitwork.store.requirements import requirements_from_json, requirements_to_json
from zeitwork.store.rows import InstanceRow, NewInstance

SELECT = f"""
select i.*, m.source as image_source, g.name as group_name, p.id as placement_id, p.node_id, p.v4, p.v6,
    coalesce(p.health, 'unknown') as health_state, coalesce(p.health_reason, '') as health_reason, p.health_changed_at,
    coalesce(p.restarts, 0) as restarts, case when i.state in ('starting', 'crash_loop')
        and (i.retry_asked_at > p.updated_at) is not true then p.next_try_at end as next_try_at
from instances i join images m on m.id = i.image_id left join instance_groups g on g.id = i.group_id left join lateral (
    select id, node_id, v4, v6, restarts, next_try_at, updated_at, health, health_reason, health_changed_at
    from placements c where c.instance_id = i.id and {COUNTS} order by {FIRST} limit 1) p on true
"""
ENDED = (InstanceState.STOPPED, InstanceState.FAILED, InstanceState.CRASH_LOOP)
#: Those, and what is so for good: how it came to that stays known, whatever is asked of it later.
_OVER = (*ENDED, InstanceState.TERMINATED)


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
    # The journal tells of it. No hint for the scheduler: what it looks for is what is wanted, or removed.
    record(cursor, who, "instance.state", "instance", instance["id"], data)


def lock_instances(cursor: Cursor, instance_ids: Collection[UUID]) -> dict[UUID, dict[str, Any]]:
    """Return instances' rows by id, locked until the transaction ends. In the order of ids, as everyone locks several.

    Only what deciding about placements needs, not what people gave them: that may be large.
    """
    cursor.execute(_LOCK_SEVERAL, (uuids(instance_ids),))
    return {row["id"]: row for row in cursor}


_LOCK_SEVERAL = """
select id, generation, desired, singleton, image_id, vcpu, memory, disk, snapshot_id, snapshot_generation, state,
    reason, observed_generation
from instances where id = any(%s::uuid[]) order by id for no key update
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What an instance (its locked row) is now, without an end: for `write_all_observed`."""

    instance: Mapping[str, Any]
    state: InstanceState
    reason: str
    generation: int


def write_all_observed(cursor: Cursor, seen: Iterable[Seen], *, who: str) -> None:
    """Do what `write_observed` does, for many instances in one statement."""
    changed = [
        one
        for one in seen
        if (one.instance["state"], one.instance["reason"], one.instance["observed_generation"])
        != (one.state, one.reason, one.generation)
    ]
    if not changed:
        return
    cursor.execute(
        _WRITE_SEVERAL,
        (
            uuids(one.instance["id"] for one in changed),
            texts(one.state for one in changed),
            texts(one.reason for one in changed),
            numbers(one.generation for one in changed),
        ),
        prepare=False,
    )
    for one in changed:
        data = {"from": one.instance["state"], "to": one.state, "reason": one.reason, "generation": one.generation}
        record(cursor, who, "instance.state", "instance", one.instance["id"], data)


_WRITE_SEVERAL = """
update instances i set state = c.state, reason = c.reason, observed_generation = c.generation, outcome = null,
    exit_status = null, updated_at = now(),
    state_changed_at = case when i.state = c.state then i.state_changed_at else now() end
from unnest(%s::uuid[], array(select jsonb_array_elements_text(%s)), array(select jsonb_array_elements_text(%s)),
    %s::bigint[]) as c (id, state, reason, generation)
where i.id = c.id
"""


def restored_from(row: Mapping[str, Any]) -> UUID | None:
    """Return the snapshot that an instance's present generation goes on from, None when it boots."""
    snapshot_id: UUID | None = row["snapshot_id"]
    return snapshot_id if row["snapshot_generation"] == row["generation"] else None


def missing_instance(instance_id: UUID) -> NotFound:
    """Return the refusal of an id that no instance has."""
    return NotFound(f"there is no instance {instance_id}", fix="`zeitwork ps` lists them")


def instance_row(row: Mapping[str, Any]) -> InstanceRow:
    """Return a row of `SELECT` as what is handed out."""
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
        priority=row["priority"],
        singleton=row["singleton"],
        requirements=requirements_from_json(row["requirements"]),
        group_id=row["group_id"],
        group_name=row["group_name"],
        slot=row["slot"],
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


def get_instance(cursor: Cursor, instance_id: UUID) -> InstanceRow:
    """Return an instance, a terminated one too. Raises `NotFound`."""
    cursor.execute(f"{SELECT} where i.id = %s".encode(), (instance_id,))
    row = cursor.fetchone()
    if row is None:
        raise missing_instance(instance_id)
    return instance_row(row)


def insert_instance(cursor: Cursor, instance_id: UUID, new: NewInstance) -> bool:
    """Write a new instance; False, and nothing written, when its id or name is taken."""
    return bool(insert_instances(cursor, new, [Named(instance_id, new.name)]))


@dataclass(frozen=True, slots=True)
class Named:
    """One of several new instances that are alike but for this; ``slot`` is its place in the group ``group_id``."""

    id: UUID
    name: str | None
    group_id: UUID | None = None
    slot: int | None = None


def insert_instances(cursor: Cursor, new: NewInstance, each: Sequence[Named]) -> set[UUID]:
    """Write instances like ``new``; return the ids of those that were written.

    Of each other one its id, name or slot is taken.
    """
    if not each:
        return set()
    check = check_to_json(new.health)
    cursor.execute(
        "insert into instances (id, name, group_id, slot, image_id, pinned_node_id, vcpu, memory, disk, default_port, "
        "environment, command, stop_timeout, restart_mode, restart_max_attempts, health, snapshot_id, "
        "snapshot_generation, priority, singleton, requirements) "
        "select id, name, group_id, slot, %s::uuid, %s::uuid, %s::integer, %s::integer, %s::integer, %s::integer, "
        "%s::jsonb, %s::jsonb, %s::float8, %s, %s::integer, %s::jsonb, %s::uuid, %s::bigint, %s::smallint, "
        "%s::boolean, %s::jsonb "
        "from unnest(%s::uuid[], %s::text[], %s::uuid[], %s::integer[]) as given (id, name, group_id, slot) "
        "on conflict do nothing returning id",
        (
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
            new.priority,
            new.singleton,
            Jsonb(requirements_to_json(new.requirements)),
            [one.id for one in each],
            [one.name for one in each],
            [one.group_id for one in each],
            [one.slot for one in each],
        ),
    )
    return {row["id"] for row in cursor}


def record_created(cursor: Cursor, who: str, new: NewInstance, one: Named) -> None:
    """Tell of a new instance, and wake the scheduler for it."""
    # Not the environment: it may hold secrets, and events are shown to everyone.
    data: dict[str, Any] = {"name": one.name, "image_id": str(new.image_id)}
    if new.snapshot_id is not None:
        data["snapshot_id"] = str(new.snapshot_id)
    if one.group_id is not None:
        data |= {"group_id": str(one.group_id), "slot": one.slot}
    record(cursor, who, "instance.created", "instance", one.id, data)
    announce(cursor, "zw_instances", one.id)


#: The reason of an instance that is tried again because somebody asked.
_TRIED = "tried again at once"


def lock_alive(cursor: Cursor, instance_id: UUID, desired: InstanceDesired) -> dict[str, Any]:
    """Return an instance's row, locked. Raises `NotFound`, and `Conflict` when it is terminated and can't be that."""
    row = lock_instance(cursor, instance_id)
    if row is None:
        raise missing_instance(instance_id)
    if row["desired"] == InstanceDesired.TERMINATED and desired is not InstanceDesired.TERMINATED:
        raise Conflict("the instance is terminated or about to be: that is final", fix="create another one")
    return row


def waits(cursor: Cursor, row: Mapping[str, Any]) -> bool:
    """Return whether what is wanted now waits for its next try.

    An older generation that does is on its way out, or serves on and is tried again as ever; a successor that does is
    not what the instance is.
    """
    found = current_placement(cursor, row)
    return found is not None and (found["state"], found["generation"]) == ("waiting", row["generation"])


def try_now(cursor: Cursor, row: Mapping[str, Any], who: str) -> None:
    """Make the next try of a waiting placement come at once; its earlier failures are forgotten. Once is enough."""
    if (row["state"], row["reason"]) == (InstanceState.STARTING, _TRIED):
        return
    # The clock, not the transaction's time: that may lie before the wait began.
    cursor.execute("update instances set retry_asked_at = clock_timestamp() where id = %s", (row["id"],))
    record(cursor, who, "instance.retried", "instance", row["id"], {"generation": row["generation"]})
    generation = row["observed_generation"]
    write_observed(cursor, row, InstanceState.STARTING, _TRIED, generation=generation, who=who)
    announce_desired(cursor, row["id"])


def refuse_unless_running(row: Mapping[str, Any], rule: str) -> None:
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


def set_paused(cursor: Cursor, row: Mapping[str, Any], paused: bool, who: str) -> None:
    """Want a running instance paused or going on, and tell its host when that is new."""
    if row["paused"] == paused:
        return
    cursor.execute("update instances set paused = %s, updated_at = now() where id = %s", (paused, row["id"]))
    record(cursor, who, "instance.paused" if paused else "instance.resumed", "instance", row["id"])
    announce_desired(cursor, row["id"])


def next_generation(
    cursor: Cursor,
    row: Mapping[str, Any],
    *,
    force: bool,
    stop_wait: float | None,
    what: str,
    who: str,
    snapshot_id: UUID | None = None,
) -> None:
    """Want the next generation to run, as somebody asked for. What runs is stopped first.

    Also what serves on while its host is emptied: whoever asks for a new start wants an end of the present one. What is
    on a dead host is waited for only if nothing may run beside it.
    """
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
    release_kept(cursor, row["id"], changed["generation"])
    if current_placement(cursor, {**row, **changed}) is None:
        write_observed(cursor, row, InstanceState.PENDING, "", generation=row["observed_generation"], who=who)
    announce_desired(cursor, row["id"])


def supersede(cursor: Cursor, row: Mapping[str, Any]) -> dict[str, Any]:
    """Want the next generation of a (locked) instance somewhere else, and return its row.

    Not as somebody's new start: it stays paused, and what ends by it has the time that it always has.
    """
    cursor.execute(
        "update instances set generation = generation + 1, stop_force = false, stop_wait = null, snapshot_id = null, "
        "snapshot_generation = null, updated_at = now() where id = %s returning *",
        (row["id"],),
    )
    changed = cursor.fetchone()
    assert changed is not None
    return changed


def recall(cursor: Cursor, row: Mapping[str, Any], generation: int) -> dict[str, Any]:
    """Want an earlier ``generation`` of a (locked) instance again, after which nothing was placed; return its row."""
    cursor.execute(
        "update instances set generation = %s, updated_at = now() where id = %s returning *", (generation, row["id"])
    )
    changed = cursor.fetchone()
    assert changed is not None
    return changed


def end(
    cursor: Cursor,
    row: Mapping[str, Any],
    desired: InstanceDesired,
    force: bool,
    stop_wait: float | None,
    who: str,
    *,
    volumes: Volumes = Volumes.KEEP,
) -> None:
    """Want an instance stopped or terminated; what nothing speaks for is so at once.

    What it was replaced for on a dead host is not waited for. What is on a host that is down is not ended before that
    host is back and says so, forced or not: its reason then tells that.
    """
    drop = volumes is Volumes.DELETE
    same = row["desired"] == desired and stop_wait in (None, row["stop_wait"])
    if same and not (force and not row["stop_force"]) and not (drop and not row["drop_volumes"]):
        _tell_if_it_waits(cursor, row, current_placement(cursor, row), desired, who)
        return
    cursor.execute(
        "update instances set desired = %s, paused = false, stop_force = stop_force and desired <> 'running' or %s, "
        "stop_wait = coalesce(%s, case when desired <> 'running' then stop_wait end), "
        "drop_volumes = drop_volumes or %s, updated_at = now() where id = %s",
        (desired, force, stop_wait, drop, row["id"]),
    )
    data: dict[str, Any] = {"desired": desired, "force": force}
    if desired is InstanceDesired.TERMINATED:
        data["volumes"] = volumes
    if stop_wait is not None:
        data["stop_timeout"] = stop_wait
    record(cursor, who, "instance.desired", "instance", row["id"], data)
    release_kept(cursor, row["id"], row["generation"])
    placed = current_placement(cursor, row)
    if placed is not None:
        _tell_if_it_waits(cursor, row, placed, desired, who)
    else:
        state = InstanceState(desired.value)
        reason = row["reason"] if row["state"] in _OVER else "it was not running"
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
    announce_desired(cursor, row["id"])


def _tell_if_it_waits(
    cursor: Cursor, row: Mapping[str, Any], placed: Mapping[str, Any] | None, desired: InstanceDesired, who: str
) -> None:
    """Write that an instance ends only when its host is back, if that is down: until then nobody knows what runs."""
    if placed is None:
        return
    cursor.execute("select hostname from nodes where id = %s and state = 'down'", (placed["node_id"],))
    node = cursor.fetchone()
    if node is None:
        return
    write_observed(
        cursor,
        row,
        InstanceState(row["state"]),
        waits_for_host(node["hostname"], desired),
        generation=row["observed_generation"],
        outcome=row["outcome"],
        exit_status=row["exit_status"],
        who=who,
    )


def waits_for_host(hostname: str, desired: InstanceDesired) -> str:
    """Return the reason of an instance that can't end because its host is down."""
    what = "removed" if desired is InstanceDesired.TERMINATED else "stopped"
    return f"its host {hostname} is down: it is {what} there once that host is back and says that nothing is left"


def announce_desired(cursor: Cursor, instance_id: UUID) -> None:
    """Wake the scheduler, and the hosts that have a placement of it."""
    announce(cursor, "zw_instances", instance_id)
    cursor.execute(
        "select pg_notify('zw_placements', id::text) from placements where instance_id = %s and state <> 'removed'",
        (instance_id,),
    )
