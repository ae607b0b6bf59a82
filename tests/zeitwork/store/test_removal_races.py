"""Hosts that are removed or leave while leaders, people and the hosts themselves act on them, on real Postgres."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import trio
from psycopg.rows import dict_row

from actors.model.errors import Conflict, Problem
from actors.model.states import InstanceDesired, InstanceState, NodeState, PlacementState
from actors.registrar.invite import Invited, Outcome
from actors.scheduler.store import Assignment, Move, Moved, Plan
from runtime.lease import Fenced
from tests.zeitwork.store.moving import RUNNING, beat_of, forget_beats, pending, succeed
from tests.zeitwork.store.world import (
    STOPPED,
    apply_plan,
    host,
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
from zeitwork.store.rows import ImageRow, InstanceRow, NodeRow

Work = Callable[[], Awaitable[object]]
ROUNDS = 5


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as opened:
        yield opened


async def together(*works: Work) -> list[bool]:
    """Run works at the same time; say of each whether it was done or refused. Nothing else may become of one."""
    done = [False] * len(works)

    async def one(number: int, work: Work) -> None:
        with suppress(Problem, Fenced):
            await work()
            done[number] = True

    async with trio.open_nursery() as nursery:
        for number, work in enumerate(works):
            nursery.start_soon(one, number, work)
    return done


def check_removed(connection: psycopg.Connection[dict[str, Any]], node: NodeRow) -> None:
    """Nothing is left on a host that is no more, and nothing of it is held."""
    for table, of in (("placements", "and state <> 'removed'"), ("leases", "and state <> 'resting'")):
        left = connection.execute(f"select count(*) as n from {table} where node_id = %s {of}".encode(), (node.id,))
        assert left.fetchone() == {"n": 0}, table


async def settle(store: Store, rows: list[InstanceRow], hosts: list[NodeRow], home: NodeRow) -> None:
    """Let hosts and leader do their work: then each instance is what is wanted of it, once."""
    for _ in range(3):
        for one in hosts:
            for placement in await store.placements.placements(one.id):
                await see(store, placement, RUNNING if placement.wanted else STOPPED)
        for found in await pending(store):
            await succeed(store, found, home)
    for row in rows:
        now = await store.instances.get(row.id)
        assert now.state == now.desired, (now.state, now.reason)
        there = [one for one in hosts if await live(store, one, row.id) is not None]
        assert len(there) == (now.desired is InstanceDesired.RUNNING)


async def filled(store: Store, image: ImageRow, node: NodeRow) -> list[InstanceRow]:
    rows = []
    for single in (False, False, False, True):
        row = await instance(store, image, singleton=single)
        await see(store, await place(store, row, node), RUNNING)
        rows.append(row)
    return rows


@pytest.mark.parametrize("way", ["dead", "leave"])
async def test_a_removal_and_everybody_else(
    store: Store, connection: psycopg.Connection[dict[str, Any]], way: str
) -> None:
    """Plans, moves, people's wishes and what the host reports, all at once with its end."""
    home = await ready_node(store)
    image = await ready_image(store, home)
    for _ in range(ROUNDS):
        node = await ready_node(store)

        async def remove(node: NodeRow = node) -> None:
            if way == "leave":
                await store.nodes.leave(node.id, force=True)
            else:
                await store.nodes.delete(node.id, dead=True)

        first, second, third, single = rows = await filled(store, image, node)
        fresh = await instance(store, image)
        placements = {one.instance_id: one for one in await store.placements.placements(node.id)}
        term = await leading(store)
        works: list[Work] = [
            remove,
            lambda node=node, fresh=fresh: apply_plan(store, Plan((Assignment(fresh.id, 1, node.id),))),
            lambda first=first: store.instances.restart(first.id),
            lambda second=second: store.instances.delete(second.id, force=True),
            lambda third=third: store.instances.replace(third.id, force=True),
            lambda one=placements[first.id]: store.placements.observe(one.id, [PlacementState.RUNNING], STOPPED),
            lambda one=placements[single.id]: store.placements.observe(one.id, list(PlacementState), RUNNING),
        ]
        if way == "dead":
            beat = await beat_of(store, node)
            forget_beats(connection, node)
            moves = tuple(Moved(row.id, 1, placements[row.id].id, Move.REPLACE, "down") for row in rows)
            works += [
                lambda beat=beat, term=term: store.presence.mark_down(beat, "silent", term),
                lambda moves=moves, term=term: store.scheduling.apply_moves(moves, term),
            ]
        done = await together(*works)
        gone = (await store.nodes.get(node.id)).state is NodeState.TERMINATED
        assert gone is done[0]
        if not gone:
            # Something was placed there just now. All goes on, and who asks for it again gets it.
            await settle(store, [*rows, fresh], [home, node], home)
            await remove()
        check_removed(connection, node)
        await settle(store, [*rows, fresh], [home], home)
        for row in (*rows, fresh):
            await store.instances.delete(row.id)
        await settle(store, [*rows, fresh], [home], home)


