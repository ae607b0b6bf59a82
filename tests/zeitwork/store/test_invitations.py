"""Hosts that are expected, invited and removed, on real Postgres."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from ipaddress import IPv4Address
from uuid import UUID, uuid4

import psycopg
import pytest
import trio

from actors.model.errors import Conflict, InvalidInput, NotFound, Problem
from actors.model.states import InstanceState, NodeDesired, NodeState, PlacementState
from actors.registrar.invite import Invited, Outcome
from runtime.lease import Fenced, Term
from tests.zeitwork.store.test_snapshots import copy_of, taken
from tests.zeitwork.store.world import host, instance, leading, live, place, ready_image, ready_node, running
from zeitwork.store import Store
from zeitwork.store.links import HostLinks
from zeitwork.store.rows import NodeRow
from zeitwork.store.trust import Trust, WrongToken
from zeitwork.trust import certificates
from zeitwork.trust.token import Token, new_token

AWAY = Outcome(False, "it can't be reached")


async def invite(store: Store, hostname: str = "h2", *, code: str | None = "zwi1_x", timeout: float = 600) -> NodeRow:
    return await store.invitations.create(
        hostname,
        ip_address=IPv4Address("192.0.2.2"),
        address="192.0.2.2:7946",
        code=code,
        timeout=timeout,
        id=uuid4(),
    )


async def only(store: Store) -> Invited:
    (found,) = await store.invitations.expected()
    return found


async def mint(store: Store, node: NodeRow, term: Term) -> Token:
    token = new_token(certificates.fingerprint(await Trust(store.units).authority()), os.urandom)
    await store.invitations.mint(node.id, token, timedelta(minutes=1), term)
    return token


async def redeem(store: Store, token: Token, host_id: UUID, node: UUID | None = None) -> None:
    await Trust(store.units).redeem(
        token.id,
        token.secret_hash,
        host=host_id,
        request=certificates.request(certificates.new_key()),
        remote="192.0.2.2:1",
        node=node,
    )


def silent(dsn: str) -> None:
    """Let every host have been silent for an hour."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update nodes set last_seen_at = now() - interval '1 hour'")


async def test_a_host_is_expected_until_it_has_come(store: Store) -> None:
    term, node = await leading(store), await invite(store)
    assert (node.state, node.reason) == (NodeState.BOOTING, "to be invited at 192.0.2.2:7946")
    one = await only(store)
    assert (one.node_id, one.hostname, one.address, one.code, one.tries) == (
        node.id, "h2", "192.0.2.2:7946", "zwi1_x", 0,
    )  # fmt: skip
    assert 590 < one.left <= 600
    await store.invitations.tried(one, AWAY, term)
    one = await only(store)
    assert (one.tries, one.reason, one.code) == (1, "it can't be reached", "zwi1_x")
    assert (await store.nodes.get(node.id)).reason == "not joined yet: it can't be reached"
    token = await mint(store, node, term)
    me = host(hostname="another-name")
    await redeem(store, token, me.host_id)
    await store.invitations.tried(one, Outcome(True, ""), term)
    one = await only(store)
    assert (one.accepted, one.code) == (True, None)
    came = await store.nodes.register(me)
    assert (came.id, came.hostname, came.generation) == (node.id, "another-name", 1)
    await store.invitations.finish(one, term)
    assert await store.invitations.expected() == ()
    assert (await store.nodes.get(node.id)).state is NodeState.BOOTING


async def test_a_host_of_the_cluster_that_is_up_is_not_invited_again(store: Store) -> None:
    member = await ready_node(store)
    await HostLinks(store.units).announce(member.id, "192.0.2.2:7946")
    with pytest.raises(Conflict, match=f"{member.hostname}, which is ready, is reached at 192.0.2.2:7946") as caught:
        await invite(store)
    assert (caught.value.field, caught.value.code) == ("ip_address", "member")
    assert await store.invitations.expected() == ()
    # Its machine may have been made anew meanwhile.
    await store.nodes.set_state(member.id, NodeState.DOWN)
    assert (await invite(store)).state is NodeState.BOOTING


