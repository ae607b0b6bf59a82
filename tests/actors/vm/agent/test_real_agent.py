"""The link with the real agent at the other end, run on this machine under the sanitizers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from actors.model.errors import Failed, Unavailable
from actors.vm.agent.command import CommandSpec, Errors, Exit, Output
from actors.vm.agent.link import AgentLink
from actors.vm.agent.session import Session
from actors.vm.agent.statistics import Statistics
from actors.vm.agent.wire import INITIAL_CREDIT, MAX_SESSIONS, Frame, Kind
from runtime.environment import RealEnvironment
from tests.actors.vm.agent.peer import patient, until_connected
from tests.zeitwork.guest.agent_host import agent_host

LONG = 120


@asynccontextmanager
async def linked(path: Path, *, once: bool = False) -> AsyncIterator[AgentLink]:
    tries = 0

    async def connect() -> trio.SocketStream:
        nonlocal tries
        tries += 1
        if once and tries > 1:
            raise Failed("it was to connect once")
        return await trio.open_unix_socket(str(path))

    link = AgentLink(connect, lasting=True, env=RealEnvironment(), name="native")
    with trio.fail_after(LONG), patient():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            await until_connected(link)
            yield link
            nursery.cancel_scope.cancel()


@pytest.fixture
def agent(tmp_path: Path) -> object:
    with agent_host(tmp_path) as path:
        yield path


async def collect(session: Session) -> tuple[bytes, bytes, Exit]:
    out, err = b"", b""
    while not isinstance(what := await session.receive(), Exit):
        if isinstance(what, Output):
            out += what.data
        else:
            err += what.data
    return out, err, what


async def test_requests(agent: Path) -> None:
    async with linked(agent) as link:
        assert await link.ping() >= 0
        said = await link.statistics()
        # Whatever is in this test's table of names is said by the real one, and nothing is misspelt on either side.
        silent = {name for name in Statistics.__slots__ if getattr(said, name) is None}
        # This machine need not have what a guest has: an eth0, a writable layer.
        assert silent <= {"network_received_bytes", "network_sent_bytes", "disk_total_kib", "disk_used_kib"}
        await link.freeze()
        assert link.frozen
        with pytest.raises(Unavailable, match="frozen"):
            async with link.open(CommandSpec(("true",))):
                pass
        await link.thaw(None)
        assert not link.frozen
        with pytest.raises(Failed, match="the guest: "):
            await link.identity(b"this is no config drive" * 2000)
        assert await link.ping() >= 0


async def test_a_frozen_guest_says_so_to_its_next_host(agent: Path) -> None:
    async with linked(agent) as link:
        await link.freeze()
    async with linked(agent) as link:
        assert link.frozen
        await link.thaw(None)
    async with linked(agent) as link:
        assert not link.frozen


async def test_a_command_with_everything(agent: Path) -> None:
    script = 'read line; echo "$line $A $PWD $#"; echo err >&2; exit 7'
    async with linked(agent) as link:
        spec = CommandSpec(("/bin/sh", "-c", script, "sh", "1", ""), {"A": "b=c"}, cwd="/tmp", user="0:0")
        async with link.open(spec) as session:
            await session.send(b"word\n")
            await session.send_eof()
            assert await collect(session) == (b"word b=c /tmp 2\n", b"err\n", Exit(status=7))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (CommandSpec(("no-such-command",)), "command"),
        (CommandSpec(("/etc/passwd",)), "command"),
        (CommandSpec(("true",), user="nobody-here"), "user"),
        (CommandSpec(("true",), user="0:no-such-group"), "user"),
        (CommandSpec(("true",), cwd="/missing"), "cwd"),
        (CommandSpec(("true",), cwd="/etc/passwd"), "cwd"),
    ],
)
async def test_a_refusal_names_what_was_wrong(agent: Path, spec: CommandSpec, field: str) -> None:
    async with linked(agent) as link:
        with pytest.raises(Failed) as caught:
            async with link.open(spec):
                pass
    assert caught.value.field == field


async def test_much_both_ways_at_once(agent: Path) -> None:
    sent = os.urandom(INITIAL_CREDIT * 20)
    async with linked(agent) as link, link.open(CommandSpec(("cat",))) as session, trio.open_nursery() as nursery:

        async def write() -> None:
            await session.send(sent)
            await session.send_eof()

        nursery.start_soon(write)
        out, err, end = await collect(session)
        assert (out == sent, err, end) == (True, b"", Exit(status=0))


async def test_two_floods_and_a_heartbeat(agent: Path) -> None:
    flood = CommandSpec(("/bin/sh", "-c", "yes & yes >&2"))
    async with linked(agent) as link, link.open(flood) as unread, link.open(flood) as read:
        got = {Output: 0, Errors: 0}
        while min(got.values()) < 1_000_000:
            what = await read.receive()
            assert not isinstance(what, Exit)
            got[type(what)] += len(what.data)
        assert await link.ping(LONG) >= 0
        assert isinstance(await unread.receive(), (Output, Errors))


async def test_a_terminal(agent: Path) -> None:
    async with linked(agent) as link, link.open(CommandSpec(("/bin/sh",), terminal=(20, 70))) as session:
        seen = b""

        async def until(text: bytes) -> None:
            nonlocal seen
            while text not in seen:
                what = await session.receive()
                assert isinstance(what, Output), (what, seen)
                seen += what.data

        await session.send(b"stty size\n")
        await until(b"20 70")
        await session.resize(30, 80)
        await session.send(b"stty size; sh -c 'echo r\"ea\"dy; exec sleep 1000'\n")
        await until(b"30 80")
        await until(b"ready")
        await session.signal(2)
        await session.send(b"exit 4\n")
        while not isinstance(what := await session.receive(), Exit):
            pass
        assert what == Exit(status=4)


async def test_leaving_ends_what_the_command_started_too(agent: Path) -> None:
    async with linked(agent) as link:
        async with link.open(CommandSpec(("/bin/sh", "-c", "sleep 1000 & echo $!; wait"))) as session:
            what = await session.receive()
            assert isinstance(what, Output)
            child = int(what.data)
            assert alive(child)
        while alive(child):  # noqa: ASYNC110 - it is no child of ours
            await trio.sleep(0.02)
        assert alive(os.getpid())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or before it was read
        return False


async def test_as_many_as_there_may_be_again_and_again(agent: Path) -> None:
    async with linked(agent) as link:
        for _ in range(3):
            release = trio.Event()

            async def hold(release: trio.Event, task_status: trio.TaskStatus[None]) -> None:
                async with AsyncExitStack() as stack:
                    await first_free(link, stack, "cat")
                    task_status.started()
                    await release.wait()

            async with trio.open_nursery() as nursery:
                for _ in range(MAX_SESSIONS):
                    await nursery.start(hold, release)
                with pytest.raises(Unavailable, match="commands run in this guest"):
                    async with link.open(CommandSpec(("true",))):
                        pass
                release.set()
            async with AsyncExitStack() as stack:
                assert await collect(await first_free(link, stack, "true")) == (b"", b"", Exit(status=0))


async def first_free(link: AgentLink, stack: AsyncExitStack, program: str) -> Session:
    """Run a program in the first place that is free: each is again once the guest has said the end of its command."""
    while True:
        try:
            return await stack.enter_async_context(link.open(CommandSpec((program,))))
        except Unavailable:
            await trio.sleep(0.02)


async def test_a_host_after_one_that_died_in_the_middle_of_a_frame(agent: Path) -> None:
    async with linked(agent, once=True) as link, link.open(CommandSpec(("sleep", "1000"))) as session:
        pid = session.pid
        # As if the process were killed while it wrote: the connection goes on in the guest, if it is a serial port.
        half = Frame(Kind.DATA, session.number, bytes(9000)).encode()[:5000]
        session._outbox.put(half)
        await trio.sleep(0.1)
        async with linked(agent) as second:
            assert await second.ping() >= 0
            async with second.open(CommandSpec(("echo", "fine"))) as other:
                assert await collect(other) == (b"fine\n", b"", Exit(status=0))
            while alive(pid):  # noqa: ASYNC110 - sessions of an earlier host are ended
                await trio.sleep(0.02)
            with pytest.raises(Unavailable, match="broke off"):
                await session.receive()
