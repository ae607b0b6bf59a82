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
from actors.model.records import Observation
from actors.model.states import InstanceDesired, InstanceState, Outcome, PlacementState
from actors.scheduler.plan import evaluate
from tests.conftest import TEMPLATE
from tests.zeitwork.store.world import instance, ready_image, ready_node
from zeitwork.store import Store, open_store
from zeitwork.store.embedded import EmbeddedServer
from zeitwork.store.rows import ImageRow, NodeRow

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

    async def step(self, name: str, *arguments: Any) -> None:
        await getattr(self, name)(*arguments)

    async def create(self, memory: int) -> None:
        try:
            self.instances.append((await instance(self.store, self.image, memory=memory)).id)
        except InvalidInput:
            assert memory > 3900

    async def evaluate(self) -> None:
        await self.store.scheduling.apply_plan(evaluate(await self.store.scheduling.snapshot()))

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
                assert row["state"] in ("pending", "starting", "running", "stopping")
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
