"""A host that is invited over real TLS into a cluster with a real database, whoever leads meanwhile."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import trio

from actors.model.errors import Failed, Problem
from actors.model.states import NodeState
from actors.registrar.inviter import Inviter
from runtime import RealEnvironment, Spec, System
from runtime.lease import Term
from runtime.links.transport import Address
from runtime.office import Office
from tests.runtime.links.hosts import host as links_host
from tests.runtime.links.hosts import until
from tests.zeitwork.store.world import host, leading
from tests.zeitwork.trust.secured import transport
from zeitwork.store import Store
from zeitwork.store.rows import NodeRow
from zeitwork.store.trust import Trust
from zeitwork.store.units import Cursor
from zeitwork.trust import certificates
from zeitwork.trust.bootstrap import ensure_credentials
from zeitwork.trust.files import TrustFiles
from zeitwork.trust.invitation import Code
from zeitwork.trust.inviting import Inviting
from zeitwork.trust.join import JoinDoors, join
from zeitwork.trust.unclaimed import Unclaimed

PEER = UUID(int=1)
ENV = RealEnvironment()


class Newcomer:
    """An unclaimed host that really joins; ``gate`` holds it up in the middle of that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.registration = host(hostname="its-own-name")
        self.codes: list[Code] = []
        self.gate = trio.Event()
        self.gate.set()
        self.joining = 0
        self.refusal: Problem | None = None
        self.node: NodeRow | None = None

    async def join(self, url: str, token: str, node: UUID) -> None:
        self.joining += 1
        try:
            await self.gate.wait()
            if self.refusal is not None:
                raise self.refusal
            key = certificates.new_key()
            who = self.registration
            await join(url, token, host=who.host_id, hostname=who.hostname, key=key, node=node)
            # What the process does next.
            self.node = await self._store.nodes.register(who)
            await self._store.nodes.set_state(self.node.id, NodeState.READY)
        finally:
            self.joining -= 1

    async def run(self, directory: Path, *, task_status: trio.TaskStatus[Address]) -> None:
        waiting = Unclaimed(
            ("127.0.0.1", 0), "h2", self.registration.host_id, ENV, token=None, say=self.codes.append, join=self.join
        )
        await waiting.run(directory, task_status=task_status)


@asynccontextmanager
async def invited(store: Store, tmp_path: Path) -> AsyncIterator[tuple[Newcomer, Inviting, NodeRow]]:
    """A host of the cluster with its doors, an unclaimed one, and the node that is to be it."""
    trust, files = Trust(store.units), TrustFiles(tmp_path / "peer")
    cluster = (await store.cluster.identity()).id
    await ensure_credentials(files, PEER, trust.sign, authority=await trust.authority(), now=ENV.now())
    doors = JoinDoors(trust, PEER, None, ENV.monotonic).doors()
    newcomer = Newcomer(store)
    async with (
        links_host(PEER.int, transport=transport(files, cluster), doors=doors) as peer,
        trio.open_nursery() as nursery,
    ):
        address = await nursery.start(newcomer.run, tmp_path / "new")
        await until(lambda: newcomer.codes)
        node = await store.invitations.create(
            "h2", ip_address=IPv4Address("127.0.0.1"), address=str(address), code=str(newcomer.codes[0]),
            timeout=60.0,
            id=uuid4(),
        )  # fmt: skip
        yield newcomer, Inviting(files, peer.address, store.invitations.mint, os.urandom), node
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def leads(store: Store, inviting: Inviting, term: Term, doubts: list[str] | None = None) -> AsyncIterator[None]:
    doubted = None if doubts is None else doubts.append
    async with System() as system:
        office = Office(term, float("inf"), trio.current_time, doubted)
        await system.start(Spec("inviter", lambda: Inviter(store.invitations, inviting, office)))
        yield


async def succeed(store: Store, term: Term) -> Term:
    """Put another leader into office."""

    def unit(cursor: Cursor) -> None:
        cursor.execute("update leadership set epoch = epoch + 1")

    await store.units.run(unit, name="test.succeed")
    return Term(term.epoch + 1, term.boot, term.ttl)


