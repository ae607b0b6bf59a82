"""Links between real hosts on loopback."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import pytest
import trio

from runtime import ActorStopped, AskTimeout, MailboxFull, ProtocolError, UnknownActor
from runtime.links.board import LinkDown
from runtime.links.errors import QueueFull, Refused, RemoteProblem, StaleIdentity, Unreachable, Unsendable
from runtime.links.frames import BULK_CHUNK
from runtime.links.messages import Admit, Forget, Introduce, Learn, NoIntroduction, Want
from runtime.links.outbox import Outbox
from runtime.links.transport import Address, PlainTransport
from tests.ports import free_port
from tests.runtime.links.hosts import ALERT, PATIENT, QUICK, SOON, Host, host, until, want
from tests.runtime.links.messages import Describe, Double, Gossip, Note, Part, Unlisted


async def test_messages_and_answers_cross() -> None:
    async with host(1) as one, host(2) as two:
        want(one, two)
        await until(one.ups)
        assert await one.ref(two.id).ask(Double(4), timeout=SOON) == 8
        assert await two.ref(one.id).ask(Describe("x"), timeout=SOON) == Part("x", (1, 2))
        one.ref(two.id).tell(Note("hello"))
        one.ref(two.id).tell(Gossip("first"))
        await one.ref(two.id).send(Note("waited"))
        await until(lambda: len(two.worker.notes) == 3)
        assert set(two.worker.notes) == {Note("hello"), Gossip("first"), Note("waited")}
        assert one.ref(two.id).alive
        (link,) = one.board.linked()
        assert link.peer.host == two.id
        await until(lambda: one.board.linked()[0].round_trip is not None)


@pytest.mark.parametrize("code", ["renewal", "unused"])
async def test_what_is_asked_as_the_peer_gives_a_connection_up_goes_over_the_next_one(code: str) -> None:
    eager = replace(PATIENT, backoff_longest=PATIENT.backoff_first)
    async with host(1, rules=eager) as one, host(2) as two, trio.open_nursery() as nursery:
        want(one, two)
        await until(one.ups)

        async def give_up() -> None:
            while True:
                if (session := two.board.peer(one.id).session) is not None:
                    session.retire(code, "to see what comes of it")
                await trio.sleep(0.01)

        nursery.start_soon(give_up)
        number = 0
        while len(one.ups()) < 20:
            number += 1
            assert await one.ref(two.id).ask(Double(number), timeout=SOON) == number * 2
        nursery.cancel_scope.cancel()
        # Each was carried out, and once.
        assert two.worker.doubled == list(range(1, number + 1))


async def test_no_link_is_made_when_the_time_is_over() -> None:
    async with host(1) as one, host(2) as two:
        one.links.tell(Learn(two.id, two.address))
        await until(lambda: one.board.peer(two.id).address)
        with pytest.raises(Unreachable, match="no link within 0 s") as caught:
            # As when the connection that an ask went over was given up at the very end of its time.
            await one.board._by(two.id, None, "worker", trio.current_time() - 1.0)
        assert not caught.value.sent


async def test_what_takes_too_long_for_a_connection_that_is_given_up_has_an_unknown_end() -> None:
    async with host(1) as one, host(2, rules=replace(PATIENT, lingering=1.0)) as two:
        want(one, two)
        await until(one.ups)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(Unreachable, match="lingered") as caught:
                    await one.ref(two.id).ask(Describe("slow", after=60.0), timeout=SOON)
                assert caught.value.sent

            nursery.start_soon(ask)
            await until(lambda: two.worker.described)
            session = two.board.peer(one.id).session
            assert session is not None
            session.retire("renewal", "to see what comes of it")
        assert await one.ref(two.id).ask(Double(4), timeout=SOON) == 8


async def test_a_link_is_made_when_it_is_needed() -> None:
    async with host(1) as one, host(2) as two:
        with pytest.raises(Unreachable, match="address is not known"):
            await one.ref(two.id).ask(Double(1), timeout=SOON)
        one.links.tell(Learn(two.id, two.address))
        await until(lambda: one.board.peer(two.id).address)
        with pytest.raises(Unreachable):
            one.ref(two.id).tell(Note())
        assert await one.ref(two.id).ask(Double(4), timeout=SOON) == 8
        assert not one.board.peer(two.id).wanted


async def test_nobody_there_is_said_at_once() -> None:
    async with host(1) as one:
        nobody = UUID(int=9)
        one.links.tell(Learn(nobody, Address("127.0.0.1", free_port())))
        await until(lambda: one.board.peer(nobody).address)
        with pytest.raises(Unreachable, match="refused") as caught:
            await one.ref(nobody).ask(Double(1), timeout=SOON)
        assert not caught.value.sent


async def test_failures_arrive_as_what_they_are() -> None:
    async with host(1) as one, host(2) as two:
        want(one, two)
        await until(one.ups)
        ask = one.ref(two.id).ask
        with pytest.raises(UnknownActor):
            await one.ref(two.id, "nobody").ask(Double(1), timeout=SOON)
        with pytest.raises(AskTimeout):
            await ask(Describe("x", after=60), timeout=0.05)
        with pytest.raises(RemoteProblem) as caught:
            await ask(Double(-1), timeout=SOON)
        problem = caught.value
        assert (problem.code, problem.field, problem.status) == ("refused-here", "number", 409)
        assert str(problem) == "number: no negative numbers (give a positive one)"
        with pytest.raises(Unsendable):
            one.ref(two.id).tell(Unlisted())
        with pytest.raises(ProtocolError):
            one.ref(two.id).current()
        with pytest.raises(StaleIdentity):
            await one.ref(two.id, generation=0).ask(Double(1), timeout=SOON)
        assert await one.ref(two.id, generation=1).ask(Double(1), timeout=SOON) == 2
        assert one.board.linked(), "none of it has hurt the link"


async def test_an_answer_that_comes_late_is_a_dead_letter() -> None:
    async with host(1) as one, host(2) as two:
        want(one, two)
        await until(one.ups)
        gate = two.worker.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: one.ref(two.id).ask(Describe("x"), timeout=SOON))
            await until(lambda: two.worker.described)
            nursery.cancel_scope.cancel()
        gate.set()
        await until(lambda: one.system.dead_letters.by_cause["late"] == 1)
        assert await one.ref(two.id).ask(Double(1), timeout=SOON) == 2


async def test_requests_of_one_peer_in_work_are_bounded() -> None:
    few = replace(PATIENT, in_work=3)
    async with host(1) as one, host(2, rules=few) as two, trio.open_nursery() as nursery:
        want(one, two)
        await until(one.ups)
        for _ in range(3):
            nursery.start_soon(lambda: one.ref(two.id).ask(Describe("x", after=60), timeout=SOON))
        await until(lambda: len(two.worker.described) == 3)
        with pytest.raises(Refused, match="busy"):
            await one.ref(two.id).ask(Double(1), timeout=SOON)
        nursery.cancel_scope.cancel()


async def test_a_request_that_was_on_its_way_fails_when_its_host_dies() -> None:
    async with host(1) as one:
        failure: list[Exception] = []

        async def ask(two: Host) -> None:
            try:
                await one.ref(two.id).ask(Describe("x", after=60), timeout=SOON)
            except (Unreachable, ActorStopped) as error:
                failure.append(error)

        async with trio.open_nursery() as nursery:
            async with host(2) as two:
                want(one, two)
                await until(one.ups)
                nursery.start_soon(ask, two)
                await until(lambda: two.worker.described)
            await until(lambda: failure)
        if isinstance(failure[0], Unreachable):
            assert failure[0].sent


async def test_a_host_that_comes_back_is_linked_again_and_old_refs_are_stale() -> None:
    port = free_port()
    async with host(1) as one:
        async with host(2, 1, port=port) as two:
            want(one, two)
            await until(one.ups)
            old = one.ref(two.id, generation=1)
            assert await old.ask(Double(1), timeout=SOON) == 2
        await until(one.downs)
        async with host(2, 2, port=port) as two:
            await until(lambda: len(one.ups()) == 2)
            assert [up.peer.generation for up in one.ups()] == [1, 2]
            with pytest.raises(StaleIdentity):
                await old.ask(Double(1), timeout=SOON)
            assert not old.alive
            assert await one.ref(two.id).ask(Double(3), timeout=SOON) == 6


async def test_an_earlier_life_is_refused() -> None:
    async with host(1) as one, host(2, 5) as two:
        want(two, one)
        await until(one.ups)
        async with host(2, 4) as ghost:
            want(ghost, one)
            await until(lambda: ghost.board.peer(one.id).failure and "earlier life" in ghost.board.peer(one.id).failure)
        assert [up.peer.generation for up in one.ups()] == [5]
        assert await one.ref(two.id).ask(Double(3), timeout=SOON) == 6


async def test_hosts_that_dial_each_other_settle_on_one_connection() -> None:
    async with host(1) as one, host(2) as two:
        for _ in range(3):
            want(one, two)
            want(two, one)
            await until(lambda: one.board.linked() and two.board.linked())

            def settled() -> bool:
                mine, theirs = one.board.peer(two.id).session, two.board.peer(one.id).session
                return bool(
                    mine and theirs and mine.open and theirs.open and mine.dialled != theirs.dialled
                    and one.actor.accepted + two.actor.accepted == 1
                )  # fmt: skip

            await until(settled, "one connection")
            assert await one.ref(two.id).ask(Double(3), timeout=SOON) == 6
            assert await two.ref(one.id).ask(Double(3), timeout=SOON) == 6
            for both in (one, two):
                both.links.tell(Want({}))
            await until(lambda: not one.board.peer(two.id).wanted and not two.board.peer(one.id).wanted)
            session = one.board.peer(two.id).session
            assert session is not None
            session.close("test", "once more")
            await until(lambda: not one.board.linked() and not two.board.linked())


async def test_many_hosts_link_with_all_others() -> None:
    async with host(1) as a, host(2) as b, host(3) as c, host(4) as d:
        hosts = (a, b, c, d)
        for one in hosts:
            want(one, *(other for other in hosts if other is not one))
        await until(lambda: all(len(one.board.linked()) == 3 for one in hosts))
        await until(lambda: sum(one.actor.accepted for one in hosts) == 6, "one connection for each pair")
        for one in hosts:
            for other in hosts:
                if one is not other:
                    assert await one.ref(other.id).ask(Double(7), timeout=SOON) == 14


async def test_links_on_demand_are_kept_while_there_is_room() -> None:
    two_only = replace(PATIENT, on_demand=2)
    async with host(1, rules=two_only) as one, host(2) as a, host(3) as b, host(4) as c, host(5) as d:
        want(one, d)
        await until(one.board.linked)
        for other in (a, b, c):
            one.links.tell(Learn(other.id, other.address))
            await until(lambda other=other: one.board.peer(other.id).address)  # type: ignore[misc]
            assert await one.ref(other.id).ask(Double(1), timeout=SOON) == 2
        await until(lambda: {link.peer.host for link in one.board.linked()} == {b.id, c.id, d.id})
        assert await one.ref(a.id).ask(Double(2), timeout=SOON) == 4


async def test_a_forgotten_host_is_dialled_no_more() -> None:
    port = free_port()
    async with host(1) as one, host(2, port=port) as two:
        want(one, two)
        await until(one.ups)
        one.links.tell(Forget(two.id))
        await until(one.downs)
        assert one.downs()[0].reason.code == "gone"
        await until(two.downs)
        assert (two.downs()[0].reason.code, two.downs()[0].reason.theirs) == ("gone", True)
        await trio.sleep(0.3)
        assert len(two.ups()) == 1
        assert two.id not in one.board.peers


async def test_a_removed_host_is_not_let_in_again() -> None:
    async with host(1) as one, host(2) as two:
        want(two, one)
        await until(one.ups)
        one.links.tell(Forget(two.id, refuse=True))
        await until(lambda: "removed from the cluster" in str(two.board.peer(one.id).failure))
        assert len(one.ups()) == 1
        # Unless it is of the cluster again.
        one.links.tell(Admit(frozenset({UUID(int=99)})))
        one.links.tell(Admit(frozenset({two.id})))
        await until(lambda: len(one.ups()) == 2)


async def test_an_introduction_tells_who_is_there() -> None:
    async with host(1) as one, host(2) as two, host(3, cluster=UUID(int=77)) as stranger:
        assert await one.links.ask(Introduce(two.address), timeout=SOON) == two.id
        assert await one.links.ask(Introduce(two.address), timeout=SOON) == two.id
        assert await one.ref(two.id).ask(Double(2), timeout=SOON) == 4
        with pytest.raises(NoIntroduction, match="refused"):
            await one.links.ask(Introduce(Address("127.0.0.1", free_port())), timeout=SOON)
        with pytest.raises(NoIntroduction, match="cluster"):
            await one.links.ask(Introduce(stranger.address), timeout=SOON)
        with pytest.raises(NoIntroduction, match="this very host"):
            await one.links.ask(Introduce(one.address), timeout=SOON)


async def test_the_host_that_answers_must_be_the_one_that_was_dialled() -> None:
    async with host(1) as one, host(2) as two:
        one.links.tell(Want({UUID(int=8): two.address}))
        await until(lambda: "was dialled" in str(one.board.peer(UUID(int=8)).failure))
        assert not one.board.linked()
        assert not two.board.linked()


async def test_a_link_takes_leave_when_its_host_stops() -> None:
    async with host(1) as one, host(2) as two:
        want(one, two)
        await until(one.ups)
        await two.system.stop(two.links)
        await until(one.downs)
        assert (one.downs()[0].reason.code, one.downs()[0].reason.theirs) == ("stopping", True)


async def test_a_host_that_stood_still_itself_takes_nobody_for_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with host(1, rules=ALERT) as one, host(2, rules=ALERT) as two, trio.open_nursery() as nursery:
        want(one, two)
        await until(one.ups)
        session = one.board.peer(two.id).session
        assert session is not None
        stood, put, begun = trio.Event(), Outbox.put_urgent, list[int]()

        async def stand_still() -> None:
            # Everything here does: no answer to the ping that is on its way is read, nor even made.
            time.sleep(1.5 * ALERT.silence)  # noqa: ASYNC251
            stood.set()

        def noticed(self: Outbox, kind: str, frame: bytes) -> None:
            put(self, kind, frame)
            if self is session._outbox and kind == "ping" and not begun:
                begun.append(1)
                nursery.start_soon(stand_still)

        monkeypatch.setattr(Outbox, "put_urgent", noticed)
        await stood.wait()
        assert await one.ref(two.id).ask(Double(4), timeout=SOON) == 8
        assert one.board.peer(two.id).session is session
        assert not one.downs()


async def test_links_come_back_after_their_actor_was_restarted() -> None:
    port = free_port()
    async with host(1, port=port, rules=QUICK) as one, host(2) as two:
        want(one, two)
        await until(one.ups)
        child = one.system.registry["links"]
        assert child.life is not None
        child.life.crash(RuntimeError("planted"))
        await until(lambda: len(one.ups()) == 2)
        assert await one.ref(two.id).ask(Double(5), timeout=SOON) == 10


async def test_what_waits_for_a_peer_is_bounded() -> None:
    async with host(1) as one, host(2) as two:
        want(one, two)
        await until(one.ups)
        note = Note(data=b"x" * 60_000)
        with pytest.raises(QueueFull) as caught:
            for _ in range(100):
                one.ref(two.id).tell(note)
        assert isinstance(caught.value, MailboxFull)
        one.ref(two.id).tell(Gossip("the system's lane has room of its own"))
        await until(lambda: Gossip("the system's lane has room of its own") in two.worker.notes)
        assert two.worker.notes[0] == Gossip("the system's lane has room of its own")
        assert await one.ref(two.id).ask(Double(1), timeout=SOON) == 2


async def test_bulk_data_has_a_connection_of_its_own() -> None:
    async with host(1) as one, host(2) as two:
        one.links.tell(Learn(two.id, two.address))
        await until(lambda: one.board.peer(two.id).address)
        content = bytes(range(256)) * 8192

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(content), 700_000):
                yield content[start : start + 700_000]

        with trio.fail_after(SOON):
            assert await one.board.send_bulk(two.id, "image/sha256:1", pieces()) == len(content)
        await until(lambda: two.pieces and two.pieces[-1][1].last)
        assert b"".join(piece.data for _, piece in two.pieces) == content
        assert max(len(piece.data) for _, piece in two.pieces) == BULK_CHUNK
        assert {(peer.host, piece.transfer) for peer, piece in two.pieces} == {(one.id, "image/sha256:1")}
        offset = 0
        for _, piece in two.pieces:
            assert piece.offset == offset
            offset += len(piece.data)
        assert not one.board.linked(), "it took no control connection"


async def test_bulk_data_to_nobody_fails() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        yield b"x"

    async with host(1) as one:
        nobody = UUID(int=9)
        with pytest.raises(Unreachable):
            await one.board.send_bulk(nobody, "t", nothing())
        one.board.learn(nobody, Address("127.0.0.1", free_port()))
        with pytest.raises(Unreachable, match="refused"):
            await one.board.send_bulk(nobody, "t", nothing())


async def test_without_tls_only_loopback() -> None:
    with pytest.raises(ValueError):
        PlainTransport("0.0.0.0")
    async with host(1) as one:
        far = UUID(int=9)
        one.links.tell(Want({far: Address("192.0.2.1", 7000)}))
        await until(lambda: "need TLS" in str(one.board.peer(far).failure))


async def test_a_refused_link_is_no_change() -> None:
    async with host(1) as one, host(2, cluster=UUID(int=99)) as two:
        want(one, two)
        await until(lambda: "cluster" in str(one.board.peer(two.id).failure))
        assert not [change for change in one.changes if isinstance(change, LinkDown)]


@pytest.mark.parametrize("text", ["h", "h:", ":1", "h:0", "h:65536", "::1:7", "h:x", "[]:1"])
def test_addresses_are_checked(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)
    assert str(Address.parse("[::1]:7")) == "[::1]:7"
    assert Address.parse("h:7") == Address("h", 7)


async def test_hosts_that_are_only_heard_of_are_remembered_in_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer can have others pinged for it that it makes up, as many as it likes."""
    monkeypatch.setattr("runtime.links.board.MOST_PEERS", 20)
    async with host(1) as one, host(2) as two, host(3) as three:
        want(one, two)
        one.board.learn(three.id, three.address)
        assert await one.ref(three.id).ask(Double(2), timeout=SOON) == 4
        await until(lambda: one.board.peer(two.id).is_linked())
        for number in range(100, 200):
            one.board.learn(UUID(int=number), Address("192.0.2.1", 7))
        assert len(one.board.peers) == 20
        # Who is linked with, and who was heard of last, stay.
        assert {two.id, three.id, UUID(int=199)} <= one.board.peers.keys()
        assert await one.ref(two.id).ask(Double(3), timeout=SOON) == 6
        assert await one.ref(three.id).ask(Double(4), timeout=SOON) == 8
