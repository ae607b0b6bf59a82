"""`zeitwork.store.relocation` in memory: what is on hosts that are dead or are to be emptied."""

from __future__ import annotations

from dataclasses import replace as changed
from uuid import UUID

from actors.model.errors import Conflict
from actors.model.image import is_upload
from actors.model.states import InstanceDesired, InstanceState, NodeState
from actors.scheduler.store import Displaced, Move, Moved
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.current import current, placements_of
from tests.simulation.store.database import Transaction
from tests.simulation.store.instance_rows import (
    announce_desired,
    lock_alive,
    recall,
    release_kept,
    supersede,
    write_observed,
)
from tests.simulation.store.pending import nodes_with, pending_instance
from tests.simulation.store.succession import settle

#: Seconds after which a move whose successor failed is tried again; what was kept serves on meanwhile.
MOVE_AGAIN = 60.0
#: Its owner's wish, or an upload that is only there, binds an instance to one host.
PINNED, UPLOAD = "pinned to it", "no other host has its image"


def displaced(tx: Transaction) -> tuple[Displaced, ...]:
    """Return placements that have to be decided about because of their nodes."""
    found = []
    for row in sorted(tx.database.placements, key=lambda row: row.id):
        instance, node = tx.database.instances.get(row.instance_id), tx.database.nodes.get(row.node_id)
        assert instance is not None
        assert node is not None
        if not row.live or instance.desired is not InstanceDesired.RUNNING:
            continue
        state = node.state
        if state is NodeState.DOWN:
            counts = not row.lost or row.exclusive or row.generation >= instance.generation
            due = counts and node.replace_after is not None and node.replace_after <= tx.now
        elif (state is NodeState.DRAINING and row.generation == instance.generation and not row.lost) or _is_recalled(
            tx, row, node
        ):
            due = True
        else:
            state = NodeState.DRAINING
            due = row.kept and _successor_is_gone(tx, instance, MOVE_AGAIN)
        if due:
            found.append(
                Displaced(
                    instance=pending_instance(tx, instance),
                    placement_id=row.id,
                    node_id=node.id,
                    hostname=node.hostname,
                    node_state=state,
                    singleton=instance.singleton,
                    bound=_bound(tx, instance, node.id),
                    lost=row.lost and instance.state is InstanceState.UNKNOWN,
                    name=instance.name or "",
                )
            )
    return tuple(found)


def apply(tx: Transaction, moves: tuple[Moved, ...]) -> int:
    """Carry out moves whose instance, placement and node are still as they were seen; return how many."""
    done: dict[UUID, None] = {}
    for one in sorted(moves, key=lambda one: (one.instance_id, one.placement_id)):
        instance = tx.database.instances.get(one.instance_id)
        row = tx.database.placements.get(one.placement_id)
        if instance is None or row is None or row.instance_id != instance.id or instance.id in done:
            continue
        if (instance.generation, instance.desired) != (one.generation, InstanceDesired.RUNNING):
            continue
        if _stands(tx, one.move, instance, row) and move(tx, one.move, instance, row, one.reason, who="scheduler"):
            done[instance.id] = None
    return len(done)


def _bound(tx: Transaction, instance: tables.Instance, node_id: UUID) -> str:
    if instance.pinned_node_id == node_id:
        return PINNED
    image = tx.database.images.get(instance.image_id)
    assert image is not None
    others = (tx.database.nodes.get(one) for one in nodes_with(tx, image.id) if one != node_id)
    elsewhere = any(node is not None and node.state is NodeState.READY for node in others)
    return UPLOAD if is_upload(image.source) and not elsewhere else ""


def _stands(tx: Transaction, what: Move, instance: tables.Instance, row: tables.Placement) -> bool:
    """Say whether what a move was decided by is still so."""
    node = tx.database.nodes.get(row.node_id)
    assert node is not None
    if not row.live:
        return False
    bound = bool(_bound(tx, instance, node.id))
    if what in (Move.REPLACE, Move.UNKNOWN):
        if node.state is not NodeState.DOWN or node.replace_after is None or node.replace_after > tx.now:
            return False
        if row.lost and row.generation != instance.generation and not row.exclusive:
            return False  # nobody waits for it any more
        free = not bound and (not row.exclusive or Bug.SINGLETON_TWICE in tx.bugs)
        return free if what is Move.REPLACE else not free
    if what is Move.STAY:
        return _is_recalled(tx, row, node)
    if bound or row.lost or (what is Move.HAND_OVER and row.exclusive):
        return False
    if row.generation == instance.generation:
        return node.state is NodeState.DRAINING
    return what is Move.HAND_OVER and row.kept and _successor_is_gone(tx, instance, 0.0)


def _is_recalled(tx: Transaction, row: tables.Placement, node: tables.Node) -> bool:
    followed = any(one.generation > row.generation for one in placements_of(tx, row.instance_id))
    return row.kept and not row.asked and node.state is NodeState.READY and not followed


