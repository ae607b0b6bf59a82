"""What is on hosts that are dead or are to be emptied, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from actors.model.errors import Conflict
from actors.model.records import PendingInstance
from actors.model.resources import Resources
from actors.model.states import ImageStatus, InstanceDesired, InstanceState, NodeState
from actors.scheduler.store import Displaced, Move, Moved
from zeitwork.store.current import COUNTS
from zeitwork.store.cursor import Cursor
from zeitwork.store.instance_rows import (
    announce_desired,
    lock_alive,
    recall,
    restored_from,
    supersede,
    write_observed,
)
from zeitwork.store.journal import record
from zeitwork.store.node_images import UPLOADED, nodes_with, only_there
from zeitwork.store.placement_rows import current_placement, release_kept, write_kept, write_lost
from zeitwork.store.requirements import requirements_from_json
from zeitwork.store.snapshot_rows import fail_snapshots_of
from zeitwork.store.succession import settle

#: Seconds after which a move whose successor failed is tried again; what was kept serves on meanwhile.
MOVE_AGAIN = 60.0
#: Its owner's wish, its host's snapshot or an upload that is only there binds an instance to one host.
PINNED, RESTORED, UPLOAD = "pinned to it", "its snapshot is there", "no other host has its image"

# On a dead host: all that counts. On one that is to be emptied: what is wanted there now; what was decided about is
# superseded. And what is kept for a successor that failed: that is decided as if its host were to be emptied. And what
# is kept on one that is not to be emptied any more, while nothing was placed elsewhere.
_DISPLACED = f"""
select c.id as placement_id, c.node_id as on_node_id, c.generation as placed_generation, c.lost_at, n.hostname,
    n.state as node_state, i.*, m.status, m.error, {UPLOADED} as uploaded,
    extract(epoch from now() - i.pending_since)::float8 as waiting,
    (select k.node_id from placements k where k.instance_id = i.id and k.kept) as leaves
from nodes n join placements c on c.node_id = n.id join instances i on i.id = c.instance_id
    join images m on m.id = i.image_id
where n.state in ('down', 'draining') and i.desired = 'running' and {COUNTS}
    and case n.state when 'down' then n.replace_after <= now()
        else c.generation = i.generation and c.lost_at is null end
union all
select c.id, c.node_id, c.generation, c.lost_at, n.hostname, 'draining', i.*, m.status, m.error, {UPLOADED},
    extract(epoch from now() - i.pending_since)::float8, c.node_id
from placements c join nodes n on n.id = c.node_id join instances i on i.id = c.instance_id
    join images m on m.id = i.image_id
where c.kept and n.state <> 'down' and i.desired = 'running' and exists (
    select from placements s where s.instance_id = i.id and s.generation = i.generation
        and s.removed_at < now() - make_interval(secs => %s))
union all
select c.id, c.node_id, c.generation, c.lost_at, n.hostname, n.state, i.*, m.status, m.error, {UPLOADED},
    extract(epoch from now() - i.pending_since)::float8, c.node_id
from placements c join nodes n on n.id = c.node_id join instances i on i.id = c.instance_id
    join images m on m.id = i.image_id
where c.kept and not c.asked and n.state = 'ready' and i.desired = 'running' and not exists (
    select from placements s where s.instance_id = i.id and s.generation > c.generation)
