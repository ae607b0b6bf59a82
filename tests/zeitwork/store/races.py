"""Leaders, people and hosts that all work on one real Postgres at once, and a judge of what came of it.

The judge goes by the journal: its ids are in the order of commits, so it tells at every one of them who was where,
what was wanted, and who led.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar
from uuid import UUID, uuid4

import psycopg
import pytest
import trio
from psycopg.rows import dict_row

from actors.model.errors import Conflict, Problem, Unavailable
from actors.model.states import InstanceDesired, NodeDesired, PlacementState
from actors.scheduler.store import Assignment, Plan
from runtime.lease import Fenced, Term
from tests.zeitwork.store.world import CAPACITY, EXITED, LEADER, STOPPED, instance, leading, ready_image, ready_node
from zeitwork.store import Store, open_store, scheduling, work
from zeitwork.store.cursor import Cursor
from zeitwork.store.journal import record
from zeitwork.store.rows import NodeRow

#: MiB of an instance and of what its monitor is charged; of the first node's and the others' memory there is room for
#: so many, and the first node has so many addresses.
MEMORY, OVERHEAD = 100, 24
ROOM_FIRST, ROOM, ADDRESSES = 8, 5, 6
NODES, INSTANCES = 3, 36
#: How many plans each of a leader's tasks applies, the first leader's until the other one is elected and as often after
#: it, and how many tasks each leader has. The others go on until that is done.
PLANS, TASKS = 4, 3
#: Seconds: the longest pause before a statement, and what a statement or a term may take, so that none ends by itself.
PAUSE, PATIENCE = 0.004, 600.0


class PausingCursor(Cursor):
    """Pauses before statements while all are at it, so that others come in between: right or wrong, all of them do."""

    racing: ClassVar[bool] = False
    pauses: ClassVar[int] = 0

    def execute(self, *arguments: Any, **more: Any) -> PausingCursor:
        if self.racing:
            PausingCursor.pauses += 1
            time.sleep(random.random() * PAUSE)  # a thread's
        super().execute(*arguments, **more)
        return self


@pytest.fixture
def slow_statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make room for races: pauses between statements, and small transactions."""
    monkeypatch.setattr(work, "Cursor", PausingCursor)
    monkeypatch.setattr(PausingCursor, "pauses", 0)
    monkeypatch.setattr(scheduling, "TOGETHER", 4)
    monkeypatch.setattr(scheduling, "FEWEST", 2)
    yield
    assert PausingCursor.pauses, "units of work have other cursors now"


@contextmanager
def racing() -> Iterator[None]:
    """Have statements pause meanwhile."""
    PausingCursor.racing = True
    try:
        yield
    finally:
        PausingCursor.racing = False


