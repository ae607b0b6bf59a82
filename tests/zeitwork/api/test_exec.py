"""Commands in a guest over the real endpoint: the websocket, its refusals and its bounds, with the real agent."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, ConnectionRejected

from actors.model.states import PlacementState
from actors.vm.agent.link import AgentLink
from actors.vm.agent.wire import INITIAL_CREDIT, MAX_SESSIONS, Kind
from runtime.environment import RealEnvironment
from tests.actors.vm.agent.peer import Guest, until_connected
from tests.zeitwork.api.conftest import World
from tests.zeitwork.exec_world import Exec, RunningGuest, exec_client, running_guest, running_instance
from zeitwork.api import connection, exec, server, websocket
from zeitwork.api.deps import fresh_id
from zeitwork.api.stream import Slots

LONG = 120


@pytest.fixture
async def guest(world: World, tmp_path: Path) -> AsyncIterator[RunningGuest]:
    async with running_guest(world, tmp_path / "guest") as running:
        yield running


@asynccontextmanager
async def opened(guest: RunningGuest) -> AsyncIterator[Exec]:
    with trio.fail_after(LONG):
        stream = await trio.open_unix_socket(str(guest.world.deps.paths.api_socket))
        async with exec_client(stream, guest.path) as client:
            yield client


async def ended(client: Exec) -> Any:
    """Return what the command's end is said to be, after which the websocket closes properly."""
    last = await client.next()
    with pytest.raises(ConnectionClosed) as closed:
        await client.connection.get_message()
    assert closed.value.reason is not None
    assert closed.value.reason.code in (1000, 1001, 1008, 1011)
    return last


async def refused(world: World, path: str, *, unix: bool = True) -> tuple[int, Any]:
    """Return status and problem of a handshake that is refused."""
    if unix:
        stream = await trio.open_unix_socket(str(world.deps.paths.api_socket))
    else:
        stream = await trio.open_tcp_stream("127.0.0.1", int((world.listening.url or "").rpartition(":")[2]))
    with trio.fail_after(LONG), pytest.raises(ConnectionRejected) as rejected:
        async with exec_client(stream, path):
            pass
    headers = {name.lower(): value for name, value in rejected.value.headers}
    assert headers[b"content-type"] == b"application/problem+json"
    assert b"x-request-id" in headers
    return rejected.value.status_code, json.loads(rejected.value.body or b"")


async def no_sessions_left(world: World) -> None:
    with trio.fail_after(LONG):
        while world.app.state.exec_slots.taken:  # noqa: ASYNC110 - the slot's return is what is waited for
            await trio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def gone(pid: int) -> None:
    with trio.fail_after(LONG):
        while alive(pid):  # noqa: ASYNC110 - the guest's process is no child of ours
            await trio.sleep(0.02)


async def test_a_command_its_streams_and_its_status(guest: RunningGuest) -> None:
    async with opened(guest) as client:
        await client.start("/bin/sh", "-c", "echo out $A; echo err >&2; cd; exit 7", env={"A": "b c"}, cwd="/tmp")
        assert await ended(client) == {"exit": {"status": 7}}
    assert (bytes(client.out), bytes(client.err)) == (b"out b c\n", b"err\n")
    await no_sessions_left(guest.world)


async def test_input_and_its_end(guest: RunningGuest) -> None:
    sent = os.urandom(INITIAL_CREDIT * 5)
    async with opened(guest) as client, trio.open_nursery() as nursery:
        await client.start("cat")

        async def write() -> None:
            for at in range(0, len(sent), 50_000):
                await client.connection.send_message(sent[at : at + 50_000])
            await client.say(eof=True)

        nursery.start_soon(write)
        assert await ended(client) == {"exit": {"status": 0}}
    assert client.out == sent
    assert client.granted == len(sent)


