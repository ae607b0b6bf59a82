"""Placing instances, many in one transaction. Writes no table of its own: it uses the functions of those who do.

Locks are taken in one order everywhere, several of a kind by id: instances, nodes, snapshots, pools. What is decided
about is read by statements that begin after those locks are had, so it stays true until the commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from actors.model.states import ImageStatus, InstanceDesired, InstanceState, NodeDesired, NodeState, SnapshotState
from actors.scheduler.store import Assignment, Postponed
from zeitwork.store.arrays import numbers, uuids
from zeitwork.store.current import BLOCKS
from zeitwork.store.cursor import Cursor
from zeitwork.store.identifiers import new_id
from zeitwork.store.instance_rows import Seen, lock_instances, restored_from, write_all_observed
from zeitwork.store.journal import announce, record
from zeitwork.store.leases import NewLease, lease
from zeitwork.store.node_rows import lock_nodes, use_of
from zeitwork.store.placement_rows import NewPlacement, insert_placements
from zeitwork.store.pools import Supply, exhausted, find_free, keep_places
from zeitwork.store.snapshot_rows import lock_snapshots

# What of an instance there is: the placement of the wanted generation, and any that is not removed.
_PLACED = f"""
select w.id as instance_id, true as wanted, false as serving, false as blocking, n.hostname
from unnest(%(ids)s::uuid[], %(generations)s::bigint[]) as w (id, generation)
    join placements c on c.instance_id = w.id and c.generation = w.generation
    join nodes n on n.id = c.node_id
union all
select c.instance_id, false, c.kept, {BLOCKS}, n.hostname
from unnest(%(ids)s::uuid[], %(generations)s::bigint[]) as w (id, generation)
    join placements c on c.instance_id = w.id and c.generation <> w.generation and c.state <> 'removed'
    join nodes n on n.id = c.node_id
"""


@dataclass(slots=True)
class _Placed:
    """What there is of an instance: its wanted generation is ``done``, an older one is in the way, or serves on."""

    done: bool = False
    blocked: bool = False
    serves_on: str | None = None  # the name of that host


@dataclass(slots=True)
class _Room:
    """A locked node and what is left of it while a batch is decided about; -1 while its capacity is not known."""

    row: Mapping[str, Any]
    vcpu_used: int
    memory_used: int

    def obstacle(self) -> str | None:
        """Return why nothing can be placed here, or None."""
        row = self.row
        if row["state"] != NodeState.READY:
            return f"the host is {row['state']}"
        if row["desired"] != NodeDesired.READY:
            return f"the host is {row['desired']}"
        if row["closed_since"] is not None:
            return f"the host is closed: {row['closed_reason']}"
        if row["vcpu_capacity"] is None:
            return f"{row['hostname']}: its capacity is not known yet"
        return None

    def lacks(self, instance: Mapping[str, Any]) -> str | None:
        """Return the numbers when an instance does not fit, else None: the words of the database's own check."""
        name, overhead = self.row["hostname"], self.row["memory_overhead"]
        vcpu, capacity = instance["vcpu"], self.row["vcpu_capacity"]
        if self.vcpu_used + vcpu > capacity:
            return f"{name}: {vcpu} vCPU asked for, {max(0, capacity - self.vcpu_used)} of {capacity} free"
        memory, capacity = instance["memory"] + overhead, self.row["memory_capacity"]
        if self.memory_used + memory > capacity:
            return (
                f"{name}: {memory} MiB asked for ({overhead} MiB of them for the VMM), "
                f"{max(0, capacity - self.memory_used)} of {capacity} MiB free"
            )
        return None

    def take(self, instance: Mapping[str, Any]) -> None:
        """Count an instance that is placed here."""
        self.vcpu_used += instance["vcpu"]
        self.memory_used += instance["memory"] + self.row["memory_overhead"]


def assign(cursor: Cursor, assignments: Sequence[Assignment], epoch: int) -> dict[Assignment, str]:
    """Make placements in a transaction that is fenced already; return those that were refused, and why.

    Those that were made before (an answer was lost) are neither. What is left of nodes and pools is given in the order
    of ``assignments``. Raises `CapacityExceeded` only when the database's check and this one differ.
    """
    batch = _Batch(cursor, assignments)
    refused = {one: reason for one in assignments if (reason := batch.decide(one)) is not None}
    batch.write(epoch)
    return refused