async def test_what_is_given_up_can_be_asked_for_again(store: Store) -> None:
    term, node = await leading(store), await invite(store)
    one = await only(store)
    assert not await store.invitations.again(node.id)
    await store.invitations.give_up(one, "not joined within 600 s", term)
    given_up = await store.nodes.get(node.id)
    assert (given_up.state, given_up.reason) == (NodeState.ERROR, "not joined within 600 s")
    assert await store.invitations.expected() == ()
    assert await store.invitations.again(node.id)
    anew = await only(store)
    assert (anew.code, anew.address, anew.timeout) == (one.code, one.address, one.timeout)
    assert anew.asked != one.asked
    # What the leader began before counts for nothing any more.
    await store.invitations.tried(one, Outcome(False, "late", final=True), term)
    await store.invitations.give_up(one, "late", term)
    await store.invitations.finish(one, term)
    assert await only(store) == anew or (await only(store)).asked == anew.asked
    assert (await store.nodes.get(node.id)).state is NodeState.BOOTING
    with pytest.raises(NotFound):
        await store.invitations.again(uuid4())


async def test_a_wrong_code_takes_another_one(store: Store) -> None:
    term, node = await leading(store), await invite(store)
    await store.invitations.tried(await only(store), Outcome(False, "the code is wrong", final=True), term)
    assert (await store.nodes.get(node.id)).state is NodeState.ERROR
    with pytest.raises(Conflict) as caught:
        await store.invitations.again(node.id)
    assert caught.value.code == "needs-code"
    # The same host is asked for again, with the right one: it is the same node.
    again = await invite(store, code="zwi1_y")
    assert again.id == node.id
    assert ((await only(store)).code, again.state) == ("zwi1_y", NodeState.BOOTING)
    with pytest.raises(Conflict, match="expected already"):
        await invite(store)
    with pytest.raises(InvalidInput):
        await store.invitations.create(
            "h3", ip_address=IPv4Address("192.0.2.3"), address="x:1", code=None, timeout=60, id=uuid4(),
            region_id=uuid4(),
        )  # fmt: skip


async def test_who_leads_no_more_writes_nothing(store: Store) -> None:
    term, node = await leading(store), await invite(store)
    one, over = await only(store), Term(term.epoch + 1, term.boot, term.ttl)
    token = new_token(bytes(32), os.urandom)
    for call in (
        store.invitations.tried(one, AWAY, over),
        store.invitations.give_up(one, "x", over),
        store.invitations.finish(one, over),
        store.invitations.mint(node.id, token, timedelta(minutes=1), over),
    ):
        with pytest.raises(Fenced):
            await call
    assert (await only(store)).tries == 0
    assert await Trust(store.units).tokens() == ()


async def test_each_try_has_a_token_of_its_own(store: Store) -> None:
    term, node = await leading(store), await invite(store)
    first, second = await mint(store, node, term), await mint(store, node, term)
    with pytest.raises(WrongToken):
        await redeem(store, first, uuid4())
    me = uuid4()
    await redeem(store, second, me)
    # It is nobody else's, and nobody is expected there any more.
    with pytest.raises(WrongToken, match="used already"):
        await redeem(store, second, uuid4())
    await store.nodes.register(host(host_id=me))
    with pytest.raises(Conflict, match="not expected"):
        await mint(store, node, term)
    with pytest.raises(NotFound):
        await store.invitations.mint(uuid4(), first, timedelta(minutes=1), term)