"""


def displaced(cursor: Cursor) -> tuple[Displaced, ...]:
    """Return placements that have to be decided about because of their nodes."""
    cursor.execute(f"{_DISPLACED} order by placement_id".encode(), (MOVE_AGAIN,))
    rows = cursor.fetchall()
    images = nodes_with(cursor, {row["image_id"] for row in rows if row["uploaded"]})
    alone = only_there(cursor, [row["placement_id"] for row in rows if row["uploaded"]])
    return tuple(
        Displaced(
            instance=PendingInstance(
                id=row["id"],
                generation=row["generation"],
                node_id=row["pinned_node_id"],
                image_id=row["image_id"],
                image_status=ImageStatus(row["status"]),
                image_error=row["error"],
                resources=Resources(row["vcpu"], row["memory"], row["disk"]),
                priority=row["priority"],
                requirements=requirements_from_json(row["requirements"]),
                group_id=row["group_id"],
                singleton=row["singleton"],
                waiting=max(0.0, row["waiting"]),
                reason=row["reason"],
                leaves=row["leaves"],
                image_nodes=images.get(row["image_id"], frozenset()) if row["uploaded"] else None,
            ),
            placement_id=row["placement_id"],
            node_id=row["on_node_id"],
            hostname=row["hostname"],
            node_state=NodeState(row["node_state"]),
            singleton=row["singleton"],
            bound=_bound(row, row["placed_generation"], row["on_node_id"], row["placement_id"] in alone),
            # Of one that its host has spoken of since, it has to be said again.
            lost=row["lost_at"] is not None and row["state"] == InstanceState.UNKNOWN,
            name=row["name"] or "",
        )
        for row in rows
    )


def apply(cursor: Cursor, moves: Sequence[Moved]) -> int:
    """Carry out moves whose instance, placement and node are still as they were seen; return how many."""
    seen = sorted(moves, key=lambda one: (one.instance_id, one.placement_id))
    # The instance, its placement, the node: in this order everywhere, and each kind in the order of ids.
    instances = _lock(
        cursor,
        "select * from instances where id = any(%s) order by id for no key update",
        [m.instance_id for m in seen],
    )
    placements = _lock(
        cursor,
        "select * from placements where id = any(%s) order by id for no key update",
        [one.placement_id for one in seen],
    )
    nodes = _lock(
        cursor,
        "select *, replace_after <= now() as given_up from nodes where id = any(%s) order by id for share",
        [row["node_id"] for row in placements.values()],
    )
    alone = only_there(cursor, placements)
    done = 0
    for one in seen:
        instance, placement = instances.get(one.instance_id), placements.get(one.placement_id)
        if instance is None or placement is None or placement["instance_id"] != instance["id"]:
            continue
        if (instance["generation"], instance["desired"]) != (one.generation, InstanceDesired.RUNNING):
            continue
        node = nodes[placement["node_id"]]
        bound = _bound(instance, placement["generation"], node["id"], placement["id"] in alone)
        if not _stands(cursor, one.move, instance, placement, node, bound):
            continue
        if move(cursor, one.move, instance, placement, one.reason, who="scheduler"):
            done += 1
            # A second move of the same instance in this batch was decided about what it was before.
            del instances[one.instance_id]
    return done


def _lock(cursor: Cursor, statement: str, ids: list[UUID]) -> dict[UUID, dict[str, Any]]:
    cursor.execute(statement.encode(), (ids,))
    return {row["id"]: row for row in cursor}


def _bound(instance: Mapping[str, Any], generation: int, node_id: UUID, alone: bool) -> str:
    """Return why a placement of that generation can be on that node only, empty when it can be elsewhere.

    ``alone``: its image can be had nowhere else.
    """
    if instance["pinned_node_id"] == node_id:
        return PINNED
    if restored_from(instance) is not None and generation == instance["generation"]:
        return RESTORED
    return UPLOAD if alone else ""


def _stands(
    cursor: Cursor,
    what: Move,
    instance: Mapping[str, Any],
    placement: Mapping[str, Any],
    node: Mapping[str, Any],
    bound: str,
) -> bool:
    """Say whether what a move was decided by is still so."""
    if placement["state"] == "removed":
        return False
    newest = placement["generation"] == instance["generation"]
    if what in (Move.REPLACE, Move.UNKNOWN):
        if node["state"] != NodeState.DOWN or not node["given_up"]:
            return False
        if placement["lost_at"] is not None and not newest and not placement["exclusive"]:
            return False  # nobody waits for it any more
        free = not placement["exclusive"] and not bound
        return free if what is Move.REPLACE else not free
    if what is Move.STAY:
        kept = placement["kept"] and not placement["asked"]
        return kept and node["state"] == NodeState.READY and not _is_followed(cursor, placement)
    if bound or placement["lost_at"] is not None:
        return False
    if what is Move.HAND_OVER and placement["exclusive"]:
        return False
    if newest:
        return bool(node["state"] == NodeState.DRAINING)
    return what is Move.HAND_OVER and placement["kept"] and _successor_is_gone(cursor, instance)


def _successor_is_gone(cursor: Cursor, instance: Mapping[str, Any]) -> bool:
    cursor.execute(
        "select from placements where instance_id = %s and generation = %s and state = 'removed'",
        (instance["id"], instance["generation"]),
    )
    return cursor.fetchone() is not None


def _is_followed(cursor: Cursor, placement: Mapping[str, Any]) -> bool:
    cursor.execute(
        "select from placements where instance_id = %s and generation > %s limit 1",
        (placement["instance_id"], placement["generation"]),
    )
    return cursor.fetchone() is not None


def move(
    cursor: Cursor,
    what: Move,
    instance: Mapping[str, Any],
    placement: Mapping[str, Any],
    reason: str,
    *,
    force: bool = False,
    who: str,
) -> bool:
    """Carry out a move; everything it is about is locked. False when it had been done before.

    ``force``: an operator accepts that what is to be alone may run twice.
    """
    newest = placement["generation"] == instance["generation"]
    after = dict(instance)
    match what:
        case Move.UNKNOWN:
            known = placement["lost_at"] is not None
            speaks = current_placement(cursor, instance)
            if speaks is None or speaks["id"] != placement["id"]:
                if known:
                    return False
                _lose(cursor, instance, placement, reason, alone=True, who=who)
                settle(cursor, after, reason, who=who)
            else:
                if known and (instance["state"], instance["reason"]) == (InstanceState.UNKNOWN, reason):
                    return False
                if not known:
                    _lose(cursor, instance, placement, reason, alone=True, who=who)
                generation = placement["generation"]
                write_observed(cursor, instance, InstanceState.UNKNOWN, reason, generation=generation, who=who)
            return True
        case Move.REPLACE:
            _lose(cursor, instance, placement, reason, alone=not force and placement["exclusive"], who=who)
            if newest:
                after |= supersede(cursor, instance)
        case Move.HAND_OVER:
            speaks = current_placement(cursor, instance)
            after |= supersede(cursor, instance)
            # One that has not taken over yet from an earlier one has nobody to serve.
            if newest and speaks is not None and speaks["id"] == placement["id"]:
                write_kept(cursor, placement["id"], asked=who != "scheduler")
        case Move.STOP_FIRST:
            after |= supersede(cursor, instance)
        case Move.STAY:
            release_kept(cursor, instance["id"], instance["generation"])
            after |= recall(cursor, instance, placement["generation"])
    if after["generation"] != instance["generation"]:
        data = {
            "move": what.value,
            "placement_id": str(placement["id"]),
            "node_id": str(placement["node_id"]),
            "generation": after["generation"],
            "reason": reason,
        }
        record(cursor, who, "instance.moved", "instance", instance["id"], data)
    settle(cursor, after, reason, who=who)
    announce_desired(cursor, instance["id"])
    return True


def _lose(
    cursor: Cursor,
    instance: Mapping[str, Any],
    placement: Mapping[str, Any],
    reason: str,
    *,
    alone: bool,
    who: str,
) -> None:
    write_lost(cursor, placement["id"], alone=alone)
    fail_snapshots_of(cursor, placement["id"], "its host is down")
    data = {
        "instance_id": str(instance["id"]),
        "node_id": str(placement["node_id"]),
        "generation": placement["generation"],
        "reason": reason,
    }
    record(cursor, who, "placement.lost", "placement", placement["id"], data)


def replace(cursor: Cursor, instance_id: UUID, *, force: bool, who: str) -> None:
    """Place an instance anew at once because somebody asks for it. Asking again while that is under way is harmless.

    What serves goes on until its successor runs; what may never run twice is stopped first, and needs ``force``. On a
    dead host nothing is waited for. Raises `NotFound`, and `Conflict` when it is not wanted running, has no placement,
    may run on its host only or needs ``force``.
    """
    instance = lock_alive(cursor, instance_id, InstanceDesired.RUNNING)
    if instance["desired"] != InstanceDesired.RUNNING:
        raise Conflict(
            f"the instance is wanted {instance['desired']}: what is to run can be replaced",
            fix="start it: that places it anew",
            code="not-running",
        )
    found = current_placement(cursor, instance)
    if found is None:
        # Nothing is there to be replaced: it waits for a host already.
        return
    cursor.execute("select * from placements where id = %s for no key update", (found["id"],))
    placement = cursor.fetchone()
    assert placement is not None
    cursor.execute("select * from nodes where id = %s for share", (placement["node_id"],))
    node = cursor.fetchone()
    assert node is not None
    dead = node["state"] == NodeState.DOWN
    under_way = placement["generation"] != instance["generation"] and not (
        placement["kept"] and _successor_is_gone(cursor, instance)
    )
    if under_way and not dead:
        return
    alone = bool(only_there(cursor, [placement["id"]]))
    _refuse_bound(_bound(instance, placement["generation"], node["id"], alone), node["hostname"])
    if placement["exclusive"] and not force:
        raise _singleton(node["hostname"], dead)
    host = node["hostname"]
    if dead:
        move(cursor, Move.REPLACE, instance, placement, f"{host} is down: replaced as asked", force=force, who=who)
    elif placement["exclusive"]:
        move(cursor, Move.STOP_FIRST, instance, placement, f"moves off {host} as asked", who=who)
    else:
        move(cursor, Move.HAND_OVER, instance, placement, f"moves off {host} as asked", who=who)


def _refuse_bound(bound: str, hostname: str) -> None:
    if bound == PINNED:
        raise Conflict(
            f"the instance is pinned to {hostname}: it can run there only",
            field="node_id",
            fix="remove it and create it without a node",
            code="bound-to-host",
        )
    if bound == UPLOAD:
        raise Conflict(
            f"the instance's image was uploaded to {hostname}, and no other host that is ready has it",
            field="image_id",
            fix="upload the same archive to another host, or push the image to a registry and run it from there",
            code="bound-to-host",
        )
    if bound:
        raise Conflict(
            f"the instance went on from a snapshot that is on {hostname}: it can do so there only",
            field="snapshot_id",
            fix="restart it: then it boots, and can do that anywhere",
            code="bound-to-host",
        )


def _singleton(hostname: str, dead: bool) -> Conflict:
    if dead:
        return Conflict(
            f"two of the instance must never run at once, and on {hostname}, which is down, it may still run",
            field="force",
            fix=f"make sure that {hostname} is off or cut off, then force it: two may run if it is not",
            code="singleton",
        )
    return Conflict(
        f"two of the instance must never run at once: it would be stopped on {hostname} before it is placed elsewhere",
        field="force",
        fix="force it if it may be away meanwhile",
        code="singleton",
    )