async def test_a_removal_and_a_return_from_death(store: Store, connection: psycopg.Connection[dict[str, Any]]) -> None:
    """Either the host is back with what it ran, or it is gone and all of it is elsewhere: never both."""
    home = await ready_node(store)
    image = await ready_image(store, home)
    for round_ in range(ROUNDS * 2):
        me = host()
        node = await store.nodes.register(me)
        await store.nodes.record_capacity(node.id, home.capacity)  # type: ignore[arg-type]
        await store.nodes.set_state(node.id, NodeState.READY)
        rows = await filled(store, image, node)
        assert await store.presence.mark_down(await beat_of(store, node), "silent", await leading(store))
        forget_beats(connection, node)
        # By itself, or started anew.
        back: Work = (
            (lambda node=node: store.presence.heartbeat(node.id, node.generation))
            if round_ % 2
            else (lambda me=me: store.nodes.register(me))
        )
        removed, came = await together(lambda node=node: store.nodes.delete(node.id, dead=True), back)
        found = await store.nodes.get(node.id)
        assert removed is (found.state is NodeState.TERMINATED)
        if removed:
            check_removed(connection, node)
            assert not await store.presence.heartbeat(node.id, found.generation)
            with pytest.raises(Conflict, match="for good"):
                await store.nodes.register(me)
        else:
            assert came
            assert await store.presence.heartbeat(node.id, found.generation)
            for row in rows:
                now = await store.instances.get(row.id)
                assert (now.state, now.node_id, now.generation) == (InstanceState.RUNNING, node.id, 1)
        await settle(store, rows, [home] if removed else [home, node], home)
        for row in rows:
            await store.instances.delete(row.id)
        await settle(store, rows, [home] if removed else [home, node], home)


async def test_a_host_that_was_deleted_and_one_that_starts(
    store: Store, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    """A host that was only deleted may come back by itself: then it has all that a host has."""
    for _ in range(ROUNDS * 2):
        me = host()
        node = await store.nodes.register(me)
        await store.nodes.set_state(node.id, NodeState.READY)
        forget_beats(connection, node)
        _, came = await together(lambda node=node: store.nodes.delete(node.id), lambda me=me: store.nodes.register(me))
        assert came
        found = await store.nodes.get(node.id)
        if found.state is NodeState.TERMINATED:
            check_removed(connection, node)
            found = await store.nodes.register(me)
        assert (found.id, found.state, found.network is not None) == (node.id, NodeState.BOOTING, True)


async def test_a_removal_and_an_invitation(store: Store, connection: psycopg.Connection[dict[str, Any]]) -> None:
    """Whatever was under way: in the end nobody is expected, and nothing stays of the invitation."""
    term = await leading(store)
    for outcome in (Outcome(True, ""), Outcome(False, "off"), Outcome(False, "wrong code", final=True)) * 2:
        node = await invite(store)
        one = await invited(store, node)
        works: list[Work] = [
            lambda node=node: store.nodes.delete(node.id),
            lambda one=one, outcome=outcome: store.invitations.tried(one, outcome, term),
            lambda one=one: store.invitations.give_up(one, "too late", term),
            lambda node=node: store.invitations.again(node.id),
        ]
        assert (await together(*works))[0]
        assert (await store.nodes.get(node.id)).state is NodeState.TERMINATED
        for left in await store.invitations.expected():
            await store.invitations.finish(left, term)
        assert await store.invitations.expected() == ()
        # Its name is free at once.
        again = await invite(store, node.hostname)
        assert again.id != node.id
        await store.nodes.delete(again.id)


async def invite(store: Store, hostname: str = "") -> NodeRow:
    return await store.invitations.create(
        hostname or f"h-{uuid4().hex[:6]}",
        ip_address=IPv4Address("192.0.2.2"),
        address="192.0.2.2:7946",
        code=None,
        timeout=600,
        id=uuid4(),
    )


async def invited(store: Store, node: NodeRow) -> Invited:
    return next(one for one in await store.invitations.expected() if one.node_id == node.id)


async def test_a_command_that_is_under_way_to_a_host_that_is_removed(
    store: Store, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    """What the host does about it comes too late: nothing that was given back is taken again."""
    for _ in range(ROUNDS):
        node, row, placement = await running(store)
        await store.instances.delete(row.id)
        term = await leading(store)
        assert [one.placement_id for one in await store.commands.outstanding(uuid4(), term, 10)] == [placement.id]
        forget_beats(connection, node)
        removed, *_ = await together(
            lambda node=node: store.nodes.delete(node.id, dead=True),
            lambda one=placement: store.placements.observe(one.id, list(PlacementState), STOPPED),
            lambda row=row: store.instances.delete(row.id, force=True, stop_timeout=0.0),
        )
        assert removed
        check_removed(connection, node)
        assert (await store.instances.get(row.id)).state is InstanceState.TERMINATED
        assert await store.commands.outstanding(uuid4(), term, 10) == ()
        assert not await store.placements.observe(placement.id, list(PlacementState), RUNNING)
        ends = [
            one
            for one in await store.instances.events(row.id)
            if one.what == "placement.state" and one.data["to"] == "removed"
        ]
        assert len(ends) == 1
