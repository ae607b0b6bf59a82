"""The server itself, with small apps behind it: it ends, it leaves nothing, and no client can hold it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from actors.model.errors import InvalidInput, Problem
from actors.model.paths import HostPaths
from tests.ports import free_port
from zeitwork.api import connection
from zeitwork.api.connection import GuardedStream
from zeitwork.api.server import Listening, serve
from zeitwork.api.stream import Slots, Stream, Write

#: Seconds; only a bound for what should take milliseconds.
LONG = 90


def small_app(paths: HostPaths, endpoint: Callable[[Request], Awaitable[Response]] | None = None) -> Starlette:
    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    async def endless(request: Request) -> Response:
        async def produce(write: Write) -> None:
            while True:
                await write(b"x" * 65536)

        return Stream(  # type: ignore[return-value]
            produce, media_type="text/plain", closing=app.state.closing, slots=app.state.slots
        )

    async def quiet(request: Request) -> Response:
        async def produce(write: Write) -> None:
            await write(b"first\n")
            await trio.sleep_forever()

        return Stream(  # type: ignore[return-value]
            produce, media_type="text/plain", closing=app.state.closing, slots=app.state.slots
        )

    app = Starlette(
        routes=[
            Route("/", endpoint or hello, methods=["GET", "POST"]),
            Route("/endless", endless),
            Route("/quiet", quiet),
        ]
    )
    app.state.deps = SimpleNamespace(paths=paths)
    app.state.closing = trio.Event()
    app.state.slots = Slots(2)
    return app


@pytest.fixture
def paths(tmp_path: Path) -> HostPaths:
    return HostPaths(tmp_path / "data", tmp_path)


@asynccontextmanager
async def serving(app: Starlette, path: Path, grace: float = 0.5) -> AsyncIterator[Listening]:
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED) -> None:
            await serve(app, http="127.0.0.1:0", socket=path, grace=grace, task_status=task_status)

        listening: Listening = await nursery.start(run)
        yield listening
        nursery.cancel_scope.cancel()


def port_of(listening: Listening) -> int:
    assert listening.url is not None
    return int(listening.url.rpartition(":")[2])


async def test_both_doors_answer_and_both_close(paths: HostPaths) -> None:
    path = paths.api_socket
    with trio.fail_after(LONG):
        async with serving(small_app(paths), path) as listening:
            assert listening.url is not None
            async with httpx.AsyncClient(base_url=listening.url, timeout=LONG) as client:
                assert (await client.get("/")).text == "hello"
            async with httpx.AsyncClient(
                base_url="http://any", transport=httpx.AsyncHTTPTransport(uds=str(path)), timeout=LONG
            ) as client:
                assert (await client.get("/")).text == "hello"
        assert not path.exists()
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", port_of(listening))


async def test_a_taken_port_leaves_no_socket_file(paths: HostPaths) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(Problem) as refused:
        await serve(small_app(paths), http=f"127.0.0.1:{other.getsockname()[1]}", socket=paths.api_socket)
    assert refused.value.code == "port-taken"
    assert "--http" in refused.value.detail
    assert not paths.api_socket.exists()


async def test_a_taken_socket_frees_the_port(paths: HostPaths) -> None:
    async with serving(small_app(paths), paths.api_socket):
        port = free_port()
        with pytest.raises(Problem) as refused:
            await serve(small_app(paths), http=f"127.0.0.1:{port}", socket=paths.api_socket)
        assert refused.value.code == "socket-taken"
        with socket.create_server(("127.0.0.1", port)):
            pass
        assert paths.api_socket.exists()


async def test_nowhere_to_listen_is_refused(paths: HostPaths) -> None:
    with pytest.raises(InvalidInput):
        await serve(small_app(paths), http=None, socket=None)


async def test_a_socket_left_by_a_killed_process_is_replaced(paths: HostPaths) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(paths.api_socket))
        stale.listen()
    async with (
        serving(small_app(paths), paths.api_socket),
        httpx.AsyncClient(
            base_url="http://any", transport=httpx.AsyncHTTPTransport(uds=str(paths.api_socket)), timeout=LONG
        ) as client,
    ):
        assert (await client.get("/")).status_code == 200


async def test_what_half_uploads_left_is_gone_at_start(paths: HostPaths) -> None:
    paths.spool.mkdir(parents=True)
    (paths.spool / "a.part").write_bytes(b"half")
    (paths.spool / "b_whole").write_bytes(b"whole")
    async with serving(small_app(paths), paths.api_socket):
        assert [path.name for path in paths.spool.iterdir()] == ["b_whole"]


async def test_a_stop_ends_followers_and_idle_connections_at_once(paths: HostPaths) -> None:
    with trio.fail_after(LONG):
        async with trio.open_nursery() as nursery:

            async def follow(task_status: trio.TaskStatus[None]) -> None:
                async with (
                    httpx.AsyncClient(base_url=listening.url or "", timeout=LONG) as client,
                    client.stream("GET", "/quiet") as response,
                ):
                    lines = response.aiter_lines()
                    assert await anext(lines) == "first"
                    task_status.started()
                    # The end is a proper one: the last chunk arrives.
                    assert [line async for line in lines] == []

            async with serving(small_app(paths), paths.api_socket, grace=10 * LONG) as listening:
                idle = await trio.open_tcp_stream("127.0.0.1", port_of(listening))
                await nursery.start(follow)
            assert await idle.receive_some(1) == b""


async def test_a_request_under_way_may_end_after_the_stop(paths: HostPaths) -> None:
    started = trio.Event()
    release = trio.Event()

    async def slow(request: Request) -> Response:
        started.set()
        await release.wait()
        return PlainTextResponse("done")

    app = small_app(paths, slow)
    with trio.fail_after(LONG):
        async with trio.open_nursery() as nursery:
            answers = []

            async def ask() -> None:
                async with httpx.AsyncClient(base_url=listening.url or "", timeout=LONG) as client:
                    answers.append((await client.get("/")).text)

            async def release_once_stopping() -> None:
                await app.state.closing.wait()
                release.set()

            nursery.start_soon(release_once_stopping)
            async with serving(app, paths.api_socket, grace=10 * LONG) as listening:
                nursery.start_soon(ask)
                await started.wait()
        assert answers == ["done"]


async def test_a_request_that_does_not_end_is_cut_at_the_deadline(paths: HostPaths) -> None:
    started = trio.Event()
    cancelled = trio.Event()

    async def stuck(request: Request) -> Response:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    with trio.fail_after(LONG):
        async with serving(small_app(paths, stuck), paths.api_socket, grace=0.05) as listening:
            client = await trio.open_tcp_stream("127.0.0.1", port_of(listening))
            await client.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await started.wait()
        assert cancelled.is_set()


async def test_a_client_that_does_not_read_cannot_hold_the_stop(paths: HostPaths) -> None:
    with trio.fail_after(LONG):
        async with serving(small_app(paths), paths.api_socket, grace=0.05) as listening:
            client = await trio.open_tcp_stream("127.0.0.1", port_of(listening))
            await client.send_all(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await client.receive_some(1)


async def test_a_client_that_does_not_read_is_dropped(paths: HostPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SEND_STALL_S", 0.05)
    app = small_app(paths)
    with trio.fail_after(LONG):
        async with serving(app, paths.api_socket) as listening:
            client = await trio.open_tcp_stream("127.0.0.1", port_of(listening))
            await client.send_all(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await client.receive_some(1)
            while app.state.slots.taken:  # noqa: ASYNC110 - the slot's return is what is waited for
                await trio.sleep(0.01)


async def test_a_client_that_leaves_gives_its_slot_back(paths: HostPaths) -> None:
    app = small_app(paths)
    with trio.fail_after(LONG):
        async with serving(app, paths.api_socket) as listening:
            client = await trio.open_tcp_stream("127.0.0.1", port_of(listening))
            await client.send_all(b"GET /quiet HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await client.receive_some(1)
            assert app.state.slots.taken == 1
            await client.aclose()
            while app.state.slots.taken:  # noqa: ASYNC110
                await trio.sleep(0.01)


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET \xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense that is no frame at all",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\r\n" * 50,
    ],
)
async def test_nonsense_ends_its_own_connection_only(paths: HostPaths, content: bytes) -> None:
    with trio.fail_after(LONG):
        async with serving(small_app(paths), paths.api_socket, grace=0.05) as listening:
            client = await trio.open_tcp_stream("127.0.0.1", port_of(listening))
            await client.send_all(content)
            await client.send_eof()
            answer = b""
            while chunk := await client.receive_some(4096):
                answer += chunk
            assert not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 5"))
            async with httpx.AsyncClient(base_url=listening.url or "", timeout=LONG) as other:
                assert (await other.get("/")).text == "hello"


async def test_connections_are_bounded(paths: HostPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeitwork.api.server.MOST_CONNECTIONS", 2)
    with trio.fail_after(LONG):
        async with serving(small_app(paths), paths.api_socket, grace=0.05) as listening:
            clients = [await trio.open_tcp_stream("127.0.0.1", port_of(listening)) for _ in range(2)]
            for client in clients:
                await client.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await client.receive_some(4096)).startswith(b"HTTP/1.1 200")
            third = await trio.open_tcp_stream("127.0.0.1", port_of(listening))
            assert await third.receive_some(1) == b""


async def test_clients_that_left_take_no_places(paths: HostPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeitwork.api.server.MOST_CONNECTIONS", 3)
    async with serving(small_app(paths), paths.api_socket) as listening:
        for _ in range(20):
            stream = await trio.open_tcp_stream("127.0.0.1", port_of(listening))
            async with stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
                # The end of our side is what it sees; it then closes its own.
                await stream.send_eof()
                with trio.fail_after(LONG):
                    while await stream.receive_some():
                        pass


async def test_a_word_while_a_connection_is_being_closed_is_for_nobody() -> None:
    ours, theirs = trio.socket.socketpair()
    with trio.fail_after(LONG), theirs:
        async with trio.open_nursery() as nursery:
            guarded = GuardedStream(trio.SocketStream(ours), trio.CancelScope())
            nursery.start_soon(guarded.send_all, bytes(8 << 20))  # more than fits: it is under way for good
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BrokenResourceError, match="being closed"):
                await guarded.send_all(b"late")
            nursery.cancel_scope.cancel()
        await guarded.aclose()
