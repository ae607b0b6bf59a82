"""What people, the scheduler, hosts and the leader may do to a store, as steps, and what must hold after each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg

from actors.model.errors import Conflict, InvalidInput
from actors.model.records import Observation, Placement, SnapshotMade
from actors.model.states import (
    InstanceDesired,
    InstanceState,
    NodeDesired,
    NodeState,
    Outcome,
    PlacementState,
    SnapshotState,
)
from actors.scheduler.plan import evaluate
from actors.scheduler.store import Displaced, Move, Moved
from tests.zeitwork.store.world import apply_plan, instance, leading
from zeitwork.store import Store
from zeitwork.store.current import current
from zeitwork.store.derive import instance_state, observation_of
from zeitwork.store.rows import ImageRow, NodeRow

MADE = SnapshotMade(4096, "qemu", "7.2", "6.1.0-1", "a CPU")
_FIELDS = ("generation", "kept", "lost", "exclusive")


@dataclass(frozen=True)
class _Try:
    generation: int
    kept: bool
    lost: bool
    exclusive: bool


@dataclass
class World:
    store: Store
    nodes: list[NodeRow]
    image: ImageRow
    connection: psycopg.Connection[dict[str, Any]]
    instances: list[Any] = field(default_factory=list)
    snapshots: list[Any] = field(default_factory=list)

    async def step(self, name: str, *arguments: Any) -> None:
        await getattr(self, name)(*arguments)

    async def live(self) -> list[Placement]:
        """Return what is on all hosts."""
        return [one for node in self.nodes for one in await self.store.placements.placements(node.id)]

    async def create(self, memory: int, singleton: bool = False) -> None:
        try:
            made = await instance(self.store, self.image, memory=memory, singleton=singleton)
            self.instances.append(made.id)
        except InvalidInput:
            assert memory > 3900

    async def evaluate(self) -> None:
        await apply_plan(
            self.store, evaluate(await self.store.scheduling.pending(), await self.store.scheduling.nodes())
        )

    async def desire(self, index: int, desired: InstanceDesired, force: bool) -> None:
        if not self.instances:
            return
        chosen = self.instances[index % len(self.instances)]
        before = await self.store.instances.get(chosen)
        try:
            after = await self.store.instances.set_desired(chosen, desired, force=force)
        except Conflict:
            assert before.desired is InstanceDesired.TERMINATED
        else:
            assert after.desired is desired
            assert after.generation - before.generation in (0, 1)
            # Asking twice is asking once.
            assert await self.store.instances.set_desired(chosen, desired, force=force) == after

    async def restart(self, index: int) -> None:
        if self.instances:
            try:
                await self.store.instances.restart(self.instances[index % len(self.instances)])
            except Conflict:
                return

    async def observe(self, index: int, state: PlacementState) -> None:
        live = await self.live()
        if live:
            seen = Observation(state)
            assert await self.store.placements.observe(live[index % len(live)].id, list(PlacementState), seen)

    async def remove(self, index: int, outcome: Outcome, status: int) -> None:
        live = await self.live()
        if not live:
            return
        placement = live[index % len(live)]
        before = await self.store.instances.get(placement.instance_id)
        seen = Observation(PlacementState.REMOVED, outcome=outcome, exit_status=status)
        assert await self.store.placements.observe(placement.id, list(PlacementState), seen)
        row = await self.store.instances.get(placement.instance_id)
        if not placement.wanted and before.state is not InstanceState.FAILED:
            assert row.state is not InstanceState.FAILED, "what was asked for is never a failure"

    async def expire(self) -> None:
        for node in self.nodes:
            await self.store.leases.expire_rested(node.id)

    async def pause(self, index: int) -> None:
        if not self.instances:
            return
        chosen = self.instances[index % len(self.instances)]
        before = await self.store.instances.get(chosen)
        try:
            after = await self.store.instances.pause(chosen)
        except Conflict:
            assert not before.paused
        else:
            assert after.paused
            assert after.generation == before.generation
            assert await self.store.instances.pause(chosen) == after

    async def resume(self, index: int) -> None:
        if not self.instances:
            return
        chosen = self.instances[index % len(self.instances)]
        before = await self.store.instances.get(chosen)
        try:
            assert not (await self.store.instances.resume(chosen)).paused
        except Conflict:
            assert not before.paused

    async def snapshot(self, index: int) -> None:
        if not self.instances:
            return
        chosen = self.instances[index % len(self.instances)]
        before = await self.store.instances.get(chosen)
        try:
            made = await self.store.snapshots.create(chosen)
        except Conflict:
            return
        assert before.state in (InstanceState.RUNNING, InstanceState.PAUSED)
        assert before.desired is InstanceDesired.RUNNING
        self.snapshots.append(made.id)

    async def take(self, index: int, well: bool) -> None:
        """Do what the host does about what it is to take of one placement."""
        live = await self.live()
        taking = [snapshot for placement in live for snapshot in placement.snapshots]
        if not taking:
            return
        chosen = taking[index % len(taking)]
        if well:
            assert await self.store.snapshots.taken(chosen, MADE)
            assert await self.store.snapshots.taken(chosen, MADE)
        else:
            await self.store.snapshots.failed(chosen, "the disk is full")
            assert not await self.store.snapshots.taken(chosen, MADE)

    async def restore(self, index: int, snapshot: int) -> None:
        if not self.snapshots:
            return
        chosen = self.instances[index % len(self.instances)]
        source = await self.store.snapshots.get(self.snapshots[snapshot % len(self.snapshots)])
        try:
            after = await self.store.instances.restore(chosen, source.id)
        except (Conflict, InvalidInput):
            return
        assert source.state is SnapshotState.READY
        assert (after.snapshot_id, after.desired, after.paused) == (source.id, InstanceDesired.RUNNING, False)

    async def clone(self, snapshot: int) -> None:
        if not self.snapshots:
            return
        source = await self.store.snapshots.get(self.snapshots[snapshot % len(self.snapshots)])
        try:
            made = await instance(self.store, self.image, memory=source.resources.memory, snapshot_id=source.id)
        except Conflict:
            assert source.state is not SnapshotState.READY
        else:
            assert source.state is SnapshotState.READY
            self.instances.append(made.id)

    async def forget(self, snapshot: int) -> None:
        if not self.snapshots:
            return
        try:
            after = await self.store.snapshots.delete(self.snapshots[snapshot % len(self.snapshots)])
        except Conflict:
            return
        assert after.state in (SnapshotState.DELETING, SnapshotState.DELETED)

    async def sweep(self) -> None:
        """Do what the host does about snapshots that are to be deleted."""
        for node in self.nodes:
            for snapshot in await self.store.snapshots.deleting(node.id, []):
                await self.store.snapshots.removed(snapshot)
            assert await self.store.snapshots.deleting(node.id, []) == set()

    async def beat(self, index: int) -> None:
        """Let a host give a sign of life, which brings it back if it was dead."""
        node = self.nodes[index % len(self.nodes)]
        assert await self.store.presence.heartbeat(node.id, node.generation)
        assert (await self.store.nodes.get(node.id)).state is not NodeState.DOWN

    async def die(self, index: int) -> None:
        node = self.nodes[index % len(self.nodes)]
        for sign in await self.store.presence.beats():
            if sign.node_id == node.id:
                assert await self.store.presence.mark_down(sign, "silent", await leading(self.store))

    async def leave(self, index: int) -> None:
        """Let a host say goodbye."""
        await self.store.nodes.set_state(self.nodes[index % len(self.nodes)].id, NodeState.DOWN, "stopped")

    async def wish(self, index: int, desired: NodeDesired) -> None:
        await self.store.nodes.set_desired(self.nodes[index % len(self.nodes)].id, desired)

    async def move(self, index: int, other: Move | None) -> None:
        """Decide about one displaced placement as the leader does, or in some way that may not stand."""
        found = await self.store.scheduling.displaced()
        if not found:
            return
        chosen = found[index % len(found)]
        move = other or _decide(chosen)
        if move is None:
            return
        moved = Moved(chosen.instance.id, chosen.instance.generation, chosen.placement_id, move, "moved")
        term = await leading(self.store)
        done = await self.store.scheduling.apply_moves((moved,), term)
        if other is None and not chosen.lost:
            assert done == 1
        if move is not Move.HAND_OVER:
            assert await self.store.scheduling.apply_moves((moved,), term) == 0

    async def replace(self, index: int, force: bool) -> None:
        if not self.instances:
            return
        chosen = self.instances[index % len(self.instances)]
        try:
            after = await self.store.instances.replace(chosen, force=force)
        except Conflict:
            return
        # Asking twice is asking once.
        assert await self.store.instances.replace(chosen, force=force) == after

    def check(self) -> None:
        self._check_instances()
        self._check_snapshots()
        self._check_capacity()

    def _check_instances(self) -> None:
        instances = self.connection.execute("select * from instances").fetchall()
        tries = self.connection.execute("select *, lost_at is not null as lost from placements").fetchall()
        for row in instances:
            mine = [one for one in tries if one["instance_id"] == row["id"]]
            _check_one(row, mine, [one for one in mine if one["state"] != "removed"])

    def _check_snapshots(self) -> None:
        # What is being taken can be taken, and what is yet to be gone on from is there.
        stray = self.connection.execute(
            "select s.id from snapshots s join placements p on p.id = s.placement_id where s.state = 'creating' "
            "and p.state not in ('running', 'paused')"
        ).fetchall()
        assert stray == []
        lost = self.connection.execute(
            "select s.id, s.state from snapshots s join placements p on p.snapshot_id = s.id "
            "where p.state <> 'removed' and p.running_at is null and s.state <> 'ready' "
            "union select s.id, s.state from snapshots s join instances i on i.snapshot_id = s.id "
            "where i.snapshot_generation = i.generation and i.desired = 'running' and s.state <> 'ready' "
            "and not exists (select from placements where instance_id = i.id and generation = i.generation)"
        ).fetchall()
        assert lost == []

    def _check_capacity(self) -> None:
        uses = self.connection.execute(
            "select sum(memory + memory_overhead) as memory from placements where state <> 'removed' group by node_id"
        ).fetchall()
        assert all(use["memory"] <= 4096 for use in uses)
        live = self.connection.execute("select count(*) as live from placements where state <> 'removed'").fetchone()
        leased = self.connection.execute(
            "select count(*) as leased from leases l join placements p on p.id = l.placement_id "
            "and l.address in (p.v4, p.v6) and p.state <> 'removed' where l.state = 'leased'"
        ).fetchone()
        total = self.connection.execute("select count(*) as leased from leases where state = 'leased'").fetchone()
        assert live is not None
        assert leased == total == {"leased": 2 * live["live"]}


def _decide(found: Displaced) -> Move | None:
    """Return what becomes of a placement by the rules of the design."""
    if found.node_state is NodeState.DOWN:
        return Move.UNKNOWN if found.singleton or found.bound else Move.REPLACE
    if found.bound:
        return None
    return Move.STOP_FIRST if found.singleton else Move.HAND_OVER


def _check_one(row: dict[str, Any], mine: list[dict[str, Any]], live: list[dict[str, Any]]) -> None:
    """Check an instance, all of its placements and those that are not removed."""
    assert row["observed_generation"] <= row["generation"]
    if row["paused"]:
        assert row["desired"] == "running"
    speaks = current([_Try(**{name: one[name] for name in _FIELDS}) for one in live], row["generation"])
    if speaks is None:
        assert row["state"] in ("pending", "stopped", "failed", "terminated")
        if row["desired"] != "running":
            assert row["state"] == row["desired"]
        elif not any(one["generation"] == row["generation"] for one in mine):
            assert row["state"] == "pending"
            assert row["observed_generation"] < row["generation"], "the scheduler would not find it"
    else:
        one = next(one for one in live if one["generation"] == speaks.generation)
        state, _ = instance_state(InstanceDesired(row["desired"]), False, observation_of(one))
        assert row["state"] == state or (one["lost_at"] is not None and row["state"] == "unknown")
    # One serves and one is to follow it; what is lost nobody counts on.
    assert len([one for one in live if one["lost_at"] is None]) <= (1 if row["singleton"] else 2)
    assert len([one for one in live if one["exclusive"]]) <= 1
    for one in live:
        if one["kept"]:
            assert (row["desired"], row["singleton"], one["lost_at"]) == ("running", False, None)
            assert one["generation"] < row["generation"]
