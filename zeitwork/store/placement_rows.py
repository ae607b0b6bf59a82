"""Rows of ``placements``, read and changed as a part of what others do too. Writes the table ``placements``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from actors.model.health import HealthState
from actors.model.records import Observation
from actors.model.resources import Resources
from actors.model.states import Outcome, PlacementState
from zeitwork.store.arrays import addresses, numbers, uuids
from zeitwork.store.current import COUNTS, FIRST
from zeitwork.store.cursor import Cursor
from zeitwork.store.journal import announce
from zeitwork.store.rows import PlacementRow

_CURRENT = f"""
select c.* from placements c, (select %s::uuid as id, %s::bigint as generation) i
where c.instance_id = i.id and {COUNTS} order by {FIRST} limit 1
"""


def placement_row(row: Mapping[str, Any]) -> PlacementRow:
    """Return a row of the table as what is handed out."""
    return PlacementRow(
        id=row["id"],
        instance_id=row["instance_id"],
        generation=row["generation"],
        node_id=row["node_id"],
        resources=Resources(row["vcpu"], row["memory"], row["disk"]),
        memory_overhead=row["memory_overhead"],
        snapshot_id=row["snapshot_id"],
        state=PlacementState(row["state"]),
        reason=row["reason"],
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
        exit_status=row["exit_status"],
        hypervisor=row["hypervisor"],
        pid=row["pid"],
        boot_id=row["boot_id"],
        failures=row["failures"],
        health=HealthState(row["health"]),
        health_reason=row["health_reason"],
        health_changed_at=row["health_changed_at"],
        restarts=row["restarts"],
        next_try_at=row["next_try_at"],
        v4=row["v4"],
        v6=row["v6"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        running_at=row["running_at"],
        removed_at=row["removed_at"],
        kept=row["kept"],
        lost_at=row["lost_at"],
    )


def current_placement(cursor: Cursor, instance: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the placement that speaks for an instance, None when it has none."""
    cursor.execute(_CURRENT.encode(), (instance["id"], instance["generation"]))
    return cursor.fetchone()


def release_kept(cursor: Cursor, instance_id: UUID, below: int) -> tuple[UUID, ...]:
    """Let no placement of a generation ``below`` that one serve on, and tell its host; return which did."""
    cursor.execute(
        "update placements set kept = false, asked = false, released = true "
        "where instance_id = %s and kept and generation < %s "
        "returning id",
        (instance_id, below),
    )
    released = tuple(row["id"] for row in cursor)
    for placement_id in released:
        announce(cursor, "zw_placements", placement_id)
    return released


@dataclass(frozen=True, slots=True)
class NewPlacement:
    """A generation of an instance (its locked row) on a node, with its addresses.

    ``snapshot_id`` is what it goes on from unless that is None; ``overhead`` is the MiB that its node charges for its
    monitor.
    """

    id: UUID
    instance: Mapping[str, Any]
    node_id: UUID
    overhead: int
    v4: str
    v6: str | None
    snapshot_id: UUID | None


def insert_placements(cursor: Cursor, placements: Collection[NewPlacement], *, epoch: int) -> None:
    """Place instances' present generations; their addresses are still to be leased.

    ``epoch`` is the deciding leader's. Raises `CapacityExceeded`, from the database itself.
    """
    cursor.execute(
        _INSERT,
        (
            epoch,
            uuids(one.id for one in placements),
            uuids(one.instance["id"] for one in placements),
            numbers(one.instance["generation"] for one in placements),
            uuids(one.node_id for one in placements),
            numbers(one.instance["vcpu"] for one in placements),
            numbers(one.instance["memory"] for one in placements),
            numbers(one.instance["disk"] for one in placements),
            numbers(one.overhead for one in placements),
            addresses(one.v4 for one in placements),
            addresses(one.v6 for one in placements),
            uuids(one.snapshot_id for one in placements),
        ),
    )


_INSERT = """
insert into placements (epoch, id, instance_id, generation, node_id, vcpu, memory, disk, memory_overhead, v4, v6,
    snapshot_id)
select %s::bigint, * from unnest(%s::uuid[], %s::uuid[], %s::bigint[], %s::uuid[], %s::integer[], %s::integer[],
    %s::integer[], %s::integer[], %s::inet[], %s::inet[], %s::uuid[])
"""


def write_seen(cursor: Cursor, placement_id: UUID, seen: Observation, reason: str) -> dict[str, Any]:
    """Write what a host saw of a (locked) placement, with the ``reason`` for people; return its row."""
    cursor.execute(
        "update placements set state = %(state)s, state_version = state_version + 1, reason = %(reason)s, "
        "outcome = coalesce(%(outcome)s, outcome), exit_status = coalesce(%(status)s, exit_status), "
        "hypervisor = coalesce(%(hypervisor)s, hypervisor), pid = coalesce(%(pid)s, pid), "
        "boot_id = coalesce(%(boot_id)s, boot_id), updated_at = now(), "
        "failures = coalesce(%(failures)s, failures), next_try_at = to_timestamp(%(next_try_at)s), "
        "restarts = restarts + (state = 'waiting' and %(state)s = 'preparing')::integer, "
        "running_at = case when %(state)s in ('running', 'paused') and state not in ('running', 'paused') "
        "and (state <> 'stopping' or running_at is null) then now() else running_at end, "
        # What was known of the health of one start says nothing of the next.
        "health = case when %(state)s in ('running', 'paused', 'stopping') then health else 'unknown' end, "
        "health_reason = case when %(state)s in ('running', 'paused', 'stopping') then health_reason else '' end, "
        "removed_at = case when %(state)s = 'removed' then now() end, kept = kept and %(state)s <> 'removed', "
        "asked = asked and %(state)s <> 'removed' "
        "where id = %(id)s returning *",
        {
            "state": seen.state,
            "reason": reason,
            "outcome": seen.outcome,
            "status": seen.exit_status,
            "hypervisor": seen.hypervisor,
            "pid": seen.pid,
            "boot_id": seen.boot_id,
            "failures": seen.failures,
            "next_try_at": seen.next_try_at,
            "id": placement_id,
        },
    )
    row = cursor.fetchone()
    assert row is not None
    return row


def write_health(cursor: Cursor, placement_id: UUID, state: HealthState, reason: str) -> dict[str, Any] | None:
    """Write an app's health and return its placement's row, None when that does not run or nothing changed."""
    cursor.execute(
        "update placements set health = %s, health_reason = %s, health_changed_at = now() "
        "where id = %s and state = 'running' and (health, health_reason) is distinct from (%s, %s) "
        "returning *",
        (state, reason, placement_id, state, reason),
    )
    return cursor.fetchone()


def write_lost(cursor: Cursor, placement_id: UUID, *, alone: bool) -> None:
    """Write that a placement's host is dead; unless it is to stay ``alone``, another may run beside it from now on."""
    cursor.execute(
        "update placements set kept = false, asked = false, lost_at = coalesce(lost_at, now()), "
        "exclusive = exclusive and %s where id = %s",
        (alone, placement_id),
    )


def write_found(cursor: Cursor, placement_id: UUID) -> None:
    """Write that a lost placement's host lives."""
    cursor.execute("update placements set lost_at = null where id = %s", (placement_id,))


def write_kept(cursor: Cursor, placement_id: UUID, *, asked: bool) -> None:
    """Let a placement serve on until its successor runs; ``asked``: whatever becomes of its host meanwhile."""
    cursor.execute("update placements set kept = true, asked = %s where id = %s", (asked, placement_id))
