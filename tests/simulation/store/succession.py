"""`zeitwork.store.succession` in memory: placements of one instance that follow each other."""

from __future__ import annotations

from uuid import UUID

from actors.model.health import HealthState, HealthType
from actors.model.records import Observation
from actors.model.states import InstanceState, PlacementState
from tests.simulation.store import tables
from tests.simulation.store.current import current
from tests.simulation.store.database import Transaction
from tests.simulation.store.instance_rows import release_kept, write_observed
from zeitwork.store.derive import instance_state


def serves(row: tables.Placement, instance: tables.Instance) -> bool:
    """Say whether a placement can take over from the one before: it runs, and is healthy if that is asked for."""
    if row.state is PlacementState.PAUSED:
        return True
    checked = instance.health.type is not HealthType.NONE
    return row.state is PlacementState.RUNNING and (not checked or row.health is HealthState.HEALTHY)


def take_over(tx: Transaction, instance: tables.Instance, row: tables.Placement) -> bool:
    """Let a placement of the instance's present generation take over from those before it if it can; say whether."""
    if row.generation != instance.generation or not serves(row, instance):
        return False
    released = release_kept(tx, instance.id, instance.generation)
    if not released:
        return False
    data = {
        "placement_id": str(row.id),
        "generation": row.generation,
        "from": [str(one) for one in released],
    }
    tx.record("host", "instance.taken_over", "instance", instance.id, data)
    return True


def settle(tx: Transaction, instance_id: UUID, note: str, *, who: str) -> None:
    """Write what an instance is by its current placement: pending without one, unknown when that is lost."""
    instance = tx.database.instances.get(instance_id)
    assert instance is not None
    row = current(tx, instance)
    if row is None:
        state, reason, generation = InstanceState.PENDING, note, instance.observed_generation
    elif row.lost:
        state, reason, generation = InstanceState.UNKNOWN, note or "its host is down", row.generation
    else:
        seen = Observation(row.state, row.reason, row.outcome, row.exit_status, failures=row.failures)
        state, reason = instance_state(instance.desired, row.generation != instance.generation, seen)
        reason, generation = reason or note, row.generation
    write_observed(tx, instance_id, state, reason, generation=generation, who=who)