async def test_a_terminal_its_size_and_its_keys(guest: RunningGuest) -> None:
    async with opened(guest) as client:
        await client.start("/bin/sh", tty=True, rows=31, cols=97)
        await client.connection.send_message(b"stty size; tty\n")
        await client.until(b"31 97")
        await client.until(b"/dev/pts/")
        await client.say(resize=[40, 120])
        # The one that says that it is ready is in the foreground already: a key that comes sooner could miss it.
        await client.connection.send_message(b"stty size; echo e'r'r >&2; sh -c 'echo r\"ea\"dy; exec sleep 1000'\n")
        await client.until(b"40 120")
        await client.until(b"err")
        await client.until(b"ready")
        await client.connection.send_message(b"\x03")
        await client.connection.send_message(b"exit 5\n")
        assert await ended(client) == {"exit": {"status": 5}}
    assert not client.err


@pytest.mark.parametrize(("said", "number"), [(15, 15), ("INT", 2), ("sighup", 1), ("KILL", 9)])
async def test_signals(guest: RunningGuest, said: int | str, number: int) -> None:
    async with opened(guest) as client:
        await client.start("sleep", "1000")
        await client.say(signal=said)
        assert await ended(client) == {"exit": {"signal": number}}


async def test_a_command_that_is_not_there_or_not_runnable(guest: RunningGuest) -> None:
    for command, code in ((["no-such-program"], "command-not-found"), (["/etc/passwd"], "command-refused")):
        async with opened(guest) as client:
            await client.say(command=command)
            problem = (await ended(client))["error"]
            assert problem["code"] == code
            assert command[0] in problem["detail"]
            assert problem["field"] == "command"
            assert problem["instance"].startswith("urn:zeitwork:request:")
    for more, word in (({"user": "nobody-of-that-name"}, "nobody-of-that-name"), ({"cwd": "/none"}, "/none")):
        async with opened(guest) as client:
            await client.say(command=["true"], **more)
            problem = (await ended(client))["error"]
            assert problem["code"] == "command-refused"
            assert word in problem["detail"]


BAD_FIRST: list[tuple[str | bytes, int, str | None]] = [
    ("", 400, None),
    ("{", 400, None),
    ("[]", 422, None),
    ("{}", 422, "command"),
    ('{"command": []}', 422, "command"),
    ('{"command": "ls"}', 422, "command"),
    ('{"command": [""]}', 422, "command[0]"),
    ('{"command": ["a\\u0000b"]}', 422, "command[0]"),
    ('{"command": ["ls"], "tty": 1}', 422, "tty"),
    ('{"command": ["ls"], "tty": true, "rows": 0}', 422, "rows"),
    ('{"command": ["ls"], "cols": 65536}', 422, "cols"),
    ('{"command": ["ls"], "env": {"A=": "b"}}', 422, "env"),
    ('{"command": ["ls"], "env": ["A=b"]}', 422, "env"),
    ('{"command": ["ls"], "user": ""}', 422, "user"),
    ('{"command": ["ls"], "credit": 0}', 422, "credit"),
    ('{"command": ["ls"], "shell": true}', 422, "shell"),
    (json.dumps({"command": ["x" * 20_000]}), 422, "command"),
    (b"\x01\x02", 422, "command"),
]


@pytest.mark.parametrize(("first", "status", "field"), BAD_FIRST)
async def test_a_bad_first_message_is_named(
    guest: RunningGuest, first: str | bytes, status: int, field: str | None
) -> None:
    async with opened(guest) as client:
        await client.connection.send_message(first)
        problem = (await ended(client))["error"]
        assert (problem["status"], problem["field"]) == (status, field)
    await no_sessions_left(guest.world)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ('{"resize": [0, 80]}', "resize[0]"),
        ('{"resize": [24]}', "resize"),
        ('{"signal": "NOPE"}', "signal"),
        ('{"signal": 65}', "signal"),
        ('{"signal": 0}', "signal"),
        ('{"kill": 9}', "kill"),
        ("{}", None),
        ('{"eof": true, "signal": 9}', None),
        ('{"credit": -1}', "credit"),
        ("nonsense", None),
    ],
)
async def test_a_bad_later_message_ends_the_session_with_a_reason(
    guest: RunningGuest, message: str, field: str | None
) -> None:
    async with opened(guest) as client:
        pid = await client.start("sleep", "1000")
        await client.connection.send_message(message)
        assert (await ended(client))["error"]["field"] == field
    await gone(pid)


