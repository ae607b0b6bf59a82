"""Placements: one try of one instance on one host. Writes the table ``placements``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from actors.model.errors import NotFound
from actors.model.health import HealthState
from actors.model.ids import short_id
from actors.model.network import Lease
from actors.model.records import Observation, Placement
from actors.model.resources import Resources
from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import InstanceDesired, PlacementState
from zeitwork.store.derive import ending, instance_state
from zeitwork.store.health import check_from_json
from zeitwork.store.images import config_from_json
from zeitwork.store.instance_rows import lock_instance, write_observed
from zeitwork.store.journal import announce, record
from zeitwork.store.leases import REST, release
from zeitwork.store.placement_rows import placement_row
from zeitwork.store.rows import PlacementRow
from zeitwork.store.snapshot_rows import TAKEN_WHILE, fail_snapshots_of
from zeitwork.store.units import Cursor, Units

_FOR_HOST = """
select p.*, i.name, i.desired, i.generation as desired_generation, i.default_port, i.environment, i.command,
    i.health as health_check, i.restart_mode, i.restart_max_attempts,
    coalesce(i.retry_asked_at > p.updated_at, false) as hurry, i.stop_force,
    i.stop_wait, i.stop_timeout, i.paused, i.image_id, m.digest, m.config,
    array(select s.id from snapshots s where s.placement_id = p.id and s.state = 'creating' order by s.id) as snapshots
from placements p join instances i on i.id = p.instance_id join images m on m.id = i.image_id
where p.node_id = %s and p.state <> 'removed' order by p.id
"""


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
            [one.id for one in placements],
            [one.instance["id"] for one in placements],
            [one.instance["generation"] for one in placements],
            [one.node_id for one in placements],
            [one.instance["vcpu"] for one in placements],
            [one.instance["memory"] for one in placements],
            [one.instance["disk"] for one in placements],
            [one.overhead for one in placements],
            [one.v4 for one in placements],
            [one.v6 for one in placements],
            [one.snapshot_id for one in placements],
        ),
    )


_INSERT = """
insert into placements (epoch, id, instance_id, generation, node_id, vcpu, memory, disk, memory_overhead, v4, v6,
    snapshot_id)
select %s::bigint, * from unnest(%s::uuid[], %s::uuid[], %s::bigint[], %s::uuid[], %s::integer[], %s::integer[],
    %s::integer[], %s::integer[], %s::inet[], %s::inet[], %s::uuid[])
"""


def _for_host(row: Mapping[str, Any]) -> Placement:
    wanted = row["desired"] == InstanceDesired.RUNNING and row["desired_generation"] == row["generation"]
    # The wait of one stop or restart is for what ends by it, not for the generation that follows.
    hurried = not wanted and row["stop_wait"] is not None
    return Placement(
        id=row["id"],
        instance_id=row["instance_id"],
        generation=row["generation"],
        node_id=row["node_id"],
        wanted=wanted,
        image_id=row["image_id"],
        image_digest=row["digest"],
        image_config=config_from_json(row["config"]),
        resources=Resources(row["vcpu"], row["memory"], row["disk"]),
        lease=Lease(v6=row["v6"], v4=row["v4"]),
        default_port=row["default_port"],
        state=PlacementState(row["state"]),
        hostname=row["name"] or f"i-{short_id(row['instance_id'])}",
        environment=dict(row["environment"]),
        command=tuple(row["command"]),
        stop_timeout=row["stop_wait"] if hurried else row["stop_timeout"],
        force=row["stop_force"],
        boot_id=row["boot_id"],
        restart=RestartPolicy(RestartMode(row["restart_mode"]), row["restart_max_attempts"]),
        health=check_from_json(row["health_check"]),
        health_state=HealthState(row["health"]),
        running_at=None if row["running_at"] is None else row["running_at"].timestamp(),
        failures=0 if row["hurry"] else row["failures"],
        next_try_at=None if row["hurry"] or row["next_try_at"] is None else row["next_try_at"].timestamp(),
        paused=wanted and row["paused"],
        snapshots=tuple(row["snapshots"]) if wanted else (),
        # Once it has run it has a disk of its own, which is newer than the snapshot.
        restore=row["snapshot_id"] if row["running_at"] is None else None,
    )


class Placements:
    """Placements; also `actors.host.store.PlacementStore`. ``rest`` is how long released addresses rest, in seconds."""

    def __init__(self, units: Units, *, rest: float = REST) -> None:
        self._units = units
        self._rest = rest

    async def get(self, placement_id: UUID) -> PlacementRow:
        """Return a placement, a removed one too. Raises `NotFound`."""

        def unit(cursor: Cursor) -> PlacementRow:
            cursor.execute("select * from placements where id = %s", (placement_id,))
            row = cursor.fetchone()
            if row is None:
                raise NotFound(f"there is no placement {placement_id}")
            return placement_row(row)

        return await self._units.read(unit, name="placements.get")

    async def placements(self, node_id: UUID) -> list[Placement]:
        """Return every placement of ``node_id`` that is not removed, wanted or not."""

        def unit(cursor: Cursor) -> list[Placement]:
            cursor.execute(_FOR_HOST, (node_id,))
            return [_for_host(row) for row in cursor]

        return await self._units.read(unit, name="placements.placements")

    async def observe(self, placement_id: UUID, expected: Collection[PlacementState], observation: Observation) -> bool:
        """Compare-and-set a placement's observed state; the instance's follows in the same transaction.

        False when the placement's state is not in ``expected`` (someone else decided otherwise: re-read). Writing
        `PlacementState.REMOVED` frees its capacity and lets its addresses rest. Idempotent: observing what is
        already written answers True. Raises `NotFound` for a placement that the database does not know.
        """
        wanted = frozenset(expected)

        def unit(cursor: Cursor) -> bool:
            return _observe(cursor, placement_id, wanted, observation, self._rest)

        return await self._units.run(unit, name="placements.observe")

    async def record_health(self, placement_id: UUID, state: HealthState, reason: str) -> bool:
        """Write a change of an app's health; False, and nothing written, when its placement does not run."""

        def unit(cursor: Cursor) -> bool:
            cursor.execute(
                "update placements set health = %s, health_reason = %s, health_changed_at = now() "
                "where id = %s and state = 'running' and (health, health_reason) is distinct from (%s, %s) "
                "returning instance_id",
                (state, reason, placement_id, state, reason),
            )
            row = cursor.fetchone()
            if row is None:
                cursor.execute("select from placements where id = %s and state = 'running'", (placement_id,))
                return cursor.fetchone() is not None
            data = {"placement_id": str(placement_id), "to": state, "reason": reason}
            record(cursor, "health", "instance.health", "instance", row["instance_id"], data)
            return True

        return await self._units.run(unit, name="placements.record_health")

    async def tombstones(self, node_id: UUID, placement_ids: Collection[UUID]) -> set[UUID]:
        """Return those of ``placement_ids`` that the database knows as removed: only these may be destroyed."""

        def unit(cursor: Cursor) -> set[UUID]:
            cursor.execute(
                "select id from placements where node_id = %s and state = 'removed' and id = any(%s)",
                (node_id, list(placement_ids)),
            )
            return {row["id"] for row in cursor}

        return await self._units.read(unit, name="placements.tombstones")


