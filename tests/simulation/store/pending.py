"""Instances that want to be placed, as the scheduler looks at them."""

from __future__ import annotations

from uuid import UUID

from actors.model.image import is_upload
from actors.model.records import PendingInstance
from actors.model.states import InstanceDesired, InstanceState
from actors.scheduler.store import After, Pending
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.current import is_blocked, placements_of
from tests.simulation.store.database import Transaction


def pending_instance(tx: Transaction, row: tables.Instance) -> PendingInstance:
    """Return an instance as the scheduler looks at it."""
    image = tx.database.images.get(row.image_id)
    assert image is not None
    kept = next((one.node_id for one in placements_of(tx, row.id) if one.kept), None)
    return PendingInstance(
        id=row.id,
        generation=row.generation,
        node_id=row.pinned_node_id,
        image_id=row.image_id,
        image_status=image.status,
        image_error=image.error,
        resources=row.resources,
        priority=row.priority,
        requirements=row.requirements,
        group_id=row.group_id,
        singleton=row.singleton,
        waiting=max(0.0, tx.now - row.pending_since),
        reason=row.reason,
        leaves=kept,
        image_nodes=nodes_with(tx, row.image_id) if is_upload(image.source) else None,
    )


def nodes_with(tx: Transaction, image_id: UUID) -> frozenset[UUID]:
    """Return the hosts that have an image in their cache."""
    return frozenset(node for image, node in dict(tx.database.node_images.items()) if image == image_id)


def pending(tx: Transaction, after: After | None, limit: int) -> Pending:
    """Return a page of those, by priority (highest first), then age (oldest first)."""
    rows = sorted(tx.database.instances, key=lambda row: (-row.priority, row.id))
    if after is not None:
        rows = [row for row in rows if (-row.priority, row.id) > (-after.priority, after.id)]
    waiting = [row for row in rows if _is_pending(tx, row)]
    shown = waiting[:limit]
    images = {row.image_id for row in shown}
    groups = {row.group_id for row in shown} - {None}
    having: dict[UUID, set[UUID]] = {}
    for (image_id, node_id), _ in tx.database.node_images.items():
        if image_id in images:
            having.setdefault(image_id, set()).add(node_id)
    members: dict[UUID, dict[UUID, int]] = {}
    for placement in tx.database.placements:
        instance = tx.database.instances.get(placement.instance_id)
        if instance is None or instance.group_id is None or not placement.live:
            continue
        if instance.group_id in groups and instance.state is not InstanceState.TERMINATED:
            on = members.setdefault(instance.group_id, {})
            on[placement.node_id] = on.get(placement.node_id, 0) + 1
    last = After(shown[-1].priority, shown[-1].id) if len(waiting) > limit else None
    return Pending(
        tuple(pending_instance(tx, row) for row in shown),
        {image_id: frozenset(nodes) for image_id, nodes in having.items()},
        members,
        last,
    )


def _is_pending(tx: Transaction, row: tables.Instance) -> bool:
    if row.desired is not InstanceDesired.RUNNING or row.observed_generation >= row.generation:
        return Bug.DOUBLE_PLACEMENT in tx.bugs and _not_begun(tx, row)
    if Bug.DOUBLE_PLACEMENT in tx.bugs:
        return True
    placed = any(one.generation == row.generation for one in placements_of(tx, row.id))
    return not placed and not is_blocked(tx, row.id)


def _not_begun(tx: Transaction, row: tables.Instance) -> bool:
    """Whether it is placed and its host has not said a word yet: the bug forgets that it is placed."""
    live = [one for one in placements_of(tx, row.id) if one.live]
    return row.desired is InstanceDesired.RUNNING and bool(live) and all(one.state.value == "assigned" for one in live)