async def test_a_host_takes_its_own_place_only(store: Store) -> None:
    term, node = await leading(store), await invite(store)
    known = await ready_node(store, host_id=(mine := uuid4()))
    trust = Trust(store.units)

    async def general() -> Token:
        token = new_token(bytes(32), os.urandom)
        await trust.add_token(token, life=timedelta(hours=1), who="test")
        return token

    # One that is of the cluster already, a place that is taken, and one that nobody knows.
    token = await mint(store, node, term)
    for brought, who, where in (
        (token, mine, None),
        (await general(), uuid4(), known.id),
        (await general(), uuid4(), uuid4()),
    ):
        with pytest.raises(Conflict) as caught:
            await redeem(store, brought, who, where)
        assert caught.value.field == "node"
    assert [one.state for one in await trust.tokens()] == ["valid"] * 3
    # By a token of the cluster, as the node that it was invited as.
    me = host()
    await redeem(store, await general(), me.host_id, node.id)
    assert (await store.nodes.register(me)).id == node.id


async def test_a_removed_host_gets_no_certificate(store: Store, database_url: str) -> None:
    trust, me = Trust(store.units), host()
    node = await ready_node(store, host_id=me.host_id)
    request = certificates.request(certificates.new_key())
    for known in (node.id, me.host_id):
        assert (await trust.sign(known, request)).certificate
    silent(database_url)
    await store.nodes.delete(node.id)
    for known in (node.id, me.host_id):
        with pytest.raises(Conflict) as caught:
            await trust.sign(known, request)
        assert (caught.value.code, bool(caught.value.fix)) == ("removed", True)
    # Let in anew, it is another node: who remembers the one that was removed refuses that one for good.
    token = new_token(bytes(32), os.urandom)
    await trust.add_token(token, life=timedelta(hours=1), who="test")
    await redeem(store, token, me.host_id)
    assert (await store.nodes.register(me)).id != node.id


async def test_a_host_that_never_comes_back_gives_up_all_that_it_had(store: Store, database_url: str) -> None:
    node, row, placement = await running(store)
    image = await store.images.get(row.image_id)
    alone = await instance(store, image, singleton=True)
    stopped = await instance(store, image)
    await place(store, alone, node)
    await place(store, stopped, node)
    await store.instances.delete(stopped.id)
    with pytest.raises(Conflict, match="is alive") as caught:
        await store.nodes.delete(node.id, dead=True)
    assert caught.value.fix
    silent(database_url)
    with pytest.raises(Conflict, match="placements are still on"):
        await store.nodes.delete(node.id)
    for _ in range(2):
        await store.nodes.delete(node.id, dead=True)
    gone = await store.nodes.get(node.id)
    assert (gone.state, gone.network) == (NodeState.TERMINATED, None)
    assert "never comes back" in gone.reason
    with psycopg.connect(database_url, autocommit=True) as connection:
        # Its addresses rest; its networks are free for the next host after that.
        assert connection.execute("select count(*) from leases where state = 'leased'").fetchone() == (0,)
        connection.execute("update leases set rest_until = now() - interval '1 second'")
        await store.nodes.register(host())
        left = "select count(*) from {} where node_id = %s"
        for table in ("pools", "leases"):
            assert connection.execute(left.format(table).encode(), (node.id,)).fetchone() == (0,)
    # All that is wanted can be elsewhere now, what may never run twice too.
    elsewhere = await ready_node(store)
    for one in (row, alone):
        now = await store.instances.get(one.id)
        assert (now.state, now.generation) == (InstanceState.PENDING, 2)
        assert await place(store, now, elsewhere)
    assert (await store.instances.get(stopped.id)).state is InstanceState.TERMINATED
    # If it does come, it destroys what it has and is let in no more.
    assert placement.id in await store.placements.tombstones(node.id, [placement.id])
    assert not await store.presence.heartbeat(node.id, node.generation)


