"""A host's lasting link to the agent of one guest: connects, connects again, and asks."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
import trio

from actors.model.errors import InvalidInput, Problem, Unavailable
from actors.vm.agent import statistics
from actors.vm.agent.command import CommandSpec
from actors.vm.agent.connection import Connection
from actors.vm.agent.conversation import Greeted
from actors.vm.agent.session import Session
from actors.vm.agent.statistics import Statistics
from actors.vm.agent.wire import MAX_ENTROPY, MAX_PAYLOAD, TOKEN_BYTES, Kind
from runtime.environment import Environment
from runtime.restart import Backoff

#: Seconds for one try to connect, and for the guest to answer HELLO on a new connection: few at first, since a guest
#: that was just restored loses a connection without a word, then twice as many with each try that failed.
CONNECT_S, HELLO_FIRST_S, HELLO_S = 10.0, 0.25, 10.0
#: Between tries: a guest that boots is asked often enough that nobody waits for it, one that has no agent rarely.
_BACKOFF = Backoff(free=0, first=0.2, factor=2.0, longest=5.0)
#: A connection that lasted so many seconds was a good one: after it, tries begin anew.
_GOOD_S = 5.0
_PART = MAX_PAYLOAD - 8
_MOST_MS = (1 << 64) - 1

log = structlog.get_logger()


class AgentLink:
    """The link. ``connect`` opens a new stream to the agent and raises `Problem` or OSError when it can't.

    ``lasting`` says that the stream inside the guest outlives connections, so that each begins with a preamble.
    ``changed`` is called, without waiting, after each connect and disconnect; ``name`` is for the log.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[trio.SocketStream]],
        *,
        lasting: bool,
        env: Environment,
        changed: Callable[[], None] | None = None,
        name: str = "",
    ) -> None:
        self._connect = connect
        self._lasting = lasting
        self._env = env
        self._changed = changed
        self._name = name
        self._connection: Connection | None = None
        self._heard_at: float | None = None
        self._frozen = False
        self._pings = 0
        self._reason = "it has not been tried yet"
        self._arrival = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def connected(self) -> bool:
        """Whether the agent answered on the present connection."""
        return self._connection is not None

    @property
    def heard_at(self) -> float | None:
        """When the guest last said something, on the environment's monotonic clock; None before the first word."""
        return self._heard_at

    @property
    def frozen(self) -> bool:
        """Whether the guest's processes were stopped by `freeze` when it last said so."""
        return self._frozen

    @property
    def reason(self) -> str:
        """Why there is no connection, while there is none."""
        return self._reason

    async def wait_connected(self, deadline: float) -> None:
        """Return once the agent answers. Raises `Unavailable` with the reason when it has not within ``deadline`` s."""
        with trio.move_on_after(deadline):
            while self._connection is None:
                await self._arrival.wait()
            return
        raise Unavailable(
            f"the guest's agent did not answer within {deadline:g} s: {self._reason}", code="guest-not-connected"
        )

    async def run(self) -> None:
        """Keep one connection until cancelled. A guest that boots, or has no agent, is asked again and again."""
        tries = 0
        while True:
            stream = await self._try()
            began = self._env.monotonic()
            if stream is not None:
                greeted = False
                with trio.CancelScope() as self._scope:
                    greeted = await self._converse(stream, min(HELLO_S, HELLO_FIRST_S * 2.0 ** min(tries, 10)))
                if self._scope.cancelled_caught:
                    tries = 0
                    continue
                if greeted and self._env.monotonic() - began >= _GOOD_S:
                    tries = 0
            wait = _BACKOFF.delay(tries, self._env.random.random())
            tries += 1
            await self._env.sleep_until(self._env.monotonic() + wait)

    def reset(self) -> None:
        """Give the present connection up, if there is one, and connect anew: it may be dead at its other end only.

        There is none from now on: whoever waits for one does not get this one again before its task has ended.
        """
        if self._connection is not None:
            self._scope.cancel()
            self._dropped(self._connection, "this host ended it")

    async def ping(self, deadline: float = 5.0) -> float:
        """Return the seconds that the guest's init took to answer.

        This and all requests below raise `Unavailable` when there is no connection or no answer within ``deadline``
        seconds, and `Failed` with the guest's own words when it can't do what it was asked.
        """
        self._pings += 1
        began = self._env.monotonic()
        await self._request(Kind.PING, struct.pack("<Q", self._pings), deadline)
        return self._env.monotonic() - began

    async def statistics(self, deadline: float = 5.0) -> Statistics:
        """Return what the guest says about itself."""
        return statistics.parse(await self._request(Kind.STATISTICS, b"", deadline))

    async def stop(self, deadline: float = 5.0) -> None:
        """Ask the app to end, as the power button does; returns once that is under way."""
        await self._request(Kind.STOP, b"", deadline)

    async def freeze(self, deadline: float = 30.0) -> None:
        """Sync the guest's file systems and stop all of its processes but the init."""
        await self._request(Kind.FREEZE, b"", deadline)
        self._frozen = True

    async def thaw(self, epoch: float | None, deadline: float = 10.0) -> None:
        """Let the guest's processes go on, its clock set to ``epoch`` Unix seconds; None leaves the clock."""
        ms = 0 if epoch is None else round(epoch * 1000)
        if not 0 <= ms <= _MOST_MS:
            raise InvalidInput(f"{epoch} is no time that a guest could have", field="epoch")
        await self._request(Kind.THAW, struct.pack("<Q", ms), deadline)
        self._frozen = False

    async def entropy(self, data: bytes, deadline: float = 5.0) -> None:
        """Give the guest's kernel random bytes, 1 to `MAX_ENTROPY`, that nobody else ever gets."""
        if not 0 < len(data) <= MAX_ENTROPY:
            raise InvalidInput(f"{len(data)} bytes of entropy; 1 to {MAX_ENTROPY} are taken", field="entropy")
        await self._request(Kind.ENTROPY, data, deadline)

    async def identity(self, drive: bytes, deadline: float = 10.0) -> None:
        """Give the guest the configuration in ``drive`` (`actors.vm.config_drive`): addresses, name, nonce.

        ``deadline`` is for the whole of it. One that was cut short changes nothing in the guest.
        """
        if not drive:
            raise InvalidInput("the config drive is empty", field="drive")
        until = trio.current_time() + deadline
        for offset in range(0, len(drive), _PART):
            head = struct.pack("<II", len(drive), offset)
            left = max(0.0, until - trio.current_time())
            await self._request(Kind.IDENTITY, head + drive[offset : offset + _PART], left)

    @asynccontextmanager
    async def open(self, spec: CommandSpec, deadline: float = 10.0) -> AsyncIterator[Session]:
        """Run a command in the guest and yield its session; when the block is left, the command is ended.

        Raises `InvalidInput` when ``spec`` can't be sent, `Unavailable` when there is no connection, the guest does
        not start it within ``deadline`` seconds or runs as many as it can, and `Failed` when it refuses.
        """
        async with self._require().session(spec, deadline) as session:
            yield session

    async def _request(self, kind: Kind, payload: bytes, deadline: float) -> bytes:
        return await self._require().request(kind, payload, deadline)

    def _require(self) -> Connection:
        if self._connection is None:
            raise Unavailable(
                f"the guest's agent is not connected: {self._reason}",
                code="guest-not-connected",
                fix="a guest that boots takes a while; try again",
            )
        return self._connection

    async def _try(self) -> trio.SocketStream | None:
        """Return a new stream, or None when there is none to be had now."""
        try:
            with trio.fail_after(CONNECT_S):
                return await self._connect()
        except trio.TooSlowError:
            self._reason = f"its channel did not open within {CONNECT_S:g} s"
        except Problem as problem:
            self._reason = problem.detail
        except OSError as error:
            self._reason = error.strerror or str(error)
        return None

    async def _converse(self, stream: trio.SocketStream, patience: float) -> bool:
        """Talk until the connection ends; return whether the guest has said HELLO."""
        said_hello = False

        def greeted(event: Greeted) -> None:
            nonlocal said_hello
            said_hello = True
            self._frozen = event.frozen
            self._connection = connection
            self._arrival.set()
            self._arrival = trio.Event()
            self._heard()
            log.info("a guest's agent is connected", guest=self._name, frozen=event.frozen)
            self._tell()

        connection = Connection(
            stream, self._env.entropy(TOKEN_BYTES), lasting=self._lasting, heard=self._heard, greeted=greeted
        )
        reason = "this host ended it"
        try:
            reason = await connection.run(patience)
        finally:
            self._reason = reason
            self._dropped(connection, reason)
        return said_hello

    def _dropped(self, connection: Connection, reason: str) -> None:
        if self._connection is connection:
            self._connection = None
            self._reason = reason
            log.info("a guest's agent is not connected any more", guest=self._name, reason=reason)
            self._tell()

    def _heard(self) -> None:
        self._heard_at = self._env.monotonic()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()
