"""How long does a question to an actor on another host take, over TLS, until its answer is here?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cbor2
import structlog
import trio
from trio_websocket import WebSocketConnection, WebSocketRequest, connect_websocket, serve_websocket

from bench._links import TIMEOUT, issue, linked_host, timed
from bench._parts import Echo, Get
from bench.question import Answer, Question, best_of
from runtime import Spec
from runtime.links.messages import Introduce
from runtime.links.registry import Registry
from runtime.links.remote import RemoteRef
from runtime.links.transport import Contexts
from zeitwork.trust.files import TrustFiles

ROUNDS = 3


def ask(quick: bool) -> Iterator[Answer]:
    """Measure each; microseconds. Both hosts are in this one process."""
    count = 100 if quick else 3000
    quiet = structlog.make_filtering_bound_logger(50)
    structlog.configure(wrapper_class=quiet)
    try:
        with tempfile.TemporaryDirectory() as directory:
            files = [issue(Path(directory), number) for number in (1, 2)]
            subjects: dict[str, Callable[[], float]] = {
                "zeitwork ask over a link, TLS": lambda: trio.run(_asked, count, files),
                "zeitwork ask over a link, no TLS": lambda: trio.run(_asked, count, None),
                "trio-websocket and cbor2, TLS": lambda: trio.run(_bare, count, files[0].contexts()),
                "trio-websocket and cbor2, no TLS": lambda: trio.run(_bare, count, None),
            }
            yield from best_of(1 if quick else ROUNDS, "lower", subjects, {})
    finally:
        structlog.reset_defaults()


async def _asked(count: int, files: list[TrustFiles] | None) -> float:
    one_files, two_files = files or (None, None)
    registry = Registry()
    registry.add(Get, "bench.get")
    echo = [Spec("echo", Echo)]
    async with (
        linked_host(1, one_files, registry, echo) as (system, board, _),
        linked_host(2, two_files, registry, echo) as (_, _, two),
    ):
        there = await system.name("links").ask(Introduce(two.addresses[0]), timeout=TIMEOUT)
        ref = RemoteRef(board, there, "echo")
        return await timed(count, lambda: ref.ask(Get(1), timeout=TIMEOUT))


async def _bare(count: int, contexts: Contexts | None) -> float:
    async def serve(request: WebSocketRequest) -> None:
        socket = await request.accept()
        async with socket:
            while True:
                await socket.send_message(cbor2.dumps(cbor2.loads(_bytes(await socket.get_message()))))

    async def once(socket: WebSocketConnection) -> object:
        with trio.fail_after(TIMEOUT):
            await socket.send_message(cbor2.dumps({"number": 1}))
            return cbor2.loads(_bytes(await socket.get_message()))

    async with trio.open_nursery() as nursery:
        context = contexts.server if contexts else None
        server = await nursery.start(serve_websocket, serve, "127.0.0.1", 0, context)
        secure = contexts.client if contexts else False
        socket = await connect_websocket(nursery, "127.0.0.1", server.port, "/", use_ssl=secure)
        taken = await timed(count, lambda: once(socket))
        nursery.cancel_scope.cancel()
    return taken


def _bytes(message: str | bytes) -> bytes:
    assert isinstance(message, bytes)
    return message


QUESTION = Question("link_round_trip", "ask with deadline, of another host over loopback", "µs", "lower", ask)