@dataclass
class Race:
    """One round: who takes part, and what nobody should have met."""

    rng: random.Random
    stores: tuple[Store, Store]
    nodes: list[NodeRow]
    instances: list[UUID]
    terms: list[Term]
    errors: list[str] = field(default_factory=list)
    worn: trio.Event = field(default_factory=trio.Event)
    elected: trio.Event = field(default_factory=trio.Event)

    async def act(self, act: Callable[[], Awaitable[object]]) -> None:
        """Do something. Refusals are a part of it, other errors are not."""
        try:
            await act()
        except (Conflict, Fenced):
            pass
        except Unavailable as problem:
            self.errors.append(f"{problem.code}: {problem}")
        except (Problem, psycopg.Error, AssertionError) as error:
            self.errors.append(f"{type(error).__name__}: {error}".splitlines()[0])
        await trio.sleep(self.rng.random() * 0.01)

    async def repeat(self, act: Callable[[], Awaitable[object]]) -> None:
        """Do something again and again."""
        while True:
            await self.act(act)

    async def first(self) -> None:
        """Lead; go on as if nothing had happened when the other one is elected."""
        for _ in range(PLANS):
            await self.act(lambda: self.lead(0))
        self.worn.set()
        for _ in range(PLANS):
            await self.act(lambda: self.lead(0))

    async def second(self) -> None:
        """Lead once elected."""
        await self.elected.wait()
        for _ in range(PLANS):
            await self.act(lambda: self.lead(1))

    async def lead(self, which: int) -> None:
        """Place what is pending anywhere, the way one leader does: at the same time, its own plan once more."""
        store = self.stores[which]
        pending = (await store.scheduling.pending()).instances
        if not pending:
            return
        # Often not all, and often all on one: so that others place other instances there meanwhile.
        chosen = self.rng.sample(pending, self.rng.choice([len(pending), -(-len(pending) // 3)]))
        nodes = self.rng.sample(self.nodes, self.rng.choice([1, 1, NODES]))
        plan = Plan(tuple(Assignment(one.id, one.generation, self.rng.choice(nodes).id) for one in chosen))
        term = self.terms[which]
        failures: list[BaseException] = []

        async def apply() -> None:
            try:
                await store.scheduling.apply_plan(plan, term)
            except Exception as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(apply)
            nursery.start_soon(apply)
        if failures:
            raise failures[0]

    async def elect(self) -> None:
        """Put the second leader into office, in the middle of what the first one does."""
        await self.worn.wait()
        boot = uuid4()

        def unit(cursor: Cursor) -> int:
            cursor.execute(
                "update leadership set epoch = epoch + 1, boot = %s, elected_at = clock_timestamp() returning epoch",
                (boot,),
            )
            row = cursor.fetchone()
            assert row is not None
            record(cursor, "test", "test.elected", "cluster", boot, {"epoch": row["epoch"]})
            return int(row["epoch"])

        self.terms.append(Term(await self.stores[1].units.run(unit, name="test.elect"), boot, PATIENCE))
        self.elected.set()

    async def people(self) -> None:
        """Change what is wanted of an instance."""
        chosen = self.rng.choice(self.instances)
        instances = self.stores[0].instances
        match self.rng.randrange(5):
            case 0:
                await instances.set_desired(chosen, InstanceDesired.STOPPED)
            case 1 | 2:
                await instances.set_desired(chosen, InstanceDesired.RUNNING)
            case 3:
                await instances.restart(chosen)
            case _:
                if self.rng.random() < 0.2:
                    await instances.delete(chosen)

    async def operators(self) -> None:
        """Drain, cordon or close a host, or have it take new work again."""
        node = self.rng.choice(self.nodes)
        nodes = self.stores[0].nodes
        match self.rng.randrange(4):
            case 0:
                await nodes.set_desired(node.id, self.rng.choice([NodeDesired.DRAINING, NodeDesired.CORDONED]))
            case 1:
                await nodes.record_closed(node.id, "its disk is full")
            case _:
                await nodes.set_desired(node.id, NodeDesired.READY)
                await nodes.record_closed(node.id, "")

    async def host(self, node: NodeRow) -> None:
        """Remove what is not wanted any more, and end a little of what is."""
        store = self.stores[1]
        for placement in await store.placements.placements(node.id):
            if not placement.wanted or self.rng.random() < 0.1:
                seen = EXITED if placement.wanted else STOPPED
                await store.placements.observe(placement.id, list(PlacementState), seen)

    async def settle(self) -> None:
        """Let it all come to rest under the last leader: whatever fits somewhere is placed."""
        store = self.stores[1]
        for instance_id in self.instances:
            with suppress(Conflict):  # deleted
                await store.instances.set_desired(instance_id, InstanceDesired.RUNNING)
        for node in self.nodes:
            await store.nodes.set_desired(node.id, NodeDesired.READY)
            await store.nodes.record_closed(node.id, "")
            for placement in await store.placements.placements(node.id):
                if not placement.wanted:
                    await store.placements.observe(placement.id, list(PlacementState), STOPPED)
        for node in self.nodes:
            pending = (await store.scheduling.pending()).instances
            plan = Plan(tuple(Assignment(one.id, one.generation, node.id) for one in pending))
            await store.scheduling.apply_plan(plan, self.terms[-1])


async def run_round(dsn: str, seed: int) -> list[str]:
    """Run one round on an empty database; return what is wrong with what came of it."""
    rng = random.Random(seed)
    opened = partial(open_store, dsn, size=8, rest=0.0, statement_timeout=PATIENCE)
    async with opened() as one, opened() as two:
        nodes = []
        for number in range(NODES):
            capacity = replace(CAPACITY, memory_total=(ROOM if number else ROOM_FIRST) * (MEMORY + OVERHEAD))
            v4 = f"192.168.{number}.0/{24 if number else 29}"
            nodes.append(await ready_node(one, capacity=capacity, region=f"r{number}", v4=v4))
        image = await ready_image(one, nodes[0])
        instances = [(await instance(one, image, memory=MEMORY)).id for _ in range(INSTANCES)]
        race = Race(rng, (one, two), nodes, instances, [replace(await leading(one), ttl=PATIENCE)])
        with racing():
            async with trio.open_nursery() as others:
                others.start_soon(race.repeat, race.people)
                others.start_soon(race.repeat, race.operators)
                for node in nodes:
                    others.start_soon(race.repeat, partial(race.host, node))
                async with trio.open_nursery() as leaders:
                    leaders.start_soon(race.elect)
                    for _ in range(TASKS):
                        leaders.start_soon(race.first)
                        leaders.start_soon(race.second)
                others.cancel_scope.cancel()
        if not race.errors:
            with suppress(Conflict, Fenced):
                await race.settle()
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        return [*dict.fromkeys(race.errors), *judge(connection, nodes), *at_rest(connection)]


def judge(connection: psycopg.Connection[dict[str, Any]], nodes: list[NodeRow]) -> list[str]:
    """Go through the journal, commit by commit; return what never should have been."""
    wrong: list[str] = []
    desired: dict[str, tuple[str, int]] = {}
    where: dict[str, str] = {}  # node by placement
    alive: dict[str, set[str]] = {}  # placements by instance
    addresses: dict[str, str] = {}  # placement by address
    held = {str(node.id): 0 for node in nodes}
    room = {str(node.id): ROOM if number else ROOM_FIRST for number, node in enumerate(nodes)}
    refuses: dict[str, dict[str, bool]] = {str(node.id): {} for node in nodes}
    epochs = {str(row["id"]): row["epoch"] for row in connection.execute("select id, epoch from placements").fetchall()}
    epoch = 1
    for row in connection.execute("select what, subject_id::text as subject, data from events order by id").fetchall():
        data, subject = row["data"], row["subject"]
        match row["what"]:
            case "instance.created":
                desired[subject] = ("running", 1)
            case "instance.desired":
                desired[subject] = (data["desired"], desired[subject][1])
            case "instance.started" | "instance.restarted":
                desired[subject] = ("running", data["generation"])
            case "node.desired":
                refuses[subject]["desired"] = data["to"] != "ready"
            case "node.closed":
                refuses[subject]["closed"] = True
            case "node.opened":
                refuses[subject]["closed"] = False
            case "test.elected":
                epoch = data["epoch"]
            case "placement.assigned":
                instance_id, node_id = data["instance_id"], data["node_id"]
                if epochs[subject] != epoch:
                    wrong.append(f"placed by epoch {epochs[subject]} in epoch {epoch}")
                if desired[instance_id] != ("running", data["generation"]):
                    wrong.append("placed what was not wanted")
                if alive.setdefault(instance_id, set()):
                    wrong.append("placed twice")
                if any(refuses[node_id].values()):
                    wrong.append("placed on a host that takes nothing")
                for address in (data["v4"], data["v6"]):
                    if address in addresses:
                        wrong.append("an address was given twice")
                    addresses[address] = subject
                held[node_id] += 1
                if held[node_id] > room[node_id]:
                    wrong.append("a host has more than fits")
                where[subject] = node_id
                alive[instance_id].add(subject)
            case "placement.state" if data["to"] == "removed":
                held[where[subject]] -= 1
                alive[data["instance_id"]].discard(subject)
                addresses = {address: owner for address, owner in addresses.items() if owner != subject}
    return list(dict.fromkeys(wrong))


def at_rest(connection: psycopg.Connection[dict[str, Any]]) -> list[str]:
    """Return what is wrong with what is left at the end."""
    wrong = []
    counts = connection.execute(
        "select (select count(*) from placements where state <> 'removed') as live, "
        "(select count(*) from leases where state = 'leased') as leased, "
        "(select count(*) from leases l join placements p on p.id = l.placement_id and l.address in (p.v4, p.v6) "
        "where l.state = 'leased' and p.state <> 'removed') as right"
    ).fetchone()
    assert counts is not None
    if not 2 * counts["live"] == counts["leased"] == counts["right"]:
        wrong.append(f"leases do not match placements: {counts}")
    waiting = connection.execute(
        "select count(*) as count from instances i where desired = 'running' and state <> 'failed' "
        "and not exists (select from placements where instance_id = i.id and generation = i.generation)"
    ).fetchone()
    most = min(ROOM_FIRST, ADDRESSES) + (NODES - 1) * ROOM
    assert waiting is not None
    if waiting["count"] and counts["live"] < most:
        wrong.append(f"{waiting['count']} wait although {counts['live']} of {most} are placed")
    told = connection.execute("select count(*) as count from events where what = 'placement.assigned'").fetchone()
    made = connection.execute("select count(*) as count from placements").fetchone()
    if told != made:
        wrong.append(f"{made} placements were made, {told} told of")
    return wrong


__all__ = ["LEADER", "Race", "at_rest", "judge", "run_round", "slow_statements"]
