"""Placements: one try of one instance on one host."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from actors.model.errors import NotFound
from actors.model.health import HealthState
from actors.model.ids import short_id
from actors.model.network import Lease
from actors.model.records import Observation, Placement
from actors.model.resources import Resources
from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import InstanceDesired, InstanceState, PlacementState
from zeitwork.store.derive import ending, instance_state
from zeitwork.store.health import check_from_json
from zeitwork.store.images import config_from_json
from zeitwork.store.instance_rows import lock_instance, write_observed
from zeitwork.store.journal import announce, record
from zeitwork.store.leases import REST, release
from zeitwork.store.placement_rows import current_placement, placement_row, write_health, write_seen
from zeitwork.store.rows import PlacementRow
from zeitwork.store.snapshot_rows import TAKEN_WHILE, fail_snapshots_of
from zeitwork.store.succession import settle, take_over
from zeitwork.store.units import Cursor, Units

_ENDED = (PlacementState.WAITING, PlacementState.REMOVED)
_FOR_HOST = """
select p.*, i.name, i.desired, i.generation as desired_generation, i.default_port, i.environment, i.command,
    i.health as health_check, i.restart_mode, i.restart_max_attempts,
    coalesce(i.retry_asked_at > p.updated_at, false) as hurry, i.stop_force,
    i.stop_wait, i.stop_timeout, i.paused, i.image_id, m.digest, m.config,
    m.source as image_source,
    array(select s.id from snapshots s where s.placement_id = p.id and s.state = 'creating' order by s.id) as snapshots
from placements p join instances i on i.id = p.instance_id join images m on m.id = i.image_id
where p.node_id = %s and p.state <> 'removed' order by p.id
"""


def _for_host(row: Mapping[str, Any]) -> Placement:
    wanted = row["desired"] == InstanceDesired.RUNNING and (
        row["desired_generation"] == row["generation"] or row["kept"]
    )
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
        image_source=row["image_source"],
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
            return observe(cursor, placement_id, wanted, observation, self._rest)

        return await self._units.run(unit, name="placements.observe")

    async def record_health(self, placement_id: UUID, state: HealthState, reason: str) -> bool:
        """Write a change of an app's health; False, and nothing written, when its placement does not run.

        A successor that becomes healthy takes over from what was kept until then.
        """

        def unit(cursor: Cursor) -> bool:
            cursor.execute("select instance_id from placements where id = %s", (placement_id,))
            found = cursor.fetchone()
            if found is None:
                return False
            instance = lock_instance(cursor, found["instance_id"])
            assert instance is not None  # a foreign key holds it
            row = write_health(cursor, placement_id, state, reason)
            if row is None:
                cursor.execute("select from placements where id = %s and state = 'running'", (placement_id,))
                return cursor.fetchone() is not None
            data = {"placement_id": str(placement_id), "to": state, "reason": reason}
            record(cursor, "health", "instance.health", "instance", row["instance_id"], data)
            if take_over(cursor, instance, row):
                settle(cursor, instance, "", who="health")
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


def observe(
    cursor: Cursor, placement_id: UUID, expected: frozenset[PlacementState], seen: Observation, rest: float
) -> bool:
    """Compare-and-set a placement's observed state, as `Placements.observe` does, as a part of a unit."""
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
    before = current_placement(cursor, instance)
    removed = seen.state is PlacementState.REMOVED
    reason = ending(seen) if removed and not seen.reason else seen.reason
    after = write_seen(cursor, placement_id, seen, reason)
    if removed:
        release(cursor, placement_id, rest)
    if seen.state not in TAKEN_WHILE:
        told = f": {reason}" if reason else ""
        fail_snapshots_of(cursor, placement_id, f"its instance ended or was stopped before it was taken{told}")
    if row["state"] != seen.state or row["reason"] != reason:
        data = {
            "instance_id": str(instance["id"]),
            "node_id": str(row["node_id"]),
            "generation": row["generation"],
            # Of the leader that placed it there.
            "epoch": row["epoch"],
            "from": row["state"],
            "to": seen.state,
            "reason": reason,
            "outcome": seen.outcome,
            "exit_status": seen.exit_status,
        }
        record(cursor, "host", "placement.state", "placement", placement_id, data)
        # Its host wrote this, and needs not read it again.
        announce(cursor, "zw_observed", placement_id)
    take_over(cursor, instance, after)
    _follow(cursor, instance, after, seen, before)
    if removed:
        # Room was freed and perhaps a next generation may be placed: the scheduler must look, whatever the state.
        announce(cursor, "zw_instances", instance["id"])
    return True


def _follow(
    cursor: Cursor,
    instance: Mapping[str, Any],
    row: Mapping[str, Any],
    seen: Observation,
    before: Mapping[str, Any] | None,
) -> None:
    """Write what an instance is after ``row`` was observed; only the placement that speaks for it changes that.

    ``before`` is the one that spoke for it until now.
    """
    now = current_placement(cursor, instance)
    if now is not None and now["id"] != row["id"]:
        if before is not None and before["id"] == row["id"]:
            settle(cursor, instance, "", who="host")  # it spoke for the instance, and another does from now on
        elif now["kept"] and row["generation"] == instance["generation"] and seen.state in _ENDED:
            sentence = f"it could not move: {ending(seen)}; the one before serves on"
            state, generation = InstanceState(instance["state"]), instance["observed_generation"]
            write_observed(cursor, instance, state, sentence, generation=generation, who="host")
        return
    if now is None and (before is None or before["id"] != row["id"]):
        return  # what is left of a host that was dead: nobody waits for it
    removed = seen.state is PlacementState.REMOVED
    desired = InstanceDesired(instance["desired"])
    # A newer generation than this one's that has been placed, and is gone too, is not still to come.
    superseded = row["generation"] != instance["generation"]
    newest = not superseded or (removed and _was_placed(cursor, instance))
    state, sentence = instance_state(desired, not newest, seen)
    # With the last placement gone and none to follow, this tells of a newer generation too, which never was placed.
    over = removed and (newest or desired is not InstanceDesired.RUNNING)
    write_observed(
        cursor,
        instance,
        state,
        sentence,
        generation=instance["generation"] if over else row["generation"],
        outcome=seen.outcome if seen.state in _ENDED else None,
        exit_status=seen.exit_status if seen.state in _ENDED else None,
        who="host",
    )


def _was_placed(cursor: Cursor, instance: Mapping[str, Any]) -> bool:
    """Say whether there is or was a placement of an instance's present generation."""
    cursor.execute(
        "select from placements where instance_id = %s and generation = %s", (instance["id"], instance["generation"])
    )
    return cursor.fetchone() is not None
