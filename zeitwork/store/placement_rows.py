"""Rows of ``placements`` as what is handed out, by instances and placements alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.model.health import HealthState
from actors.model.resources import Resources
from actors.model.states import Outcome, PlacementState
from zeitwork.store.rows import PlacementRow


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
    )