def _observe(
    cursor: Cursor, placement_id: UUID, expected: frozenset[PlacementState], seen: Observation, rest: float
) -> bool:
    cursor.execute("select instance_id from placements where id = %s", (placement_id,))
    found = cursor.fetchone()
    if found is None:
        raise NotFound(f"there is no placement {placement_id}")
    # The instance before its placement, as everyone who locks both does.
    instance = lock_instance(cursor, found["instance_id"])
    assert instance is not None  # a foreign key holds it
    cursor.execute("select * from placements where id = %s for no key update", (placement_id,))
    row = cursor.fetchone()
    assert row is not None
    if row["state"] not in expected or row["state"] == PlacementState.REMOVED:
        return bool(row["state"] == seen.state)
    removed = seen.state is PlacementState.REMOVED
    ended = removed or seen.state is PlacementState.WAITING
    reason = ending(seen) if removed and not seen.reason else seen.reason
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
        "removed_at = case when %(state)s = 'removed' then now() end where id = %(id)s",
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
    if removed:
        release(cursor, placement_id, rest)
    if seen.state not in TAKEN_WHILE:
        told = f": {reason}" if reason else ""
        fail_snapshots_of(cursor, placement_id, f"its instance ended or was stopped before it was taken{told}")
    if row["state"] != seen.state or row["reason"] != reason:
        data = {
            "instance_id": str(instance["id"]),
            "node_id": str(row["node_id"]),
            "from": row["state"],
            "to": seen.state,
            "reason": reason,
            "outcome": seen.outcome,
            "exit_status": seen.exit_status,
        }
        record(cursor, "host", "placement.state", "placement", placement_id, data)
        # Its host wrote this, and needs not read it again.
        announce(cursor, "zw_observed", placement_id)
    superseded = instance["generation"] != row["generation"]
    desired = InstanceDesired(instance["desired"])
    state, sentence = instance_state(desired, superseded, seen)
    # With the last placement gone and none to follow, this tells of a newer generation too, which never was placed.
    over = removed and desired is not InstanceDesired.RUNNING
    write_observed(
        cursor,
        instance,
        state,
        sentence,
        generation=instance["generation"] if over else row["generation"],
        outcome=seen.outcome if ended else None,
        exit_status=seen.exit_status if ended else None,
        who="host",
    )
    if removed:
        # Room was freed and perhaps a next generation may be placed: the scheduler must look, whatever the state.
        announce(cursor, "zw_instances", instance["id"])
    return True
