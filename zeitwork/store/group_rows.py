"""Rows of ``instance_groups``, read and changed as a part of what others do too. Writes that table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from actors.model.errors import NotFound
from actors.model.resources import Resources
from actors.model.restart import RestartMode, RestartPolicy
from zeitwork.store.cursor import Cursor
from zeitwork.store.health import check_from_json, check_to_json
from zeitwork.store.requirements import requirements_from_json, requirements_to_json
from zeitwork.store.rows import GroupRow, NewGroup, NewInstance

# What holds most of its members back is said of the group.
SELECT = """
select g.*, m.source as image_source, coalesce(c.members, 0) as members, coalesce(c.running, 0) as running,
    coalesce(c.alive, 0) as alive, w.state as waiting_state, w.reason as waiting_reason, w.count as waiting
from instance_groups g join images m on m.id = g.image_id
left join lateral (
    select count(*) as members, count(*) filter (where state = 'running') as running,
        count(*) filter (where state in ('starting', 'running', 'paused', 'unknown')) as alive
    from instances where group_id = g.id and state <> 'terminated') c on true
left join lateral (
    select state, reason, count(*) as count from instances
    where group_id = g.id and state not in ('running', 'terminated') and desired = 'running' and reason <> ''
    group by state, reason order by count desc, state, reason limit 1) w on true
"""


def template_to_json(template: NewInstance) -> dict[str, Any]:
    """Return what is kept of a template: all that members have in common but the image, which has a column."""
    return {
        "vcpu": template.resources.vcpu,
        "memory": template.resources.memory,
        "disk": template.resources.disk,
        "default_port": template.default_port,
        "environment": dict(template.environment),
        "command": list(template.command),
        "stop_timeout": template.stop_timeout,
        "restart": {"mode": template.restart.mode.value, "max_attempts": template.restart.max_attempts},
        "health": check_to_json(template.health),
        "priority": template.priority,
        "singleton": template.singleton,
        "requirements": requirements_to_json(template.requirements),
    }


def template_from_json(value: Mapping[str, Any], image_id: UUID) -> NewInstance:
    """Return a template as it was kept."""
    return NewInstance(
        image_id=image_id,
        resources=Resources(value["vcpu"], value["memory"], value["disk"]),
        default_port=value["default_port"],
        environment=dict(value["environment"]),
        command=tuple(value["command"]),
        stop_timeout=value["stop_timeout"],
        restart=RestartPolicy(RestartMode(value["restart"]["mode"]), value["restart"]["max_attempts"]),
        health=check_from_json(value["health"]),
        priority=value["priority"],
        singleton=value["singleton"],
        requirements=requirements_from_json(value["requirements"]),
    )


def lock_group(cursor: Cursor, group_id: UUID) -> dict[str, Any] | None:
    """Return a group's row, locked until the transaction ends, None when there is none.

    Always before the instances of the group: whoever changes both locks in this order.
    """
    cursor.execute("select * from instance_groups where id = %s for no key update", (group_id,))
    return cursor.fetchone()


def missing_group(group_id: UUID) -> NotFound:
    """Return the refusal of an id that no group has."""
    return NotFound(f"there is no group {group_id}", fix="`zeitwork groups` lists them")


def get_group(cursor: Cursor, group_id: UUID) -> GroupRow:
    """Return a group, a deleted one too. Raises `NotFound`."""
    cursor.execute(f"{SELECT} where g.id = %s".encode(), (group_id,))
    row = cursor.fetchone()
    if row is None:
        raise missing_group(group_id)
    return group_row(row)


def group_row(row: Mapping[str, Any]) -> GroupRow:
    """Return a row of `SELECT` as what is handed out."""
    return GroupRow(
        id=row["id"],
        name=row["name"],
        template=template_from_json(row["template"], row["image_id"]),
        image_source=row["image_source"],
        replicas=row["replicas"],
        generation=row["generation"],
        members=row["members"],
        running=row["running"],
        alive=row["alive"],
        reason=_reason(row),
        failures=row["failures"],
        retry_at=row["retry_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        deleted_at=row["deleted_at"],
        gone_at=row["gone_at"],
    )


def _reason(row: Mapping[str, Any]) -> str:
    """Say what keeps a group from being what is wanted, empty when nothing is known of it."""
    if row["gone_at"] is not None:
        return ""
    if row["deleted_at"] is not None:
        return f"being removed: {row['members']} left"
    found = []
    if row["waiting"]:
        state = str(row["waiting_state"]).replace("_", " ")
        found.append(f"{row['waiting']} {state}: {row['waiting_reason']}")
    if row["failures"]:
        times = "once" if row["failures"] == 1 else f"{row['failures']} times in a row"
        found.append(f"members failed {times}, and are made anew with growing waits")
    return "; ".join(found)


def insert_group(cursor: Cursor, group_id: UUID, new: NewGroup) -> bool:
    """Write a new group; False, and nothing written, when its id or name is taken."""
    cursor.execute(
        "insert into instance_groups (id, name, image_id, template, replicas) values (%s, %s, %s, %s, %s) "
        "on conflict do nothing",
        (group_id, new.name, new.template.image_id, Jsonb(template_to_json(new.template)), new.replicas),
    )
    return cursor.rowcount == 1


def write_replicas(cursor: Cursor, group_id: UUID, replicas: int) -> None:
    """Want another number of members, at once; what was decided about the group before is void."""
    cursor.execute(
        "update instance_groups set replicas = %s, generation = generation + 1, retry_at = null, updated_at = now() "
        "where id = %s",
        (replicas, group_id),
    )


def write_deleted(cursor: Cursor, group_id: UUID) -> None:
    """Want a group gone; what was decided about it before is void."""
    cursor.execute(
        "update instance_groups set deleted_at = now(), generation = generation + 1, failures = 0, retry_at = null, "
        "updated_at = now() where id = %s",
        (group_id,),
    )


def write_gone(cursor: Cursor, group_id: UUID) -> None:
    """Write that nothing is left of a deleted group; its name is free."""
    cursor.execute("update instance_groups set gone_at = now(), updated_at = now() where id = %s", (group_id,))


def write_failures(cursor: Cursor, row: Mapping[str, Any], failures: int | None, retry_in: float | None) -> None:
    """Write how often members failed in a row, and the seconds until they are made anew; None leaves either."""
    if failures is None and retry_in is None:
        return
    cursor.execute(
        "update instance_groups set failures = coalesce(%(failures)s, failures), retry_at = case "
        "when %(wait)s::float8 is null then retry_at when %(wait)s > 0 then now() + make_interval(secs => %(wait)s) "
        "end, updated_at = now() where id = %(id)s",
        {"failures": failures, "wait": retry_in, "id": row["id"]},
    )
