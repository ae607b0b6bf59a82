"""The link to one guest over real sockets: it comes up, comes back, and what breaks is said to whoever waits."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path
from uuid import uuid4

import pytest
import trio
import trio.testing

from actors.model.errors import Failed, InvalidInput, Problem, Unavailable
from actors.vm.agent.command import CommandSpec, Errors, Exit, Output
from actors.vm.agent.conversation import MAX_REQUESTS
from actors.vm.agent.link import AgentLink
from actors.vm.agent.outbox import ROOM
from actors.vm.agent.session import Session
from actors.vm.agent.statistics import Statistics
from actors.vm.agent.wire import INITIAL_CREDIT, MAX_SESSIONS, PREAMBLE, Frame, Kind
from actors.vm.agents import Agents
from runtime.environment import RealEnvironment, SimulatedEnvironment
from tests.actors.vm.agent.peer import Guest, Peer, linked, until_connected

CAT = CommandSpec(("cat",))


async def greeted(guest: Guest, link: AgentLink) -> Peer:
    peer = await guest.peer()
    await peer.greet()
    await until_connected(link)
    return peer


async def expect(peer: Peer, kind: Kind) -> Frame:
    with trio.fail_after(90):
        while (frame := await peer.next()).kind != kind:
            pass
    return frame


async def test_every_request_and_its_answer() -> None:
    guest = Guest()
    changes: list[bool] = []
    async with linked(guest, changes=changes) as link, trio.open_nursery() as nursery:
        assert (link.connected, link.heard_at) == (False, None)
        peer = await guest.peer()
        await peer.greet(flags=1)
        nursery.start_soon(peer.serve)
        await until_connected(link)
        assert link.frozen
        assert link.heard_at is not None
        assert await link.ping() >= 0
        assert await link.statistics() == Statistics(uptime_ms=5)
        await link.thaw(1_800_000_000.5)
        assert not link.frozen
        await link.freeze()
        assert link.frozen
        await link.thaw(None)
        await link.entropy(b"x" * 512)
        await link.identity(b"d" * 40_000)
        await link.stop()
        nursery.cancel_scope.cancel()
    assert changes == [True, False]


async def test_what_a_request_says_on_the_wire() -> None:
    guest = Guest()
    async with linked(guest) as link, trio.open_nursery() as nursery:
        peer = await greeted(guest, link)
        drive = bytes(range(256)) * 100
        nursery.start_soon(link.identity, drive)
        got = b""
        while len(got) < len(drive):
            frame = await expect(peer, Kind.IDENTITY)
            assert int.from_bytes(frame.payload[:4], "little") == len(drive)
            assert int.from_bytes(frame.payload[4:8], "little") == len(got)
            got += frame.payload[8:]
            await peer.say(Kind.OK, bytes((Kind.IDENTITY,)))
        assert got == drive
        nursery.start_soon(link.thaw, 1_800_000_000.5)
        assert (await expect(peer, Kind.THAW)).payload == (1_800_000_000_500).to_bytes(8, "little")
        await peer.say(Kind.OK, bytes((Kind.THAW,)))


async def test_bad_input_is_refused_before_it_is_sent() -> None:
    guest = Guest()
    async with linked(guest) as link:
        for call in (link.entropy(b""), link.entropy(bytes(513)), link.thaw(-1.0), link.thaw(1e30), link.identity(b"")):
            with pytest.raises(InvalidInput):
                await call


async def test_without_a_connection_everything_says_so() -> None:
    guest = Guest()
    guest.away = Failed("firecracker does not listen")
    async with linked(guest) as link:
        with trio.fail_after(90):
            while not guest.tries:  # noqa: ASYNC110
                await trio.sleep(0.005)
        for call in (link.ping(), link.statistics(), link.stop(), link.freeze(), link.thaw(None)):
            with pytest.raises(Unavailable, match="not connected: firecracker does not listen"):
                await call
        with pytest.raises(Unavailable, match="not connected"):
            async with link.open(CAT):
                pass


async def test_the_guests_own_words() -> None:
    guest = Guest()
    async with linked(guest) as link, trio.open_nursery() as nursery:
        peer = await greeted(guest, link)

        async def answer() -> None:
            await expect(peer, Kind.FREEZE)
            await peer.say(Kind.ERROR, bytes((Kind.FREEZE,)) + b"sync: I/O error")

        nursery.start_soon(answer)
        with pytest.raises(Failed, match="sync: I/O error"):
            await link.freeze()
        assert not link.frozen


async def test_no_answer_in_time_and_a_late_one() -> None:
    guest = Guest()
    async with linked(guest) as link, trio.open_nursery() as nursery:
        peer = await greeted(guest, link)
        with pytest.raises(Unavailable, match="did not answer PING within 0.01 s"):
            await link.ping(0.01)
        first = await expect(peer, Kind.PING)
        await peer.say(Kind.PONG, first.payload + bytes(8))
        nursery.start_soon(peer.serve)
        assert await link.ping(30) >= 0
        nursery.cancel_scope.cancel()


async def test_a_silent_guest_is_not_asked_without_end() -> None:
    guest = Guest()
    async with linked(guest) as link:
        peer = await greeted(guest, link)
        for _ in range(MAX_REQUESTS):
            with pytest.raises(Unavailable):
                await link.ping(0.0)
        with pytest.raises(Unavailable, match="wait for the guest's answer"):
            await link.ping(30)
        await peer.stream.aclose()


async def test_a_break_is_said_to_all_who_wait_and_healed() -> None:
    guest = Guest()
    changes: list[bool] = []
    async with linked(guest, changes=changes) as link, trio.open_nursery() as nursery:
        peer = await greeted(guest, link)
        problems: list[Problem] = []

        async def ask() -> None:
            try:
                await link.ping(60)
            except Problem as problem:
                problems.append(problem)

        async def run() -> None:
            try:
                async with link.open(CAT) as session:
                    assert await session.receive() == Output(b"last words")
                    await session.receive()
            except Problem as problem:
                problems.append(problem)

        async def write() -> None:
            try:
                async with link.open(CAT) as session:
                    await session.send(bytes(INITIAL_CREDIT * 2))
            except Problem as problem:
                problems.append(problem)

        async with trio.open_nursery() as waiting:
            for task in (ask, run, write):
                waiting.start_soon(task)
            for _ in range(2):
                opened = await expect(peer, Kind.OPEN)
                await peer.say(Kind.STARTED, bytes(4), opened.session)
                await peer.say(Kind.OUTPUT, b"last words", opened.session)
            await expect(peer, Kind.DATA)
            await peer.stream.aclose()
        assert len(problems) == 3
        for problem in problems:
            assert isinstance(problem, Unavailable)
            assert "the connection to the guest broke off" in problem.detail
        again = await greeted(guest, link)
        nursery.start_soon(again.serve)
        await link.ping()
        nursery.cancel_scope.cancel()
    assert changes == [True, False, True, False]


async def test_one_that_was_given_up_is_not_had_again() -> None:
    """Whoever asks in a loop over connections would otherwise find the dead one, and never let it end."""
    guest = Guest()
    changes: list[bool] = []
    async with linked(guest, changes=changes) as link:
        await greeted(guest, link)
        link.reset()
        assert not link.connected
        with pytest.raises(Unavailable, match="this host ended it"):
            await link.ping()
        link.reset()  # of none
        await greeted(guest, link)
        await link.wait_connected(90)
    assert changes == [True, False, True, False]


@pytest.mark.parametrize("lasting", [False, True])
async def test_a_lasting_stream_begins_with_a_preamble(lasting: bool) -> None:
    guest = Guest()
    async with linked(guest, lasting=lasting) as link:
        peer = await guest.peer()
        await peer.stream.send_all(b"the end of a frame that an earlier host never read" + bytes(300))
        await peer.greet()
        await until_connected(link)
        assert peer.raw.startswith(PREAMBLE) == lasting
        assert len(peer.raw) == len(PREAMBLE) * lasting + 8 + 18


@pytest.mark.parametrize(
    "words",
    [
        Frame(Kind.OK, 0, b"\x04").encode(),
        b"\xff\x00\xff\xff\x00\x00\x00\x00",
        Frame(Kind.HELLO_BACK, 0, bytes(20)).encode(),
    ],
)
async def test_a_guest_that_talks_nonsense_is_connected_anew(words: bytes) -> None:
    guest = Guest()
    async with linked(guest) as link:
        peer = await greeted(guest, link)
        await peer.stream.send_all(words)
        await greeted(guest, link)


async def test_another_version_is_not_spoken_with() -> None:
    guest = Guest()
    changes: list[bool] = []
    async with linked(guest, changes=changes) as link:
        peer = await guest.peer()
        await peer.greet(version=2)
        await guest.peer()
        assert "version 2" in link.reason
    assert changes == []


async def test_tries_wait_longer_and_longer(autojump_clock: trio.testing.MockClock) -> None:
    guest = Guest()
    guest.away = OSError(errno.ECONNREFUSED, "Connection refused")
    times: list[float] = []
    env = SimulatedEnvironment(1)

    async def connect() -> trio.SocketStream:
        times.append(trio.current_time())
        return await guest.connect()

    link = AgentLink(connect, lasting=False, env=env)
    with trio.move_on_after(60):
        await link.run()
    waits = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert 0.1 <= waits[0] <= 0.2
    assert all(2.5 <= wait <= 5 for wait in waits[5:])
    assert len(set(waits)) == len(waits)  # jitter
    assert link.reason == "Connection refused"


async def test_a_guest_that_never_says_hello_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    opened: list[trio.SocketStream] = []

    async def connect() -> trio.SocketStream:
        ours, theirs = trio.socket.socketpair()
        opened.append(trio.SocketStream(theirs))
        return trio.SocketStream(ours)

    link = AgentLink(connect, lasting=True, env=SimulatedEnvironment(1))
    with trio.move_on_after(60):
        await link.run()
    assert 7 <= len(opened) <= 11, "patience and waits grow"
    assert link.reason == "this host ended it"
    for stream in opened:
        await stream.aclose()


async def test_a_connect_that_hangs_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async def connect() -> trio.SocketStream:
        await trio.sleep_forever()
        raise AssertionError

    link = AgentLink(connect, lasting=False, env=SimulatedEnvironment(1))
    with trio.move_on_after(30):
        await link.run()
    assert link.reason == "its channel did not open within 10 s"


async def test_a_command_its_input_and_its_end() -> None:
    guest = Guest()
    async with linked(guest) as link, trio.open_nursery() as nursery:
        peer = await greeted(guest, link)
        nursery.start_soon(peer.serve)
        async with link.open(CAT) as session:
            assert session.pid == 42
            sent = bytes(range(256)) * 2000  # eight times the credit
            received = b""

            async def write() -> None:
                await session.send(sent)
                await session.send_eof()

            nursery.start_soon(write)
            with trio.fail_after(120):
                while isinstance(what := await session.receive(), Output):
                    received += what.data
            assert received == sent
            assert what == Exit(status=7)
            assert await session.receive() == what
            # What comes too late goes nowhere.
            await session.send(b"more")
            await session.send_eof()
            await session.signal(15)
            await session.resize(10, 10)
        nursery.cancel_scope.cancel()


async def test_a_command_that_is_refused() -> None:
    guest = Guest()
    async with linked(guest) as link, trio.open_nursery() as nursery:
        peer = await greeted(guest, link)

        async def refuse() -> None:
            opened = await expect(peer, Kind.OPEN)
            await peer.say(Kind.REFUSED, b"no such file", opened.session)

        nursery.start_soon(refuse)
        with pytest.raises(Failed, match="no such file") as refused:
            async with link.open(CAT):
                pass
        assert refused.value.code == "command-refused"


async def test_a_command_that_does_not_start_is_given_up_and_ended() -> None:
    guest = Guest()
    async with linked(guest) as link:
        peer = await greeted(guest, link)
        with pytest.raises(Unavailable, match="did not start the command"):
            async with link.open(CAT, deadline=0.01):
                pass
        opened = await expect(peer, Kind.OPEN)
        assert (await expect(peer, Kind.CLOSE)).session == opened.session


async def test_leaving_a_session_ends_its_command(autojump_clock: trio.testing.MockClock) -> None:
    guest = Guest()
    async with linked(guest, env=SimulatedEnvironment()) as link, trio.open_nursery() as nursery:
        peer = await guest.peer()
        await peer.greet()
        await trio.testing.wait_all_tasks_blocked(0.01)

        async def run() -> None:
            async with link.open(CAT) as session:
                await session.receive()

        async with trio.open_nursery() as inner:
            inner.start_soon(run)
            opened = await expect(peer, Kind.OPEN)
            await peer.say(Kind.STARTED, bytes(4), opened.session)
            await trio.testing.wait_all_tasks_blocked(0.01)
            inner.cancel_scope.cancel()
        assert (await expect(peer, Kind.CLOSE)).session == opened.session
        nursery.cancel_scope.cancel()


async def test_sessions_are_bounded() -> None:
    guest = Guest()
    async with linked(guest) as link, trio.open_nursery() as nursery:
        peer = await greeted(guest, link)
        nursery.start_soon(peer.serve)
        release = trio.Event()

        async def hold(task_status: trio.TaskStatus[None]) -> None:
            async with link.open(CAT):
                task_status.started()
                await release.wait()

        async with trio.open_nursery() as holders:
            for _ in range(MAX_SESSIONS):
                await holders.start(hold)
            with pytest.raises(Unavailable, match="commands run in this guest"):
                async with link.open(CAT):
                    pass
            release.set()
        await link.ping()  # the guest has then said the end of each
        async with link.open(CAT):
            pass
        nursery.cancel_scope.cancel()


async def test_a_reader_that_does_not_read_holds_the_guest_not_the_host() -> None:
    guest = Guest()
    async with linked(guest) as link, trio.open_nursery() as nursery:
        peer = await greeted(guest, link)

        async def flood() -> None:
            opened = await expect(peer, Kind.OPEN)
            await peer.say(Kind.STARTED, bytes(4), opened.session)
            left, total = INITIAL_CREDIT, 0
            while total < 1_000_000:
                while left:
                    size = min(left, 3000)
                    await peer.say(Kind.OUTPUT, bytes(size), opened.session)
                    left -= size
                    total += size
                granted = await expect(peer, Kind.CREDIT)
                left += int.from_bytes(granted.payload, "little")
            await peer.say(Kind.EXIT, b"\0\0", opened.session)

        nursery.start_soon(flood)
        async with link.open(CAT) as session:
            got = 0
            with trio.fail_after(120):
                while not isinstance(what := await session.receive(), Exit):
                    assert len(what.data) <= INITIAL_CREDIT
                    got += len(what.data)
            assert got >= 1_000_000


async def test_a_guest_that_does_not_read_fills_no_memory() -> None:
    guest = Guest()
    async with linked(guest) as link:
        peer = await greeted(guest, link)
        async with trio.open_nursery() as nursery:

            async def start() -> None:
                opened = await expect(peer, Kind.OPEN)
                await peer.say(Kind.STARTED, bytes(4), opened.session)

            nursery.start_soon(start)
            async with link.open(CAT) as session:
                outbox = session._outbox
                while True:
                    with trio.move_on_after(1) as stands:
                        await session.resize(10, 10)
                    if stands.cancelled_caught:
                        break
                # It stands, whatever the kernel took, at the bound.
                assert ROOM <= outbox.size < ROOM + 64
                with pytest.raises(Unavailable, match="did not answer PING"):
                    await link.ping(0.01)


def byte_by_byte(session: Session, count: int) -> None:
    for index in range(count):
        session.said(Output(b"o") if index % 2 else Errors(b"e"))


async def test_tiny_pieces_are_kept_together() -> None:
    session = Session(1, None, None)  # type: ignore[arg-type]
    byte_by_byte(session, 10_000)
    session.said(Exit(status=0))
    pieces = []
    while not isinstance(what := await session.receive(), Exit):
        pieces.append(what)
    assert len(pieces) <= 256
    assert b"".join(piece.data for piece in pieces if isinstance(piece, Output)) == b"o" * 5000
    assert b"".join(piece.data for piece in pieces if isinstance(piece, Errors)) == b"e" * 5000


async def test_the_registry_says_why_there_is_no_link(tmp_path: Path) -> None:
    agents, placement = Agents(), uuid4()
    with pytest.raises(Unavailable, match="not running here"):
        agents.get(placement)
    agents.register_without(placement)
    with pytest.raises(Unavailable, match="started by an older version"):
        agents.get(placement)
    guest = Guest()
    guest.away = Failed("nobody listens")
    async with linked(guest, env=RealEnvironment()) as link:
        agents.register(placement, link)
        with pytest.raises(Unavailable, match="is not connected"):
            agents.get(placement)
        guest.away = None
        await greeted(guest, link)
        assert agents.get(placement) is link
        agents.unregister(placement, AgentLink(guest.connect, lasting=False, env=RealEnvironment()))
        assert agents.get(placement) is link
        agents.unregister(placement, link)
        with pytest.raises(Unavailable, match="not running here"):
            agents.get(placement)
