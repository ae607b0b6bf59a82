"""The actor against real servers on loopback, with a store and a host that write down what they are told."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address

import pytest
import trio

from actors.health.actor import Health
from actors.health.messages import Wake
from actors.health.probe import probe
from actors.host.messages import Unhealthy
from actors.model.errors import Unavailable
from actors.model.health import HealthCheck, HealthState, HealthType
from actors.model.ids import uuid7
from actors.model.image import ImageConfig
from actors.model.network import Lease
from actors.model.records import Placement
from actors.model.resources import Resources
from actors.model.restart import ALWAYS, NEVER
from actors.model.states import PlacementState
from runtime import Actor, Message, Ref, Spec, System
from tests.ports import free_port

NODE = uuid.UUID(int=7)
WELL = b"HTTP/1.1 204 No Content\r\n\r\n"
ILL = b"HTTP/1.1 500 Oh\r\n\r\n"


class Server:
    """Answers every connection with ``answer``; None answers nothing and keeps it open."""

    def __init__(self) -> None:
        self.answer: bytes | None = WELL
        self.port = 0
        self.asked: list[bytes] = []

    async def handle(self, stream: trio.SocketStream) -> None:
        # A client is free to leave as soon as it knows enough.
        with contextlib.suppress(trio.BrokenResourceError):
            await self._talk(stream)

    async def _talk(self, stream: trio.SocketStream) -> None:
        async with stream:
            self.asked.append(bytes(await stream.receive_some(4096)))
            if self.answer is None:
                await trio.sleep_forever()
            else:
                await stream.send_all(self.answer)


@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, made.handle, 0, host="127.0.0.1"))
        made.port = listeners[0].socket.getsockname()[1]
        yield made
        nursery.cancel_scope.cancel()


class Rows:
    """`actors.health.store.HealthStore`."""

    def __init__(self, *placements: Placement) -> None:
        self.rows = list(placements)
        self.written: list[tuple[HealthState, str]] = []
        self.away = 0
        self.reads = 0

    async def placements(self, node_id: uuid.UUID) -> list[Placement]:
        self.reads += 1
        return self.rows

    async def record_health(self, placement_id: uuid.UUID, state: HealthState, reason: str) -> bool:
        if self.away:
            self.away -= 1
            raise Unavailable("the database is away", fix="wait")
        self.written.append((state, reason))
        return True


class FakeHost(Actor):
    def __init__(self, told: list[Message]) -> None:
        self.told = told

    async def receive(self, message: Message) -> None:
        self.told.append(message)


def placement(port: int, **changes: object) -> Placement:
    check = HealthCheck(HealthType.HTTP, "/up", port, interval=0.01, timeout=60.0)
    made = Placement(
        id=uuid7(int(time.time() * 1000), os.urandom(10)),
        instance_id=uuid.uuid4(),
        generation=1,
        node_id=NODE,
        wanted=True,
        image_id=uuid.UUID(int=1),
        image_digest="sha256:test",
        image_config=ImageConfig(),
        resources=Resources(1, 128),
        lease=Lease(v6=None, v4=IPv4Address("127.0.0.1")),
        default_port=80,
        state=PlacementState.RUNNING,
        hostname="x",
        restart=ALWAYS,
        health=check,
        running_at=1.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def probing(rows: Rows) -> AsyncIterator[tuple[Ref, list[Message]]]:
    told: list[Message] = []
    async with System() as system:
        host = await system.start(Spec("host", lambda: FakeHost(told)))
        yield await system.start(Spec("health", lambda: Health(NODE, rows, host))), told


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(90):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other actors
            await trio.sleep(0.005)


async def test_changes_are_written_and_what_does_not_answer_is_told_to_the_host() -> None:
    async with server() as app:
        row = placement(app.port)
        rows = Rows(row)
        async with probing(rows) as (_, told):
            await until(lambda: len(app.asked) > 5)
            assert rows.written == [(HealthState.HEALTHY, "")]
            assert told == []
            assert app.asked[0].startswith(b"GET /up HTTP/1.1\r\nHost: 127.0.0.1:")
            app.answer = ILL
            await until(lambda: told)
            reason = f"GET /up at port {app.port} of 127.0.0.1 answered with status 500"
            assert told[0] == Unhealthy(row.id, reason)
            await until(lambda: len(rows.written) == 2)
            assert rows.written[1] == (HealthState.UNHEALTHY, reason)
            app.answer = WELL
            await until(lambda: len(rows.written) == 3)
            assert rows.written[2] == (HealthState.HEALTHY, "")


async def test_what_is_never_restarted_is_only_shown_and_a_lost_write_is_repeated() -> None:
    async with server() as app:
        app.answer = ILL
        rows = Rows(placement(app.port, restart=NEVER))
        rows.away = 1
        async with probing(rows) as (_, told):
            await until(lambda: rows.written)
            assert rows.written[0][0] is HealthState.UNHEALTHY
            assert told == []


async def test_another_start_of_the_same_placement_begins_anew() -> None:
    async with server() as app:
        row = placement(app.port)
        rows = Rows(row)
        async with probing(rows) as (ref, told):
            await until(lambda: rows.written)
            rows.rows = [replace(row, state=PlacementState.WAITING)]
            for _ in range(2):  # the second reading begins only after the first was heeded
                reads = rows.reads
                ref.tell(Wake())
                await until(lambda reads=reads: rows.reads > reads)
            assert len(rows.written) == 1
            app.answer = ILL
            rows.rows = [replace(row, running_at=time.time())]
            ref.tell(Wake())
            asked = len(app.asked)
            await until(lambda: len(app.asked) > asked + 5)
            # It never answered since, and has a minute to come up.
            assert rows.written == [(HealthState.HEALTHY, "")]
            assert told == []


@pytest.mark.parametrize("held", [{"paused": True}, {"snapshots": (uuid.uuid4(),)}, {"state": PlacementState.PAUSED}])
async def test_what_stands_still_is_not_asked_and_goes_on_as_it_was(held: dict[str, object]) -> None:
    async with server() as app:
        row = placement(app.port)
        rows = Rows(row)
        async with probing(rows) as (ref, told):
            await until(lambda: rows.written)
            rows.rows = [replace(row, health_state=HealthState.HEALTHY, **held)]  # type: ignore[arg-type]
            for _ in range(2):  # the second reading begins only after the first was heeded
                reads = rows.reads
                ref.tell(Wake())
                await until(lambda: rows.reads > reads)  # noqa: B023
            app.answer = ILL
            # A probe that was on its way is not counted either; were it still asked, the host would be told.
            await trio.sleep(0.1)
            assert told == []
            app.answer = WELL
            rows.rows = [replace(row, health_state=HealthState.HEALTHY)]
            asked = len(app.asked)
            ref.tell(Wake())
            await until(lambda: len(app.asked) > asked + 2)
            assert rows.written == [(HealthState.HEALTHY, "")]
            app.answer = ILL
            await until(lambda: told)


@pytest.mark.parametrize("kind", [HealthType.HTTP, HealthType.TCP])
async def test_nobody_listens(kind: HealthType) -> None:
    port = free_port()
    assert "refused" in await probe(HealthCheck(kind), ["127.0.0.1"], port)
    assert await probe(HealthCheck(kind), [], port) == "it has no address"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\n", ""),
        (b"HTTP/1.1 404 Nope\r\n", "status 404"),
        (b"220 mail ready\r\n", "did not answer in HTTP"),
        (b"x" * 100_000, "did not answer in HTTP"),
        (b"", "did not answer in HTTP"),
        (None, "within 0.2 s"),
    ],
)
async def test_answers(answer: bytes | None, words: str) -> None:
    async with server() as app:
        app.answer = answer
        check = HealthCheck(HealthType.HTTP, timeout=0.2 if answer is None else 60.0)
        said = await probe(check, ["127.0.0.1"], app.port)
        assert words in said
        assert bool(words) == bool(said)
        # A connection is all that this one wants.
        assert await probe(HealthCheck(HealthType.TCP), ["127.0.0.1"], app.port) == ""
        # One address that answers is enough.
        assert await probe(HealthCheck(HealthType.TCP), ["127.0.0.9", "127.0.0.1"], app.port) == ""
