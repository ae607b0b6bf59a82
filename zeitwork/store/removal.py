"""What becomes of all that is on a node that is removed. Whoever calls locks instances before the node."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from actors.model.errors import Conflict
from actors.model.records import Observation
from actors.model.states import InstanceDesired, NodeState, Outcome, PlacementState
from actors.scheduler.store import Move
from zeitwork.store.current import COUNTS
from zeitwork.store.instance_rows import announce_desired, supersede
from zeitwork.store.node_rows import missing_node
from zeitwork.store.placements import observe
from zeitwork.store.relocation import move
from zeitwork.store.snapshot_rows import lose_snapshots_of
from zeitwork.store.succession import settle
from zeitwork.store.units import Cursor

#: What is seen of a placement whose host is no more.
GONE = Observation(PlacementState.REMOVED, "its host was deleted", Outcome.UNKNOWN)

_THERE = """
select i.id from instances i where exists (
    select from placements p where p.instance_id = i.id and p.node_id = %(node)s and p.state <> 'removed')
"""
# What has yet to go on from a snapshot that is there, and is placed nowhere.
_AWAITED = """
select i.id from instances i join snapshots s on s.id = i.snapshot_id
where s.node_id = %(node)s and s.state <> 'deleted' and i.snapshot_generation = i.generation
    and i.desired = 'running' and not exists (
        select from placements p where p.instance_id = i.id and p.generation = i.generation)
"""


def lock_instances(cursor: Cursor, node_id: UUID, *, dead: bool) -> list[UUID]:
    """Lock the instances that a node's removal is about, in the order of their ids, and return those."""
    which = f"{_THERE} union {_AWAITED}" if dead else _THERE
    cursor.execute(
        f"select id from instances where id in ({which}) order by id for no key update".encode(), {"node": node_id}
    )
    return [row["id"] for row in cursor]


def clear(
    cursor: Cursor, node: Mapping[str, Any], instance_ids: Collection[UUID], who: str, *, leaves: bool = False
) -> None:
    """Remove what is left on a (locked) node that nobody waits for, with its snapshots.

    Its addresses rest as others do, and its networks are free for other hosts after that. On a host that ``leaves``
    nothing is left: it lives, and what is replaced elsewhere may run there until it has come to know of that.

    Raises `Conflict` while other placements are on it, or a snapshot there has yet to be restored.
    """
    left, live = _left_behind(cursor, node, () if leaves else instance_ids)
    if live:
        raise Conflict(f"{live} placements are still on {node['hostname']}", fix=_how_to_empty(node, leaves))
    for placement_id in left:
        observe(cursor, placement_id, frozenset(PlacementState), GONE, 0.0)
    lose_snapshots_of(cursor, node["id"], who)


def bury(cursor: Cursor, node: Mapping[str, Any], instance_ids: Collection[UUID], who: str) -> None:
    """Remove all that is on a (locked) node that never comes back; what is wanted of it is placed anew elsewhere.

    What goes on from a snapshot there boots instead. Raises `Conflict` when something was placed there meanwhile.
    """
    host = node["hostname"]
    cursor.execute(
        "select * from placements where node_id = %s and state <> 'removed' order by id for no key update",
        (node["id"],),
    )
    rows = cursor.fetchall()
    if any(row["instance_id"] not in instance_ids for row in rows):
        raise Conflict(f"something was placed on {host} just now", fix="try again")
    for row in rows:
        # Anew each time: another placement of it may have been here, too.
        instance = _instance(cursor, row["instance_id"])
        if instance["desired"] == InstanceDesired.RUNNING and _counts(cursor, row["id"]):
            move(cursor, Move.REPLACE, instance, row, f"{host} was removed for good", force=True, who=who)
        observe(cursor, row["id"], frozenset(PlacementState), GONE, 0.0)
    cursor.execute(_AWAITED.encode(), {"node": node["id"]})
    for found in cursor.fetchall():
        if found["id"] in instance_ids:
            reason = f"its snapshot was on {host}, which was removed for good: it boots"
            settle(cursor, supersede(cursor, _instance(cursor, found["id"])), reason, who=who)
            announce_desired(cursor, found["id"])
    clear(cursor, node, instance_ids, who)


def refuse_living(node: Mapping[str, Any], alive: bool, *, dead: bool) -> None:
    """Raise `Conflict` for a host that gives signs of life."""
    if alive:
        raise Conflict(
            f"{node['hostname']} is alive",
            fix="zeitwork leave on that host, or stop `zeitwork run` there first"
            if not dead
            else "stop it, and wait half a minute: what still runs would run twice",
        )


def locked(node: Mapping[str, Any] | None, node_id: UUID) -> Mapping[str, Any]:
    """Return the node that was locked. Raises `NotFound`."""
    if node is None:
        raise missing_node(node_id)
    return node


def _instance(cursor: Cursor, instance_id: UUID) -> dict[str, Any]:
    cursor.execute("select * from instances where id = %s", (instance_id,))
    row = cursor.fetchone()
    assert row is not None  # it is locked
    return row


def _counts(cursor: Cursor, placement_id: UUID) -> bool:
    cursor.execute(
        f"select from placements c join instances i on i.id = c.instance_id where c.id = %s and {COUNTS}".encode(),
        (placement_id,),
    )
    return cursor.fetchone() is not None


def _left_behind(cursor: Cursor, node: Mapping[str, Any], instance_ids: Collection[UUID]) -> tuple[list[UUID], int]:
    """Return placements that can go with a (locked) node, and how many can't; those instances are locked."""
    cursor.execute(
        f"select c.id, c.instance_id, i.desired = 'running' and ({COUNTS}) as needed from placements c "
        "join instances i on i.id = c.instance_id where c.node_id = %s and c.state <> 'removed' order by c.id".encode(),
        (node["id"],),
    )
    rows = cursor.fetchall()
    left = [
        row["id"]
        for row in rows
        if node["state"] == NodeState.DOWN and not row["needed"] and row["instance_id"] in instance_ids
    ]
    return left, len(rows) - len(left)


def _how_to_empty(node: Mapping[str, Any], leaves: bool) -> str:
    if leaves:
        return (
            "drain it first, or stop and delete its instances; what was replaced elsewhere meanwhile is removed here "
            "within seconds"
        )
    if node["state"] == NodeState.DOWN:
        return (
            "wait until they are replaced; what can't be: `zeitwork replace --force`, or stop and delete it; "
            "if the host never comes back: `zeitwork nodes rm --dead`"
        )
    return "drain it first, or stop and delete its instances"