async def test_a_machine_that_was_given_up_is_not_let_in_again(store: Store, database_url: str) -> None:
    me = host()
    node = await ready_node(store, host_id=me.host_id)
    silent(database_url)
    await store.nodes.delete(node.id, dead=True)
    with pytest.raises(Conflict) as caught:
        await store.nodes.register(me)
    assert (caught.value.code, "leave --force" in str(caught.value.fix)) == ("removed", True)
    token = new_token(bytes(32), os.urandom)
    await Trust(store.units).add_token(token, life=timedelta(hours=1), who="test")
    with pytest.raises(Conflict, match="for good"):
        await redeem(store, token, me.host_id)
    assert (await store.nodes.get(node.id)).state is NodeState.TERMINATED
    # One that was only deleted may come back by itself, as ever; said to be dead later, it may not.
    me = host()
    node = await ready_node(store, host_id=me.host_id)
    silent(database_url)
    await store.nodes.delete(node.id)
    assert (await store.nodes.register(me)).id == node.id
    silent(database_url)
    await store.nodes.delete(node.id)
    await store.nodes.delete(node.id, dead=True)
    with pytest.raises(Conflict):
        await store.nodes.register(me)


async def test_what_goes_on_from_a_snapshot_there_boots(store: Store, database_url: str) -> None:
    node, row, _, snapshot = await taken(store)
    waits = await store.instances.create(copy_of(snapshot, name="waits"))
    placed = await store.instances.create(copy_of(snapshot, name="placed"))
    await place(store, placed, node)
    silent(database_url)
    await store.nodes.delete(node.id, dead=True)
    for one in (row, waits, placed):
        now = await store.instances.get(one.id)
        assert (now.state, now.generation, now.snapshot_id) == (InstanceState.PENDING, 2, None), now.name
    assert "it boots" in (await store.instances.get(waits.id)).reason
    elsewhere = await ready_node(store)
    assert (await place(store, await store.instances.get(waits.id), elsewhere)).restore is None


async def test_a_host_leaves_only_when_it_is_empty_or_has_stopped_all(store: Store) -> None:
    node, row, placement = await running(store, singleton=True)
    with pytest.raises(Conflict, match="1 placements"):
        await store.nodes.leave(node.id)
    assert (await store.nodes.get(node.id)).state is NodeState.READY
    for _ in range(2):
        await store.nodes.leave(node.id, force=True)
    assert (await store.nodes.get(node.id)).state is NodeState.TERMINATED
    assert (await store.placements.get(placement.id)).state is PlacementState.REMOVED
    assert (await store.instances.get(row.id)).state is InstanceState.PENDING
    empty = await ready_node(store)
    await store.nodes.leave(empty.id)
    assert (await store.nodes.get(empty.id)).reason == "its host has left the cluster"
    with pytest.raises(NotFound):
        await store.nodes.leave(uuid4())


async def test_nothing_is_placed_on_a_host_while_it_leaves(store: Store) -> None:
    """Of both at once one is first: it stays and has something to do, or it is gone and has not."""
    node = await ready_node(store)
    image = await ready_image(store, node)
    await leading(store)
    for _ in range(6):
        row = await instance(store, image)
        left: list[bool] = []

        async def go(node: NodeRow = node, left: list[bool] = left) -> None:
            try:
                await store.nodes.leave(node.id)
                left.append(True)
            except Problem:
                left.append(False)

        async def fill(row: object = row, node: NodeRow = node) -> None:
            with suppress(AssertionError, Problem):
                await place(store, row, node)  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(go)
            nursery.start_soon(fill)
        there = await live(store, node, row.id)
        assert (there is None) is left[0]
        node = await ready_node(store)


async def test_an_expected_host_that_is_removed_is_invited_no_more(store: Store) -> None:
    term, node = await leading(store), await invite(store)
    token = await mint(store, node, term)
    await store.nodes.delete(node.id)
    one = await only(store)
    assert one.state is NodeState.TERMINATED  # which ends it at the next look
    with pytest.raises(Conflict, match="expected"):
        await redeem(store, token, uuid4())
    with pytest.raises(Conflict, match="not expected"):
        await mint(store, node, term)
    await store.invitations.finish(one, term)
    assert await store.invitations.expected() == ()
    assert (await store.nodes.get(node.id)).desired is NodeDesired.READY
