"""Two electors that both want it, with a scheduler each, on one real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psycopg
import trio

from actors.scheduler.actor import Scheduler
from actors.scheduler.messages import Evaluate
from runtime import ActorStopped, LifeRef, RealEnvironment, Spec, System
from runtime.elector import NAME, Elector, LeaseChanged, elector
from runtime.lease import Candidate
from runtime.office import Office
from tests.zeitwork.store.world import instance, live, ready_image, ready_node
from zeitwork.epochs import EpochFile
from zeitwork.store import Store, open_store

#: Seconds. Short, so that the test need not wait long; nothing asserts how long anything takes.
TTL, MARGIN = 9.0, 0.5


@asynccontextmanager
async def process(dsn: str, candidate: Candidate, path: Path) -> AsyncIterator[System]:
    """What of a host process takes part in elections."""
    async with (
        open_store(dsn, application_name=f"process {candidate.boot}") as store,
        trio.open_nursery() as nursery,
        System(RealEnvironment()) as system,
    ):

        def leader(office: Office) -> list[Spec]:
            return [Spec("scheduler", lambda: Scheduler(store.scheduling, office))]

        memory = EpochFile(path)
        await system.start(elector(lambda: Elector(store.election, candidate, memory, leader, ttl=TTL, margin=MARGIN)))
        yield system
        await system.stop(NAME)
        nursery.cancel_scope.cancel()


async def leader(systems: dict[str, System], *names: str) -> str:
    """Wait until one of them has a scheduler, and return which."""
    with trio.fail_after(60):
        while True:
            for name in names:
                if systems[name].lookup("scheduler") is not None:
                    return name
            await trio.sleep(0.02)


async def gone(scheduler: LifeRef | None) -> None:
    """Wait until that one has stopped. There may be another one at once."""
    assert scheduler is not None
    with trio.fail_after(60):
        while scheduler.alive:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def placed(store: Store, database_url: str, systems: dict[str, System]) -> int:
    """Make an instance, wait for its placement, and return the epoch that decided it."""
    node = (await store.nodes.list()).items[0]
    row = await instance(store, await ready_image(store, node))
    with trio.fail_after(60):
        while await live(store, node, row.id) is None:
            for system in systems.values():
                # What the relay does in a whole process.
                if (scheduler := system.lookup("scheduler")) is not None:
                    with suppress(ActorStopped):
                        scheduler.tell(Evaluate("test"))
            await trio.sleep(0.05)
    with psycopg.connect(database_url) as connection:
        found = connection.execute("select epoch from placements where instance_id = %s", (row.id,)).fetchone()
    assert found is not None
    return int(found[0])


async def test_one_of_two_leads_and_the_other_follows(store: Store, database_url: str, tmp_path: Path) -> None:
    nodes = {name: await ready_node(store) for name in ("one", "two")}
    candidates = {name: Candidate(node.id, node.generation, uuid4()) for name, node in nodes.items()}
    systems: dict[str, System] = {}
    async with AsyncExitStack() as stack:
        for name, candidate in candidates.items():
            systems[name] = await stack.enter_async_context(process(database_url, candidate, tmp_path / name))
        first = await leader(systems, "one", "two")
        other = "two" if first == "one" else "one"
        row = await store.election.leader()
        assert row is not None
        assert row.node_id == nodes[first].id
        assert await placed(store, database_url, systems) == row.epoch
        assert systems[other].lookup("scheduler") is None

        scheduler = systems[first].lookup("scheduler")
        # Its lease is taken away, as by an operator or a restored backup: it stops by itself.
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "update leadership set epoch = epoch + 1, boot = %s, node_id = %s, generation = 0, "
                "expires_at = clock_timestamp() + interval '2 seconds'",
                (uuid4(), nodes[other].id),
            )
        await gone(scheduler)

        # Its connections are killed again and again: whoever leads then, one does, with a higher epoch.
        for name in ("one", "two"):
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() "
                    "and application_name like %s",
                    (f"process {candidates[name].boot}%",),
                )
        again = await leader(systems, "one", "two")
        after = await placed(store, database_url, systems)
        assert after > row.epoch + 1

        # And when it ends in order, the other one follows.
        rest = "two" if again == "one" else "one"
        await systems[again].stop(NAME)
        systems[rest].name(NAME).tell(LeaseChanged())
        assert await leader(systems, rest) == rest
        assert await placed(store, database_url, systems) > after
    for name in nodes:
        assert (tmp_path / name).exists()
