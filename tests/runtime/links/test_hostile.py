"""Peers that mean harm or are broken: each loses its connection with a reason, and nobody else notices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from uuid import UUID

import cbor2
import pytest
import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from runtime.links import frames
from runtime.links.connection import Connection
from runtime.links.rules import Rules
from tests.runtime.links.hosts import (
    ALERT,
    IMPATIENT,
    PATIENT,
    SOON,
    Host,
    ended,
    host,
    raw_socket,
    raw_websocket,
    until,
    want,
)
from tests.runtime.links.messages import CLUSTER, Describe, Double, Note, hello, registry

STRANGER = UUID(int=66)


@pytest.fixture
def log() -> list[dict[str, object]]:
    """What is logged."""
    with structlog.testing.capture_logs() as entries:
        yield entries  # type: ignore[misc]


@asynccontextmanager
async def two_friends(rules: Rules = PATIENT) -> AsyncIterator[tuple[Host, Host]]:
    """Two hosts with a link; whatever happens meanwhile, it is the same one at the end and still works."""
    async with host(1, rules=rules) as one, host(2, rules=rules) as two:
        want(one, two)
        await until(one.ups)
        session = one.board.peer(two.id).session
        yield one, two
        assert await one.ref(two.id).ask(Double(21), timeout=SOON) == 42
        assert one.board.peer(two.id).session is session
        assert [up.peer.host for up in one.ups()].count(two.id) == 1


async def told_why(socket: WebSocketConnection) -> tuple[str, str]:
    """Read until the goodbye and return it."""
    with trio.fail_after(SOON):
        while True:
            frame = frames.decode(await socket.get_message())  # type: ignore[arg-type]
            if isinstance(frame, frames.Goodbye):
                return frame.code, frame.detail


async def closed(socket: WebSocketConnection) -> None:
    """Read until the end."""
    with trio.fail_after(SOON):
        while True:
            try:
                await socket.get_message()
            except ConnectionClosed:
                return


async def greeted(socket: WebSocketConnection) -> Connection:
    """Greet as a stranger of the right cluster does."""
    peer = Connection(hello(STRANGER), registry())
    await socket.send_message(peer.hello())
    list(peer.receive(await socket.get_message()))  # type: ignore[arg-type]
    return peer


def reasons(log: list[dict[str, object]]) -> list[object]:
    return [entry["code"] for entry in log if entry["event"] == "link ended"]


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x00" * 5000,
        b"\x16\x03\x01" + b"x" * 600,
        b"GET /else HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" * 9000,
    ],
)
async def test_who_speaks_no_websocket_is_cut_off(said: bytes, log: list[dict[str, object]]) -> None:
    async with two_friends(IMPATIENT) as (one, _):
        async with raw_socket(one) as stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(said)
            await ended(stream)
        await until(lambda: reasons(log))


async def test_another_path_is_not_found(log: list[dict[str, object]]) -> None:
    async with two_friends() as (one, _):
        with pytest.raises(Exception):  # noqa: B017 - the client wraps its refusal in groups
            async with raw_websocket(one, "/admin"):
                pass
        await until(lambda: reasons(log) == ["garbage"])


first_words: list[tuple[str, Callable[[], bytes | str]]] = [
    ("garbage", lambda: b"\xff\xff\xff"),
    ("garbage", lambda: "text"),
    ("garbage", lambda: b""),
    ("garbage", lambda: cbor2.dumps([frames.HELLO, "other-protocol"])),
    ("out-of-turn", lambda: frames.encode(frames.Ping(1))),
    ("out-of-turn", lambda: frames.encode(hello(STRANGER, purpose="bulk"))),
    ("oversize", lambda: b"\x00" * (frames.CONTROL_LIMIT + 1)),
    ("wrong-cluster", lambda: frames.encode(hello(STRANGER, cluster=UUID(int=5)))),
    ("incompatible", lambda: frames.encode(hello(STRANGER, oldest=7, newest=9))),
    ("wrong-peer", lambda: frames.encode(hello(UUID(int=1)))),
]


@pytest.mark.parametrize(("code", "said"), first_words)
async def test_a_wrong_greeting_is_answered_with_the_reason(
    code: str, said: Callable[[], bytes | str], log: list[dict[str, object]]
) -> None:
    async with two_friends() as (one, _):
        async with raw_websocket(one) as socket:
            await socket.send_message(said())
            assert (await told_why(socket))[0] == code
            await closed(socket)
        await until(lambda: reasons(log) == [code])


async def test_a_message_beyond_all_limits_is_not_even_kept(log: list[dict[str, object]]) -> None:
    async with two_friends() as (one, _):
        async with raw_websocket(one) as socket:
            await greeted(socket)
            with suppress(ConnectionClosed):
                await socket.send_message(b"\x00" * (8 << 20))
            await closed(socket)
        await until(lambda: "oversize" in reasons(log))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("garbage", b"\x81" * 50_000),
        ("garbage", b"\x9b" + b"\xff" * 8),
        ("oversize", b"\x00" * (frames.CONTROL_LIMIT + 1)),
        ("out-of-turn", frames.encode(hello(STRANGER))),
        ("out-of-turn", frames.encode(frames.Bulk("t", 0, b"x", True))),
    ],
)
async def test_garbage_after_the_greeting_ends_it(code: str, said: bytes, log: list[dict[str, object]]) -> None:
    async with two_friends() as (one, _):
        async with raw_websocket(one) as socket:
            await greeted(socket)
            await socket.send_message(said)
            assert (await told_why(socket))[0] == code
        await until(lambda: code in reasons(log))
        await until(lambda: one.downs()[-1].peer.host == STRANGER)


async def test_who_never_answers_pings_is_let_go(log: list[dict[str, object]]) -> None:
    async with two_friends(ALERT) as (one, _), raw_websocket(one) as socket:
        peer = await greeted(socket)
        with trio.fail_after(SOON), suppress(ConnectionClosed):
            # Talking is no answer.
            while True:
                with trio.move_on_after(0.1):
                    await socket.get_message()
                await socket.send_message(peer.tell("worker", Note("busy")))
        await until(lambda: "silent" in reasons(log))


async def test_who_reads_nothing_is_let_go_and_holds_bounded_memory(log: list[dict[str, object]]) -> None:
    async with two_friends(ALERT) as (one, _), raw_websocket(one) as socket:
        peer = await greeted(socket)
        await until(lambda: one.board.peer(STRANGER).session)
        session = one.board.peer(STRANGER).session
        assert session is not None
        # Answers to these fill whatever is between the two, for nobody takes them.
        asks = b"".join(peer.ask("worker", Double(number)).frame(9.0) for number in range(500))
        with trio.move_on_after(3):
            while session.open:
                try:
                    await socket.send_message(asks)
                except ConnectionClosed:
                    break
                assert session._outbox.size <= 4 << 20
        await until(lambda: "silent" in reasons(log) or "lost" in reasons(log))


async def test_half_a_message_is_nothing_and_ends_by_silence(log: list[dict[str, object]]) -> None:
    async with two_friends(ALERT) as (one, _), raw_websocket(one) as socket:
        await greeted(socket)
        # A frame of 60,000 bytes of which ten come, then nothing.
        await socket._stream.send_all(b"\x82\xfe\xea\x60\x00\x00\x00\x00" + b"x" * 10)
        await until(lambda: "silent" in reasons(log))


async def test_endless_empty_fragments_end(log: list[dict[str, object]]) -> None:
    async with two_friends(ALERT) as (one, _), raw_socket(one) as stream:
        key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        await stream.send_all(b"GET /link HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some()
        greeting = frames.encode(hello(STRANGER))
        await stream.send_all(b"\x82" + bytes([0x80 | len(greeting)]) + b"\x00" * 4 + greeting)
        await until(lambda: any(up.peer.host == STRANGER for up in one.ups()))
        with suppress(trio.BrokenResourceError):
            await stream.send_all(b"\x02\x80\x00\x00\x00\x00")
            with trio.move_on_after(SOON):
                while not reasons(log):
                    await stream.send_all(b"\x00\x80\x00\x00\x00\x00" * 100)
                    await trio.sleep(0.001)
        await until(lambda: "silent" in reasons(log))


async def test_a_flood_is_slowed_down_and_others_are_served(log: list[dict[str, object]]) -> None:
    slow = replace(PATIENT, frames_per_second=500.0)
    async with host(1, rules=slow) as one, host(2) as two:
        want(one, two)
        await until(one.ups)
        async with raw_websocket(one) as socket, trio.open_nursery() as nursery:
            peer = await greeted(socket)
            flood = peer.tell("nobody", Note("x")) * 100

            async def pour() -> None:
                try:
                    while True:
                        await socket.send_message(flood)
                except ConnectionClosed:
                    pass

            async def listen() -> None:
                try:
                    while True:
                        for frame in [frames.decode(bytes(await socket.get_message()))]:  # type: ignore[arg-type]
                            del frame
                except (ConnectionClosed, Exception):
                    pass

            nursery.start_soon(pour)
            nursery.start_soon(listen)
            for number in range(50):
                assert await one.ref(two.id).ask(Double(number), timeout=SOON) == 2 * number
            nursery.cancel_scope.cancel()


async def test_greetings_are_bounded_in_number_and_time(log: list[dict[str, object]]) -> None:
    few = replace(IMPATIENT, greetings=5)
    async with host(1, rules=few) as one, host(2) as two:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                stream = await trio.open_tcp_stream(one.address.host, one.address.port)
                nursery.start_soon(ended, stream)
            # All of them say nothing: five are let in until their time is over, the others go at once.
        assert [entry["event"] for entry in log].count("link refused: too many connections") >= 10
        # Said after the connection was closed.
        await until(lambda: "silent" in reasons(log))
        want(two, one)
        await until(two.ups)


async def test_who_says_nothing_from_one_address_keeps_no_other_out(log: list[dict[str, object]]) -> None:
    few = replace(PATIENT, greetings=6, greeting=SOON)
    async with host(1, rules=few) as one, host(2) as two, trio.open_nursery() as nursery:
        for _ in range(20):
            stream = await trio.open_tcp_stream(one.address.host, one.address.port, local_address="127.0.0.2")
            nursery.start_soon(ended, stream)
        # Those who were let in stay for a minute.
        refused = "link refused: too many connections"
        await until(lambda: sum(entry["event"] == refused for entry in log) == 17)
        want(two, one)
        await until(two.ups)
        nursery.cancel_scope.cancel()


async def test_an_actor_is_never_told_what_is_not_for_its_kind() -> None:
    async with host(1) as one, host(2) as two:
        for made in (one, two):
            registry_of = made.actor._registry
            wire = registry_of._by_name["test.describe", 1]
            object.__setattr__(wire, "to", frozenset({"vm"}))
        want(one, two)
        await until(one.ups)
        with pytest.raises(Exception, match="no such actor"):
            await one.ref(two.id).ask(Describe("x"), timeout=SOON)
        assert await one.ref(two.id).ask(Double(1), timeout=SOON) == 2


async def test_unknown_types_are_answered_and_known_ones_go_on(log: list[dict[str, object]]) -> None:
    async with two_friends() as (one, _), raw_websocket(one) as socket:
        await greeted(socket)
        await socket.send_message(frames.encode(frames.Ask(5, "worker", "future.thing", 3, {}, 1000)))
        with trio.fail_after(SOON):
            while True:
                frame = frames.decode(await socket.get_message())  # type: ignore[arg-type]
                if isinstance(frame, frames.Refusal):
                    break
        assert (frame.number, frame.code) == (5, "unknown-type")


async def test_an_answer_of_a_stranger_matches_nothing() -> None:
    async with two_friends() as (one, two):
        async with raw_websocket(one) as socket, trio.open_nursery() as nursery:
            answers: list[object] = []
            peer = await greeted(socket)

            async def ask() -> None:
                answers.append(await one.ref(two.id).ask(Describe("mine", after=0.5), timeout=SOON))

            nursery.start_soon(ask)
            await until(lambda: two.worker.described)
            for number in range(1, 50):
                await socket.send_message(peer.reply(number, {"name": "forged"}))
            await until(lambda: one.system.dead_letters.by_cause["late"] == 49)
            await until(lambda: answers)
            assert answers[0].name == "mine"  # type: ignore[attr-defined]
        assert CLUSTER