def _successor_is_gone(tx: Transaction, instance: tables.Instance, since: float) -> bool:
    return any(
        row.generation == instance.generation and row.removed_at is not None and row.removed_at <= tx.now - since
        for row in placements_of(tx, instance.id)
    )


def move(
    tx: Transaction,
    what: Move,
    instance: tables.Instance,
    row: tables.Placement,
    reason: str,
    *,
    force: bool = False,
    who: str,
) -> bool:
    """Carry out a move. False when it had been done before. ``force``: an operator accepts that two may run."""
    newest, speaks = row.generation == instance.generation, current(tx, instance)
    spoke = speaks is not None and speaks.id == row.id
    after = instance
    match what:
        case Move.UNKNOWN:
            return _unknown(tx, instance, row, reason, spoke=spoke, who=who)
        case Move.REPLACE:
            _lose(tx, row, reason, alone=not force and row.exclusive and Bug.SINGLETON_TWICE not in tx.bugs, who=who)
            if newest:
                after = supersede(tx, instance.id)
        case Move.HAND_OVER:
            after = supersede(tx, instance.id)
            if newest and spoke and Bug.EARLY_END not in tx.bugs:
                tx.database.placements.put(row.id, changed(row, kept=True, asked=who != "scheduler"))
        case Move.STOP_FIRST:
            after = supersede(tx, instance.id)
        case Move.STAY:
            release_kept(tx, instance.id, instance.generation)
            after = recall(tx, instance.id, row.generation)
    if after.generation != instance.generation:
        data = {
            "move": what.value,
            "placement_id": str(row.id),
            "node_id": str(row.node_id),
            "generation": after.generation,
            "reason": reason,
        }
        tx.record(who, "instance.moved", "instance", instance.id, data)
    settle(tx, instance.id, reason, who=who)
    announce_desired(tx, instance.id)
    return True


def _unknown(
    tx: Transaction, instance: tables.Instance, row: tables.Placement, reason: str, *, spoke: bool, who: str
) -> bool:
    if not spoke:
        if row.lost:
            return False
        _lose(tx, row, reason, alone=True, who=who)
        settle(tx, instance.id, reason, who=who)
        return True
    if row.lost and (instance.state, instance.reason) == (InstanceState.UNKNOWN, reason):
        return False
    if not row.lost:
        _lose(tx, row, reason, alone=True, who=who)
    write_observed(tx, instance.id, InstanceState.UNKNOWN, reason, generation=row.generation, who=who)
    return True


def _lose(tx: Transaction, row: tables.Placement, reason: str, *, alone: bool, who: str) -> None:
    lost_at = tx.now if row.lost_at is None else row.lost_at
    tx.database.placements.put(
        row.id, changed(row, kept=False, asked=False, lost_at=lost_at, exclusive=row.exclusive and alone)
    )
    data = {
        "instance_id": str(row.instance_id),
        "node_id": str(row.node_id),
        "generation": row.generation,
        "reason": reason,
    }
    tx.record(who, "placement.lost", "placement", row.id, data)


def replace(tx: Transaction, instance_id: UUID, *, force: bool, who: str) -> None:
    """Place an instance anew at once because somebody asks for it. Raises `NotFound` and `Conflict`."""
    instance = lock_alive(tx, instance_id, InstanceDesired.RUNNING)
    if instance.desired is not InstanceDesired.RUNNING:
        raise Conflict(
            f"the instance is wanted {instance.desired}: what is to run can be replaced",
            fix="start it: that places it anew",
            code="not-running",
        )
    row = current(tx, instance)
    if row is None:
        return
    node = tx.database.nodes.get(row.node_id)
    assert node is not None
    dead = node.state is NodeState.DOWN
    under_way = row.generation != instance.generation and not (row.kept and _successor_is_gone(tx, instance, 0.0))
    if under_way and not dead:
        return
    if _bound(tx, instance, node.id) == UPLOAD:
        raise Conflict("no other host has its image", field="image_id", fix="upload it there", code="bound-to-host")
    if _bound(tx, instance, node.id):
        raise Conflict(
            f"the instance is pinned to {node.hostname}: it can run there only",
            field="node_id",
            fix="remove it and create it without a node",
            code="bound-to-host",
        )
    if row.exclusive and not force:
        raise Conflict("two of the instance must never run at once", field="force", fix="force it", code="singleton")
    host = node.hostname
    if dead:
        move(tx, Move.REPLACE, instance, row, f"{host} is down: replaced as asked", force=force, who=who)
    elif row.exclusive:
        move(tx, Move.STOP_FIRST, instance, row, f"moves off {host} as asked", who=who)
    else:
        move(tx, Move.HAND_OVER, instance, row, f"moves off {host} as asked", who=who)
