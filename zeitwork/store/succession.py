"""Placements of one instance that follow each other. Its row is locked by whoever calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.model.health import HealthState
from actors.model.states import InstanceDesired, InstanceState, PlacementState
from zeitwork.store.cursor import Cursor
from zeitwork.store.derive import instance_state, observation_of
from zeitwork.store.instance_rows import write_observed
from zeitwork.store.journal import record
from zeitwork.store.placement_rows import current_placement, release_kept


def serves(state: PlacementState, health: HealthState, checked: bool) -> bool:
    """Say whether a placement can take over from the one before: it runs, and is healthy if that is ``checked``.

    A paused one has run, and is not probed.
    """
    if state is PlacementState.PAUSED:
        return True
    return state is PlacementState.RUNNING and (not checked or health is HealthState.HEALTHY)


def take_over(cursor: Cursor, instance: Mapping[str, Any], placement: Mapping[str, Any]) -> bool:
    """Let a placement of the instance's present generation take over from those before it if it can; say whether."""
    if placement["generation"] != instance["generation"]:
        return False
    if not serves(PlacementState(placement["state"]), HealthState(placement["health"]), instance["health"] is not None):
        return False
    released = release_kept(cursor, instance["id"], instance["generation"])
    if not released:
        return False
    data = {
        "placement_id": str(placement["id"]),
        "generation": placement["generation"],
        "from": [str(one) for one in released],
    }
    record(cursor, "host", "instance.taken_over", "instance", instance["id"], data)
    return True


def settle(cursor: Cursor, instance: Mapping[str, Any], note: str, *, who: str) -> None:
    """Write what an instance is by its current placement: pending without one, unknown when that is lost.

    ``note`` is the reason for people where the placement gives none. Not for an instance that is wanted stopped or
    terminated and has none.
    """
    row = current_placement(cursor, instance)
    if row is None:
        state, reason, generation = InstanceState.PENDING, note, instance["observed_generation"]
    elif row["lost_at"] is not None:
        state, reason, generation = InstanceState.UNKNOWN, note or "its host is down", row["generation"]
    else:
        superseded = row["generation"] != instance["generation"]
        state, reason = instance_state(InstanceDesired(instance["desired"]), superseded, observation_of(row))
        reason, generation = reason or note, row["generation"]
    write_observed(cursor, instance, state, reason, generation=generation, who=who)