async def test_input_after_its_end_is_refused(guest: RunningGuest) -> None:
    async with opened(guest) as client:
        await client.start("sleep", "1000")
        await client.say(eof=True)
        await client.connection.send_message(b"more")
        assert (await ended(client))["error"]["field"] == "eof"


async def test_a_client_that_leaves_ends_its_command(guest: RunningGuest) -> None:
    for abrupt in (False, True):
        async with opened(guest) as client:
            pid = await client.start("sleep", "1000")
            if abrupt:
                await trio.aclose_forcefully(client.connection._stream)  # type: ignore[arg-type]
        await gone(pid)
    await no_sessions_left(guest.world)


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_PING_S", 0.05)
    monkeypatch.setattr(connection, "_AFTERLIFE_S", 0.1)


@pytest.mark.usefixtures("quick_pings")
class TestDeadClients:
    """With pings each 50 ms, and little time for what a dead client leaves."""

    @pytest.fixture
    async def guest(self, quick_pings: None, world: World, tmp_path: Path) -> AsyncIterator[RunningGuest]:
        async with running_guest(world, tmp_path / "guest") as running:
            yield running

    @pytest.fixture
    def watched(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[connection.GuardedStream, float]]:
        """The connections whose clients are to give signs of life, and the seconds within which they are."""
        found: list[tuple[connection.GuardedStream, float]] = []
        expect_signs = connection.GuardedStream.expect_signs

        def noted(self: connection.GuardedStream, seconds: float) -> None:
            found.append((self, seconds))
            expect_signs(self, seconds)

        monkeypatch.setattr(connection.GuardedStream, "expect_signs", noted)
        return found

    async def test_one_that_answers_pings_may_be_quiet(
        self, guest: RunningGuest, watched: list[tuple[connection.GuardedStream, float]]
    ) -> None:
        async with opened(guest) as client:
            await client.start("cat")
            ((stream, seconds),) = watched
            assert seconds == exec.SILENCE_S

            def until() -> float:
                return stream._listening.deadline if stream._listening is not None else 0.0

            for _ in range(3):
                # The client says nothing, and is given more time nevertheless.
                before = until()
                while until() <= before:  # noqa: ASYNC110 - an answered ping moves it
                    await trio.sleep(0.01)
                assert until() <= trio.current_time() + seconds
            await client.say(eof=True)
            assert await ended(client) == {"exit": {"status": 0}}

    async def test_one_that_does_not_is_taken_for_dead(
        self, guest: RunningGuest, watched: list[tuple[connection.GuardedStream, float]]
    ) -> None:
        stream = await trio.open_unix_socket(str(guest.world.deps.paths.api_socket))
        request = (
            f"GET {guest.path} HTTP/1.1\r\nHost: any\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        message = json.dumps({"command": ["sleep", "1000"]}).encode()
        with trio.fail_after(LONG):
            await stream.send_all(request.encode())
            answer = await stream.receive_some(4096)
            assert answer.startswith(b"HTTP/1.1 101")
            await stream.send_all(bytes((0x81, 0x80 | len(message), 0, 0, 0, 0)) + message)
            while b"started" not in answer:
                answer += await stream.receive_some(4096)
            pid = int(answer.partition(b'"started":')[2].partition(b"}")[0])
            ((server_side, seconds),) = watched
            assert seconds == exec.SILENCE_S
            # Only now: what comes before this may take its time.
            server_side.expect_signs(0.5)
            while await stream.receive_some(4096):  # pings, until it is dropped
                pass
        await gone(pid)
        await no_sessions_left(guest.world)

    async def test_one_that_leaves_while_its_input_is_not_read(self, guest: RunningGuest) -> None:
        """The server does not read from it then: only its pings can find out."""
        async with opened(guest) as client:
            pid = await client.start("sleep", "1000")
            with trio.move_on_after(0.5):
                while True:
                    await client.connection.send_message(bytes(60_000))
            await trio.aclose_forcefully(client.connection._stream)  # type: ignore[arg-type]
        await gone(pid)
        await no_sessions_left(guest.world)


async def test_output_waits_for_the_clients_credit(guest: RunningGuest) -> None:
    async with opened(guest) as client:
        await client.start("/bin/sh", "-c", "yes | head -c 1000000; echo done >&2", credit=1000)
        await client.take(1000)
        with trio.move_on_after(0.3) as scope:
            await client.connection.get_message()
        assert scope.cancelled_caught  # nothing came that was not granted
        granted = 1000
        while granted < 1_000_000:
            await client.say(credit=100_000)
            granted += 100_000
            await client.take(min(granted, 1_000_005))
        assert await ended(client) == {"exit": {"status": 0}}
    assert (len(client.out), client.err) == (1_000_000, b"done\n")


async def test_a_client_that_does_not_read_fills_no_memory_and_blocks_nobody(guest: RunningGuest) -> None:
    async with opened(guest) as idle, opened(guest) as other:
        flood = guest.folder / "flood"
        await idle.start("/bin/sh", "-c", f"yes | tee {flood}")
        size = 0
        with trio.fail_after(LONG):
            while not flood.exists() or not size or flood.stat().st_size > size:
                size = flood.stat().st_size if flood.exists() else 0
                # What the two sockets, the pipe and the credits hold, and no more: it comes to a stand.
                assert size < 4 << 20
                await trio.sleep(0.5)
        await other.start("echo", "fine")
        assert await ended(other) == {"exit": {"status": 0}}
        assert await guest.link.ping(30) >= 0


async def test_a_client_without_credit_that_takes_nothing_is_dropped(
    guest: RunningGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SEND_STALL_S", 0.2)
    async with opened(guest) as client:
        pid = await client.start("yes")
        await gone(pid)
    await no_sessions_left(guest.world)


async def test_the_last_words_reach_a_client_that_is_writing(
    guest: RunningGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "_FAREWELL_S", LONG)
    async with opened(guest) as client, trio.open_nursery() as nursery:
        await client.start("head", "-c", "10")

        async def write() -> None:
            try:
                while True:
                    await client.connection.send_message(b"x" * 1000)
            except ConnectionClosed:
                pass

        nursery.start_soon(write)
        assert await client.next() == {"exit": {"status": 0}}
        nursery.cancel_scope.cancel()
    assert client.out == b"x" * 10


async def test_a_stop_of_the_server_ends_sessions_with_a_reason(world: World, tmp_path: Path) -> None:
    async with running_guest(world, tmp_path / "guest") as guest, opened(guest) as client:
        await client.start("sleep", "1000")
        world.app.state.closing.set()
        last = await ended(client)
        assert last["error"]["code"] == "stopping"


async def test_a_guest_that_goes_away_is_said(world: World) -> None:
    scripted = Guest()
    link = AgentLink(scripted.connect, lasting=False, env=RealEnvironment())
    async with running_instance(world, link, world.consoles) as guest:
        peer = await scripted.peer()
        await peer.greet()
        await until_connected(link)
        async with opened(guest) as client:
            await client.say(command=["sleep", "1000"])
            frame = await peer.next()
            await peer.say(Kind.STARTED, bytes((9, 0, 0, 0)), frame.session)
            assert await client.next() == {"started": 9}
            await peer.say(Kind.OUTPUT, b"last", frame.session)
            scripted.away = OSError(111, "Connection refused")
            await peer.stream.aclose()
            problem = (await ended(client))["error"]
            assert problem["code"] == "guest-gone"
            assert client.out == b"last"
        status, problem = await refused(world, guest.path)
        assert (status, problem["code"]) == (503, "guest-not-connected")


async def test_sessions_are_bounded(guest: RunningGuest) -> None:
    guest.world.app.state.exec_slots = Slots(2, "sessions of exec")
    async with opened(guest) as one, opened(guest) as two:
        await one.start("cat")
        await two.start("cat")
        status, problem = await refused(guest.world, guest.path)
        assert (status, problem["code"]) == (503, "too-many-streams")
    await no_sessions_left(guest.world)


async def test_a_guest_runs_so_many_at_once(guest: RunningGuest) -> None:
    async with trio.open_nursery() as nursery:
        release = trio.Event()

        async def hold(task_status: trio.TaskStatus[None]) -> None:
            async with opened(guest) as client:
                await client.start("cat")
                task_status.started()
                await release.wait()

        for _ in range(MAX_SESSIONS):
            await nursery.start(hold)
        async with opened(guest) as client:
            await client.say(command=["true"])
            assert (await ended(client))["error"]["code"] == "too-many-sessions"
        release.set()


async def test_over_tcp_it_is_refused(guest: RunningGuest) -> None:
    status, problem = await refused(guest.world, guest.path, unix=False)
    assert (status, problem["code"]) == (403, "socket-only")
    assert problem["detail"] == "exec goes through the unix socket only"
    assert "--socket" in problem["fix"]
    plain = await guest.world.client.get(guest.path)
    assert (plain.status_code, plain.json()["code"]) == (403, "socket-only")


async def test_a_plain_get_is_told_to_upgrade(guest: RunningGuest) -> None:
    stream = await trio.open_unix_socket(str(guest.world.deps.paths.api_socket))
    with trio.fail_after(LONG):
        await stream.send_all(f"GET {guest.path} HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := await stream.receive_some(4096):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 426")
    assert b"upgrade: websocket" in head.lower()
    assert json.loads(body)["code"] == "upgrade-required"


async def test_a_page_of_a_browser_is_refused(guest: RunningGuest) -> None:
    for host, origin, code in (("evil.example", None, 421), ("localhost", "http://evil.example", 403)):
        stream = await trio.open_tcp_stream("127.0.0.1", int((guest.world.listening.url or "").rpartition(":")[2]))
        headers = f"Host: {host}\r\n" + (f"Origin: {origin}\r\n" if origin else "")
        with trio.fail_after(LONG):
            await stream.send_all(
                f"GET {guest.path} HTTP/1.1\r\n{headers}Upgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            assert (await stream.receive_some(4096)).startswith(f"HTTP/1.1 {code}".encode())


async def test_unknown_instances_and_paths(world: World) -> None:
    for path, status, code in (
        (f"/api/v1/instances/{fresh_id()}/exec", 404, "not-found"),
        ("/api/v1/instances/web/exec", 404, "not-found"),
        ("/api/v1/nothing", 404, "not-found"),
        ("/api/v1/instances", 403, "not-a-websocket"),
    ):
        found, problem = await refused(world, path)
        assert (found, problem["code"]) == (status, code)


async def test_an_instance_that_does_not_run_says_its_state(world: World) -> None:
    made = await world.create()
    path = f"/api/v1/instances/{made['id']}"
    status, problem = await refused(world, f"{path}/exec")
    assert (status, problem["code"]) == (409, "not-running")
    assert "the instance is pending" in problem["detail"]
    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    status, problem = await refused(world, f"{path}/exec")
    assert (status, problem["code"]) == (503, "guest-not-here")
    world.deps.agents.register_without(placement)
    status, problem = await refused(world, f"{path}/exec")
    assert (status, problem["code"]) == (503, "no-agent")
    assert "older version" in problem["detail"]
    answer = await world.client.get(f"{path}/metrics")
    assert (answer.status_code, answer.json()["code"]) == (503, "no-agent")
    await world.client.post(f"{path}/stop")
    await world.observe(placement, PlacementState.REMOVED)
    status, problem = await refused(world, f"{path}/exec")
    assert status == 409
    assert "the instance is stopped" in problem["detail"]
    assert "zeitwork start" in problem["fix"]
    answer = await world.client.get(f"{path}/metrics")
    assert (answer.status_code, answer.json()["code"]) == (409, "not-running")


async def test_a_guest_says_how_it_does(guest: RunningGuest) -> None:
    answer = await guest.world.client.get(f"/api/v1/instances/{guest.id}/metrics")
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert said["placement_id"] == str(guest.placement)
    assert said["memory_total_bytes"] > 1 << 20
    assert said["uptime_seconds"] > 0
    assert said["processes"] > 0
    assert set(said) == set(exec_metrics_fields())


def exec_metrics_fields() -> tuple[str, ...]:
    from zeitwork.api.guest import GuestMetrics

    return GuestMetrics.__struct_fields__


async def test_a_guest_that_does_not_answer_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeitwork.api.guest.STATISTICS_S", 0.05)
    scripted = Guest()
    link = AgentLink(scripted.connect, lasting=False, env=RealEnvironment())
    async with running_instance(world, link, world.consoles) as guest:
        peer = await scripted.peer()
        await peer.greet()
        await until_connected(link)
        answer = await world.client.get(f"/api/v1/instances/{guest.id}/metrics")
        assert (answer.status_code, answer.json()["code"]) == (503, "guest-silent")
        await peer.stream.aclose()


async def test_a_frozen_guest_runs_nothing(world: World) -> None:
    scripted = Guest()
    link = AgentLink(scripted.connect, lasting=False, env=RealEnvironment())
    async with running_instance(world, link, world.consoles) as guest:
        peer = await scripted.peer()
        await peer.greet(flags=1)
        await until_connected(link)
        status, problem = await refused(world, guest.path)
        assert (status, problem["code"]) == (503, "guest-frozen")


async def test_sessions_are_requests_in_the_metrics(guest: RunningGuest) -> None:
    async with opened(guest) as client:
        await client.start("true")
        await ended(client)
    await refused(guest.world, guest.path, unix=False)
    route = 'route="/api/v1/instances/{id}/exec"'
    wanted = {f'zeitwork_http_requests_total{{method="GET",{route},status="{status}"}} 1.0' for status in (101, 403)}
    with trio.fail_after(LONG):
        # Each is counted once it is over here, a moment after its client knows that it is.
        while not wanted <= set((await guest.world.client.get("/metrics")).text.splitlines()):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_frames_that_are_none_end_their_own_connection_only(guest: RunningGuest) -> None:
    request = (
        f"GET {guest.path} HTTP/1.1\r\nHost: any\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    for nonsense in (
        b"\xff" * 100,
        b"\x81\x05hello",
        b"\x82\xff" + b"\xff" * 8 + bytes(4),
        b"\x81\x82\0\0\0\0\xff\xfe",
    ):
        stream = await trio.open_unix_socket(str(guest.world.deps.paths.api_socket))
        with trio.fail_after(LONG):
            await stream.send_all(request.encode())
            await stream.receive_some(4096)
            await stream.send_all(nonsense)
            try:
                while await stream.receive_some(4096):
                    pass
            except trio.BrokenResourceError:
                pass
    await no_sessions_left(guest.world)
    async with opened(guest) as client:
        await client.start("true")
        assert await ended(client) == {"exit": {"status": 0}}


def test_signal_names_are_linuxs() -> None:
    assert exec._signal("int") == exec._signal("SIGINT") == exec._signal(2) == signal.SIGINT
