"""Hosts, people and leaders that act on the same placements at the same time, on real Postgres."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import psycopg
import pytest
import trio
from psycopg.rows import dict_row

from actors.model.errors import Unavailable
from actors.model.records import Observation
from actors.model.states import InstanceDesired, InstanceState, NodeState, PlacementState
from actors.scheduler.store import Displaced, Move, Moved
from runtime.lease import Fenced, Term
from tests.zeitwork.store.moving import RUNNING, apply, beat_of, die, displaced, drain, pending, single, succeed, wanted
from tests.zeitwork.store.world import (
    STOPPED,
    apply_plan,
    assign,
    instance,
    leading,
    live,
    place,
    ready_image,
    ready_node,
    running,
    see,
)
from zeitwork.store import Store
from zeitwork.store.cursor import Cursor
from zeitwork.store.rows import NodeRow

ROUNDS = 12


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as opened:
        yield opened


async def together(*works: Callable[[], Awaitable[object]]) -> None:
    """Run works at the same time; none may fail."""
    async with trio.open_nursery() as nursery:
        for work in works:

            async def one(work: Callable[[], Awaitable[object]] = work) -> None:
                await work()

            nursery.start_soon(one)


async def test_a_host_that_was_cut_off_in_the_middle_of_a_sign_of_life_is_found_dead(store: Store) -> None:
    """The server ends what it has begun, without a word from it."""
    node, row, _ = await running(store)
    signed, found = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def unit(cursor: Cursor) -> None:
        cursor.execute("update nodes set last_seen_at = clock_timestamp() where id = %s", (node.id,))
        token.run_sync_soon(signed.set)
        # It is cut off here: its commit never arrives.
        assert found.wait(60)

    async def sign() -> None:
        with pytest.raises(Unavailable):
            await store.units.run(unit, name="cut off")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sign)
        try:
            with trio.fail_after(50):
                await signed.wait()
                while True:
                    with suppress(Unavailable):  # a lock was not to be had in time
                        await die(store, node)
                        break
        finally:
            found.set()
    assert (await store.nodes.get(node.id)).state is NodeState.DOWN
    assert await pending(store) == []
    assert (await displaced(store)).instance.id == row.id


async def test_a_sign_of_life_and_a_verdict(store: Store) -> None:
    """Whichever comes first: in the end the host is up, and what is on it is what it was."""
    node, row, old = await running(store)
    for _ in range(ROUNDS):
        beat, term = await beat_of(store, node), await leading(store)
        await together(
            lambda beat=beat, term=term: store.presence.mark_down(beat, "silent", term),
            lambda: store.presence.heartbeat(node.id, node.generation),
        )
        assert await store.presence.heartbeat(node.id, node.generation)
        assert (await store.nodes.get(node.id)).state is NodeState.READY
        assert (await store.instances.get(row.id)).placement_id == old.id
    events = [event.data["to"] for event in await store.events.list(subject=node.id, limit=1000) if "to" in event.data]
    assert events[0] == "ready"
    # Down and up take turns.
    assert all(one != two for one, two in pairwise(events))


async def test_a_return_and_a_decision(store: Store) -> None:
    """Either it was decided to do without what is there, or it is back: never both, and never neither."""
    node = await ready_node(store)
    image = await ready_image(store, node)
    rows = [await instance(store, image) for _ in range(8)]
    singles = [await instance(store, image, singleton=True) for _ in range(4)]
    for row in (*rows, *singles):
        await see(store, await place(store, row, node), RUNNING)
    for _ in range(ROUNDS):
        await die(store, node)
        found = await store.scheduling.displaced()
        moves = tuple(
            Moved(
                one.instance.id,
                one.instance.generation,
                one.placement_id,
                Move.UNKNOWN if one.singleton else Move.REPLACE,
                "down",
            )
            for one in found
        )
        term = await leading(store)
        await together(
            lambda moves=moves, term=term: store.scheduling.apply_moves(moves, term),
            lambda: store.presence.heartbeat(node.id, node.generation),
            *(lambda row=row: store.instances.get(row.id) for row in rows),
        )
        assert await store.presence.heartbeat(node.id, node.generation)
        assert (await store.nodes.get(node.id)).state is NodeState.READY
        for row in singles:
            seen = await store.instances.get(row.id)
            assert (seen.state, seen.generation) == (InstanceState.RUNNING, 1)
        for row in rows:
            seen = await store.instances.get(row.id)
            placement = await live(store, node, row.id)
            if seen.generation == placed(placement):
                assert seen.state is InstanceState.RUNNING
                assert wanted(placement)
                continue
            assert (seen.state, seen.placement_id) == (InstanceState.PENDING, None)
            assert not wanted(placement)
            # Its host removes it, and it is placed anew.
            assert placement is not None
            await see(store, placement, STOPPED)
            await see(store, await succeed(store, row.id, node), RUNNING)


def placed(placement: Any) -> int:
    assert placement is not None
    return int(placement.generation)


async def test_observations_and_decisions(store: Store) -> None:
    """A host reports while it is decided about what it reports of."""
    node, row, old = await running(store)
    other = await ready_node(store)
    for _ in range(ROUNDS):
        await drain(store, node)
        found = await displaced(store)
        await together(
            lambda found=found: apply(store, Move.HAND_OVER, found),
            lambda old=old: see(store, old, Observation(PlacementState.WAITING, "it ended", failures=1)),
            lambda old=old: see(store, old, RUNNING),
        )
        new = await succeed(store, row.id, other)
        await together(
            lambda new=new: see(store, new, RUNNING),
            lambda old=old: see(store, old, RUNNING),
            lambda row=row: store.instances.get(row.id),
        )
        seen = await store.instances.get(row.id)
        assert (seen.state, seen.placement_id) == (InstanceState.RUNNING, new.id)
        assert not wanted(await live(store, node, row.id))
        await see(store, old, STOPPED)
        node, other, old = other, node, new
        await store.nodes.set_desired(other.id, type(other.desired).READY)


async def test_a_successor_that_runs_while_its_instance_is_stopped(store: Store) -> None:
    for desired in (InstanceDesired.STOPPED, InstanceDesired.TERMINATED) * 3:
        node, row, old = await running(store)
        other = await ready_node(store)
        await store.instances.replace(row.id)
        new = await succeed(store, row.id, other)
        await together(
            lambda new=new: see(store, new, RUNNING),
            lambda row=row, desired=desired: store.instances.set_desired(row.id, desired),
        )
        assert not wanted(await live(store, node, row.id))
        assert not wanted(await live(store, other, row.id))
        await together(lambda old=old: see(store, old, STOPPED), lambda new=new: see(store, new, STOPPED))
        assert (await store.instances.get(row.id)).state == desired


async def test_two_leaders(store: Store) -> None:
    """One that was replaced decides nothing, however it races with its successor."""
    node, row, _ = await running(store)
    await die(store, node)
    found, old = await displaced(store), await leading(store)
    new = Term(old.epoch + 1, old.boot, old.ttl)
    outcomes: list[object] = []

    async def act(term: Term) -> None:
        moved = Moved(row.id, found.instance.generation, found.placement_id, Move.REPLACE, f"epoch {term.epoch}")
        try:
            outcomes.append(await store.scheduling.apply_moves((moved,), term))
        except Fenced:
            outcomes.append("fenced")

    def elect(cursor: Cursor) -> None:
        cursor.execute("update leadership set epoch = epoch + 1")

    await together(lambda: act(old), lambda: store.units.run(elect, name="elect"), lambda: act(old))
    await together(lambda: act(old), lambda: act(new), lambda: act(new))
    done = [one for one in outcomes if one == 1]
    assert len(done) == 1
    assert outcomes.count("fenced") >= 1
    assert (await store.instances.get(row.id)).generation == 2


async def test_a_singleton_is_placed_once_whoever_asks(
    store: Store, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    """Forced, restarted, found and placed at the same time: never two that are not removed, unless it was forced."""
    node, row, _ = await single(store)
    others = [await ready_node(store) for _ in range(2)]
    hosts: dict[Any, NodeRow] = {one.id: one for one in (node, *others)}
    for round_ in range(ROUNDS):
        home = hosts[(await store.instances.get(row.id)).node_id]
        await die(store, home)
        found = await displaced(store)
        force = round_ % 2 == 0
        works: list[Callable[[], Awaitable[object]]] = [
            lambda found=found: apply(store, Move.UNKNOWN, found),
            lambda home=home: store.presence.heartbeat(home.id, home.generation),
            lambda: store.instances.restart(row.id),
        ]
        if force:
            works.append(lambda: store.instances.replace(row.id, force=True))
        await together(*works)
        now = await store.instances.get(row.id)
        # Not by `succeed`: that all are refused is well.
        plans = [assign(now, one) for one in others if one.id != home.id]
        await together(*(lambda plan=plan: apply_plan(store, plan) for plan in plans))
        mine = connection.execute(
            "select exclusive, lost_at from placements where state <> 'removed' and instance_id = %s", (row.id,)
        ).fetchall()
        assert len([one for one in mine if one["exclusive"]]) <= 1
        assert all(one["exclusive"] or one["lost_at"] is not None for one in mine)
        if not force:
            assert len(mine) == 1
        assert await store.presence.heartbeat(home.id, home.generation)
        # All hosts do their work, and one runs again.
        for host in hosts.values():
            for left in await store.placements.placements(host.id):
                if not left.wanted:
                    await see(store, left, STOPPED)
        if await pending(store):
            await succeed(store, row.id, others[round_ % 2])
        home = hosts[(await store.instances.get(row.id)).node_id]
        alive = await live(store, home, row.id)
        assert alive is not None
        await see(store, alive, RUNNING)
        assert (await store.instances.get(row.id)).state is InstanceState.RUNNING


async def test_displaced_is_asked_while_all_changes(store: Store) -> None:
    node, row, _ = await running(store)
    seen: list[tuple[Displaced, ...]] = []

    async def look() -> None:
        for _ in range(ROUNDS):
            seen.append(await store.scheduling.displaced())

    async def change() -> None:
        for _ in range(3):
            await die(store, node)
            await store.presence.heartbeat(node.id, node.generation)

    await together(look, change)
    assert all(one.instance.id == row.id for found in seen for one in found)