async def over(store: Store) -> None:
    """Wait until nobody is expected any more."""
    with trio.fail_after(60):
        while await store.invitations.expected():  # noqa: ASYNC110 - it is the database that tells
            await trio.sleep(0.05)


async def test_from_the_request_to_ready(store: Store, tmp_path: Path) -> None:
    async with invited(store, tmp_path) as (newcomer, inviting, node), leads(store, inviting, await leading(store)):
        await over(store)
        found = await store.nodes.get(node.id)
        assert (found.state, found.generation, found.hostname) == (NodeState.READY, 1, "its-own-name")
        assert newcomer.node is not None
        assert newcomer.node.id == node.id
        events = [event.what for event in await store.events.list(subject=node.id)]
        assert [what for what in events if what in ("node.created", "node.invited", "node.registered")] == [
            "node.created", "node.invited", "node.registered",
        ]  # fmt: skip
        assert [token.state for token in await Trust(store.units).tokens()] == ["used"]


async def give_time(store: Store, seconds: float) -> None:
    """Let invitations have so many seconds from when they were asked for."""
    await store.units.run(lambda cursor: cursor.execute("update invitations set timeout = %s", (seconds,)), name="test")


async def test_a_host_that_is_a_member_waits_for_no_invitation(store: Store, tmp_path: Path) -> None:
    async with invited(store, tmp_path) as (_, inviting, node):
        (one,) = await store.invitations.expected()
        # The peer itself: a real host of a cluster.
        outcome = await inviting.invite(replace(one, address=str(inviting._address)), await leading(store))
        assert (outcome.accepted, outcome.final) == (False, False)
        assert "closed the connection: it is no unclaimed host (zeitwork run --unclaimed)" in outcome.reason
        assert (await store.nodes.get(node.id)).state is NodeState.BOOTING


@pytest.mark.parametrize("when", ["before", "while the host joins"])
async def test_the_next_leader_goes_on(store: Store, tmp_path: Path, when: str) -> None:
    async with invited(store, tmp_path) as (newcomer, inviting, node):
        term = await leading(store)
        if when != "before":
            newcomer.gate = trio.Event()
            async with leads(store, inviting, term):
                await until(lambda: newcomer.joining)
        after = await succeed(store, term)
        newcomer.gate.set()
        async with leads(store, inviting, after):
            await over(store)
        assert (await store.nodes.get(node.id)).state is NodeState.READY
        assert len((await store.nodes.list()).items) == 1


async def test_a_leader_that_was_replaced_meanwhile_writes_nothing(store: Store, tmp_path: Path) -> None:
    doubts: list[str] = []
    async with invited(store, tmp_path) as (newcomer, inviting, node):
        term = await leading(store)
        await succeed(store, term)
        async with leads(store, inviting, term, doubts):
            await until(lambda: doubts)
        (one,) = await store.invitations.expected()
        assert (one.tries, one.accepted, newcomer.joining) == (0, False, 0)
        assert (await store.nodes.get(node.id)).reason.startswith("to be invited")
        assert await Trust(store.units).tokens() == ()


async def test_what_does_not_work_in_time_is_in_error_with_the_last_reason(store: Store, tmp_path: Path) -> None:
    async with invited(store, tmp_path) as (newcomer, inviting, node):
        newcomer.refusal = Failed("its disk is full")
        async with leads(store, inviting, await leading(store)):
            with trio.fail_after(60):
                while not (await store.invitations.expected())[0].reason:  # noqa: ASYNC110 - it is the database that tells
                    await trio.sleep(0.05)
            # A try has failed: its time is over three seconds after it was asked for, which may be now.
            await give_time(store, 3.0)
            await over(store)
        found = await store.nodes.get(node.id)
        assert found.state is NodeState.ERROR
        assert found.reason.startswith("not joined within 3 s, ")
        assert found.reason.endswith("the last: its disk is full")
        # No token that was made for it lets anybody in any more, and it is as ready to be invited as before.
        assert await Trust(store.units).tokens() == ()
        newcomer.refusal = None
        await give_time(store, 60.0)
        assert await store.invitations.again(node.id)
        async with leads(store, inviting, await leading(store)):
            await over(store)
        assert (await store.nodes.get(node.id)).state is NodeState.READY
