"""Any sequence of what people, the scheduler and the host may do leaves a state that makes sense."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg
import trio
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from actors.model.errors import Conflict, InvalidInput
from actors.model.records import Observation, SnapshotMade
from actors.model.states import InstanceDesired, InstanceState, Outcome, PlacementState, SnapshotState
from actors.scheduler.plan import evaluate
from tests.conftest import TEMPLATE
from tests.zeitwork.store.world import apply_plan, instance, ready_image, ready_node
from zeitwork.store import Store, open_store
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.rows import ImageRow, NodeRow

MADE = SnapshotMade(4096, "qemu", "7.2", "6.1.0-1", "a CPU")
_PICK = st.integers(0, 7)
_ENDINGS = st.sampled_from([Outcome.EXITED, Outcome.STOPPED, Outcome.KILLED, Outcome.START_FAILED, Outcome.VMM_DIED])
_LIVE = st.sampled_from([state for state in PlacementState if state is not PlacementState.REMOVED])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.sampled_from([100, 900, 2000, 4000])),
        st.tuples(st.just("evaluate")),
        st.tuples(st.just("desire"), _PICK, st.sampled_from(InstanceDesired), st.booleans()),
        st.tuples(st.just("restart"), _PICK),
        st.tuples(st.just("observe"), _PICK, _LIVE),
        st.tuples(st.just("remove"), _PICK, _ENDINGS, st.sampled_from([0, 1])),
        st.tuples(st.just("expire")),
        st.tuples(st.just("pause"), _PICK),
        st.tuples(st.just("resume"), _PICK),
        st.tuples(st.just("snapshot"), _PICK),
        st.tuples(st.just("take"), _PICK, st.booleans()),
        st.tuples(st.just("restore"), _PICK, _PICK),
        st.tuples(st.just("clone"), _PICK),
        st.tuples(st.just("forget"), _PICK),
        st.tuples(st.just("sweep")),
    ),
    min_size=8,
    max_size=30,
)


@dataclass
class World:
    store: Store
    node: NodeRow
    image: ImageRow
    connection: psycopg.Connection[dict[str, Any]]
    instances: list[Any] = field(default_factory=list)
    snapshots: list[Any] = field(default_factory=list)

    async def step(self, name: str, *arguments: Any) -> None:
        await getattr(self, name)(*arguments)

    async def create(self, memory: int) -> None:
        try:
            self.instances.append((await instance(self.store, self.image, memory=memory)).id)
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
        live = await self.store.placements.placements(self.node.id)
        if live:
            seen = Observation(state)
            assert await self.store.placements.observe(live[index % len(live)].id, list(PlacementState), seen)

    async def remove(self, index: int, outcome: Outcome, status: int) -> None:
        live = await self.store.placements.placements(self.node.id)
        if not live:
            return
        placement = live[index % len(live)]
        seen = Observation(PlacementState.REMOVED, outcome=outcome, exit_status=status)
        assert await self.store.placements.observe(placement.id, list(PlacementState), seen)
        row = await self.store.instances.get(placement.instance_id)
        if not placement.wanted:
            assert row.state is not InstanceState.FAILED, "what was asked for is never a failure"

    async def expire(self) -> None:
        await self.store.leases.expire_rested(self.node.id)

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
        live = await self.store.placements.placements(self.node.id)
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
        for snapshot in await self.store.snapshots.deleting(self.node.id, []):
            await self.store.snapshots.removed(snapshot)
        assert await self.store.snapshots.deleting(self.node.id, []) == set()

    def check(self) -> None:
        rows = self.connection.execute(
            "select i.*, (select count(*) from placements where instance_id = i.id and state <> 'removed') as live, "
            "(select count(*) from placements where instance_id = i.id and generation = i.generation) as placed "
            "from instances i"
        ).fetchall()
        for row in rows:
            assert row["live"] <= 1
            assert row["observed_generation"] <= row["generation"]
            if not row["live"]:
                assert row["state"] in ("pending", "stopped", "failed", "terminated")
                if row["desired"] != "running":
                    assert row["state"] == row["desired"]
                elif not row["placed"]:
                    assert row["state"] == "pending"
            else:
                assert row["state"] in ("pending", "starting", "running", "paused", "stopping")
            if row["paused"]:
                assert row["desired"] == "running"
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
        use = self.connection.execute(
            "select coalesce(sum(memory + memory_overhead), 0) as memory, count(*) as live from placements "
            "where state <> 'removed'"
        ).fetchone()
        leased = self.connection.execute(
            "select count(*) as leased from leases l join placements p on p.id = l.placement_id "
            "and l.address in (p.v4, p.v6) and p.state <> 'removed' where l.state = 'leased'"
        ).fetchone()
        total = self.connection.execute("select count(*) as leased from leases where state = 'leased'").fetchone()
        assert use is not None
        assert use["memory"] <= 4096
        assert leased == total == {"leased": 2 * use["live"]}


@given(steps=STEPS)
@example(
    # A start of what was stopped while it waited for its next try, asked for twice.
    steps=[
        ("create", 100),
        ("evaluate",),
        ("observe", 0, PlacementState.WAITING),
        ("desire", 0, InstanceDesired.STOPPED, False),
        ("desire", 0, InstanceDesired.RUNNING, False),
    ]
)
@example(
    # A try at once, asked for twice.
    steps=[
        ("create", 100),
        ("evaluate",),
        ("observe", 0, PlacementState.WAITING),
        ("desire", 0, InstanceDesired.RUNNING, False),
    ]
)
@example(
    # A copy of what ran, whose snapshot is not wanted any more before the copy has started from it.
    steps=[
        ("observe", 0, PlacementState.RUNNING),
        ("snapshot", 0),
        ("take", 0, True),
        ("clone", 0),
        ("forget", 0),
        ("evaluate",),
        ("forget", 0),
        ("observe", 2, PlacementState.RUNNING),
        ("forget", 0),
        ("sweep",),
    ]
)
@example(
    # One that is to be taken of what ends.
    steps=[("observe", 0, PlacementState.RUNNING), ("snapshot", 0), ("observe", 0, PlacementState.WAITING)]
)
@example(
    # Back to what it was, while paused.
    steps=[
        ("observe", 0, PlacementState.RUNNING),
        ("pause", 0),
        ("observe", 0, PlacementState.PAUSED),
        ("snapshot", 0),
        ("take", 0, True),
        ("restore", 0, 0),
        ("forget", 0),
        ("remove", 0, Outcome.STOPPED, 0),
        ("evaluate",),
        ("forget", 0),
    ]
)
@settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_sequence_makes_sense(postgres_server: EmbeddedServer, steps: list[tuple[Any, ...]]) -> None:
    name = f"i_{uuid4().hex}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as server:
        server.execute(f"create database {name} template {TEMPLATE} strategy file_copy".encode())
        try:
            trio.run(_live, make_conninfo(postgres_server.dsn, dbname=name), steps)
        finally:
            server.execute(f"drop database {name} with (force)".encode())


async def _live(dsn: str, steps: list[tuple[Any, ...]]) -> None:
    async with open_store(dsn, rest=0.0) as store:
        node = await ready_node(store)
        image = await ready_image(store, node)
        with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
            world = World(store, node, image, connection)
            for step in (("create", 100), ("create", 900), ("evaluate",), *steps):
                await world.step(*step)
                world.check()
