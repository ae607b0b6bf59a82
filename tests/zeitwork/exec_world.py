"""A running instance whose guest is the real agent, run natively, and websocket clients for the exec endpoint."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from actors.model.states import PlacementState
from actors.vm.agent.link import AgentLink
from runtime.environment import RealEnvironment
from tests.actors.vm.agent.peer import until_connected
from tests.zeitwork.api.conftest import World
from tests.zeitwork.guest.agent_host import agent_host


@dataclass
class RunningGuest:
    """An instance named ``web`` that runs on this host."""

    world: World
    id: str
    placement: UUID
    link: AgentLink
    folder: Path

    @property
    def path(self) -> str:
        """Where its commands are run."""
        return f"/api/v1/instances/{self.id}/exec"


@asynccontextmanager
async def running_instance(world: World, link: AgentLink, folder: Path) -> AsyncIterator[RunningGuest]:
    """Make an instance that runs here and whose guest is at the end of ``link``."""
    made = await world.create(name="web")
    (placement,) = await world.place()
    await world.observe(placement, PlacementState.RUNNING)
    world.deps.agents.register(placement, link)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        yield RunningGuest(world, str(made["id"]), placement, link, folder)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def running_guest(world: World, folder: Path) -> AsyncIterator[RunningGuest]:
    """Make one whose guest is the real agent on this machine."""
    await trio.Path(folder).mkdir(exist_ok=True)
    with agent_host(folder) as path:

        async def connect() -> trio.SocketStream:
            return await trio.open_unix_socket(str(path))

        link = AgentLink(connect, lasting=True, env=RealEnvironment(), name="test")
        async with running_instance(world, link, folder) as guest:
            await until_connected(link)
            yield guest


@dataclass
class Exec:
    """A client of the exec endpoint that grants what it gets."""

    connection: WebSocketConnection
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    granted: int = 0

    async def say(self, **value: Any) -> None:
        """Send a text message."""
        await self.connection.send_message(json.dumps(value))

    async def next(self) -> Any:
        """Return the next text message that is no credit; collect output until then."""
        while True:
            message = await self.connection.get_message()
            if isinstance(message, bytes):
                assert message[0] in (1, 2)
                (self.out if message[0] == 1 else self.err).extend(message[1:])
                continue
            said = json.loads(message)
            if set(said) != {"credit"}:
                return said
            self.granted += said["credit"]

    async def take(self, total: int) -> None:
        """Return once ``total`` bytes of output and errors came, and not one more."""
        while len(self.out) + len(self.err) < total:
            message = await self.connection.get_message()
            assert isinstance(message, bytes), message
            (self.out if message[0] == 1 else self.err).extend(message[1:])
        assert len(self.out) + len(self.err) == total

    async def until(self, text: bytes) -> None:
        """Return once ``text`` was in the output."""
        while text not in self.out:
            message = await self.connection.get_message()
            if isinstance(message, bytes):
                (self.out if message[0] == 1 else self.err).extend(message[1:])
            else:
                assert set(json.loads(message)) == {"credit"}, (message, bytes(self.out))

    async def start(self, *command: str, **more: Any) -> int:
        """Say the first message and return the pid."""
        await self.say(command=list(command), **more)
        said = await self.next()
        assert set(said) == {"started"}, said
        pid: int = said["started"]
        return pid


@asynccontextmanager
async def exec_client(stream: trio.SocketStream, path: str, host: str = "localhost") -> AsyncIterator[Exec]:
    """Open a websocket over ``stream``. Raises `ConnectionRejected`, or what was raised inside, by itself."""
    try:
        async with trio.open_nursery() as nursery:
            connection = await wrap_client_stream(nursery, stream, host, path)
            try:
                yield Exec(connection)
            finally:
                with trio.move_on_after(2, shield=True):
                    await connection.aclose()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _only(group) from None


def _only(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