class _Batch:
    """Assignments that are made together: the rows that they are decided by, and what has been decided."""

    def __init__(self, cursor: Cursor, assignments: Collection[Assignment]) -> None:
        self._cursor = cursor
        self._instances = lock_instances(cursor, {one.instance_id for one in assignments})
        self._placed = placed(cursor, self._instances.values())
        self._images = _images(cursor, {row["image_id"] for row in self._instances.values()})
        # Only what passes so far: a node that is not needed is not locked.
        wanted = [one for one in assignments if self._is_open(one)]
        rows = lock_nodes(cursor, {one.node_id for one in wanted})
        used = use_of(cursor, rows) if rows else {}
        self._rooms = {
            node_id: _Room(row, *_used(used.get(node_id, (0, 0)), row["overhead_excess"]))
            for node_id, row in rows.items()
        }
        self._snapshots = self._lock_snapshots(wanted)
        self._supplies = self._find_addresses(wanted)
        self._new: list[NewPlacement] = []
        self._leases: list[NewLease] = []
        self._exhausted: dict[tuple[UUID, int], str] = {}

    def decide(self, one: Assignment) -> str | None:
        """Place an instance as far as memory goes, or return why not; None too when that was done before."""
        instance = self._instances.get(one.instance_id)
        if not _is_wanted(instance, one.generation):
            return "it is not wanted any more as it was planned"
        assert instance is not None
        state = self._placed[one.instance_id]
        if state.done:
            return None  # applied before, and the answer was lost
        if state.blocked:
            return "its earlier placement is still being removed"
        if self._images.get(instance["image_id"]) != ImageStatus.READY:
            return "waiting for its image"
        room = self._rooms.get(one.node_id)
        if room is None:
            return "the host is gone"
        snapshot_id = restored_from(instance)
        obstacle = room.obstacle() or self._snapshot_obstacle(snapshot_id, one.node_id) or room.lacks(instance)
        return obstacle or self._place(one, instance, room, snapshot_id)

    def write(self, epoch: int) -> None:
        """Write what was decided."""
        cursor = self._cursor
        if not self._new:
            return
        insert_placements(cursor, self._new, epoch=epoch)
        lease(cursor, self._leases)
        keep_places(cursor, self._supplies)
        for new in self._new:
            data = {
                "instance_id": str(new.instance["id"]),
                "node_id": str(new.node_id),
                "generation": new.instance["generation"],
                "v4": new.v4,
                "v6": new.v6,
            }
            record(cursor, "scheduler", "placement.assigned", "placement", new.id, data)
            announce(cursor, "zw_placements", new.id)
        write_all_observed(cursor, map(self._seen, self._new), who="scheduler")

    def _is_open(self, one: Assignment) -> bool:
        """Say whether an assignment needs its node looked at."""
        if not _is_wanted(self._instances.get(one.instance_id), one.generation):
            return False
        state = self._placed[one.instance_id]
        return not state.done and not state.blocked

    def _lock_snapshots(self, wanted: Iterable[Assignment]) -> dict[UUID, dict[str, Any]]:
        sources = {restored_from(self._instances[one.instance_id]) for one in wanted} - {None}
        return lock_snapshots(self._cursor, [one for one in sources if one is not None]) if sources else {}

    def _snapshot_obstacle(self, snapshot_id: UUID | None, node_id: UUID) -> str | None:
        """Return why a machine can't go on from a snapshot on this node, or None: then it stays until the commit."""
        if snapshot_id is None:
            return None
        snapshot = self._snapshots[snapshot_id]
        if snapshot["state"] != SnapshotState.READY:
            return f"its snapshot is {snapshot['state']}"
        return None if snapshot["node_id"] == node_id else "its snapshot is on another host"

    def _find_addresses(self, wanted: Iterable[Assignment]) -> dict[tuple[UUID, int], Supply]:
        counts: Counter[tuple[UUID, int]] = Counter()
        for one in wanted:
            room = self._rooms.get(one.node_id)
            if room is None or room.obstacle() is not None:
                continue
            counts[one.node_id, 4] += 1
            if room.row["ipv6"]:
                counts[one.node_id, 6] += 1
        return find_free(self._cursor, counts) if counts else {}

    def _place(self, one: Assignment, instance: Mapping[str, Any], room: _Room, snapshot_id: UUID | None) -> str | None:
        families = (4, 6) if room.row["ipv6"] else (4,)
        addresses: list[tuple[str, Supply]] = []
        for family in families:
            supply = self._supplies.get((one.node_id, family))
            if supply is None:
                return f"the host has no IPv{family} pool"
            if (address := supply.peek()) is None:
                return self._why_exhausted((one.node_id, family))
            addresses.append((address, supply))
        placement_id = new_id()
        for address, supply in addresses:
            supply.given += 1
            self._leases.append(NewLease(address, supply.network, one.node_id, placement_id))
        room.take(instance)
        self._new.append(
            NewPlacement(
                id=placement_id,
                instance=instance,
                node_id=one.node_id,
                overhead=room.row["memory_overhead"],
                v4=addresses[0][0],
                v6=addresses[1][0] if len(addresses) > 1 else None,
                snapshot_id=snapshot_id,
            )
        )
        self._placed[one.instance_id].done = True
        return None

    def _why_exhausted(self, key: tuple[UUID, int]) -> str:
        if key not in self._exhausted:
            self._exhausted[key] = exhausted(self._cursor, self._supplies[key])
        return self._exhausted[key]

    def _seen(self, new: NewPlacement) -> Seen:
        instance = new.instance
        if self._placed[instance["id"]].serves_on is None:
            return Seen(instance, InstanceState.STARTING, "", instance["generation"])
        # What serves on is what is observed of it until this one runs.
        hostname = self._rooms[new.node_id].row["hostname"]
        state = InstanceState(instance["state"])
        return Seen(instance, state, f"moving to {hostname}", instance["observed_generation"])


def postpone(cursor: Cursor, reasons: Collection[Postponed]) -> None:
    """Write why instances still wait, or that they never will run, unless they have changed since."""
    wanted = {one.instance_id: one for one in reasons}
    instances = lock_instances(cursor, wanted)
    found = placed(cursor, instances.values())
    seen = []
    for instance_id, one in wanted.items():
        instance = instances.get(instance_id)
        if not _is_wanted(instance, one.generation):
            continue
        assert instance is not None
        state = found[instance_id]
        if state.done or state.blocked:
            continue
        observed = instance["observed_generation"]
        if state.serves_on is not None:
            reason = f"moves off {state.serves_on} when there is room: {one.reason}"
            seen.append(Seen(instance, InstanceState(instance["state"]), reason, observed))
        elif one.final:
            seen.append(Seen(instance, InstanceState.FAILED, one.reason, one.generation))
        else:
            seen.append(Seen(instance, InstanceState.PENDING, one.reason, observed))
    write_all_observed(cursor, seen, who="scheduler")


def placed(cursor: Cursor, instances: Collection[Mapping[str, Any]]) -> dict[UUID, _Placed]:
    """Return what there is of each of these (locked) instances."""
    found = {row["id"]: _Placed() for row in instances}
    values = {"ids": uuids(found), "generations": numbers(row["generation"] for row in instances)}
    cursor.execute(_PLACED.encode(), values, prepare=False)
    for row in cursor:
        state = found[row["instance_id"]]
        if row["wanted"]:
            state.done = True
        elif row["blocking"]:
            state.blocked = True
        elif row["serving"]:
            state.serves_on = row["hostname"]
    return found


def _is_wanted(instance: Mapping[str, Any] | None, generation: int) -> bool:
    return (
        instance is not None and instance["generation"] == generation and instance["desired"] == InstanceDesired.RUNNING
    )


def _images(cursor: Cursor, image_ids: Collection[UUID]) -> dict[UUID, str]:
    cursor.execute("select id, status from images where id = any(%s)", (list(image_ids),))
    return {row["id"]: row["status"] for row in cursor}


def _used(held: tuple[int, int], excess: int) -> tuple[int, int]:
    """Return the vCPU and MiB that are not free: what is held, and what monitors take beyond that."""
    return held[0], held[1] + excess
