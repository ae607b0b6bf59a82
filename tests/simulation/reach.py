"""The way from a host's process to the database: over the network, with all that may happen to a call on it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import trio

from actors.model.errors import Unavailable
from runtime.links.simulated import Stack
from runtime.simulation import Delay, HostEnvironment, Lost, Network, Pipe
from tests.actors.vm.simulated import Life
from tests.simulation.plan import DATABASE
from tests.simulation.store import Database
from tests.simulation.store.units import Unit
from zeitwork.cluster import Linked
from zeitwork.store.notifications import CHANNELS, Subscription
from zeitwork.store.problems import OutcomeUnknown

if TYPE_CHECKING:
    from tests.simulation.leaving import Member

T = TypeVar("T")

#: How long the database works on a transaction.
SERVE = Delay(0.001, 0.003, 1.0)
#: Seconds after which an idle connection is tried, as the real listener does.
PING_EVERY = 30.0
#: First and largest wait in seconds before the listener connects again.
BACKOFF_FIRST, BACKOFF_MAX = 0.05, 5.0


#: What calls are points of, and what their answers are.
_POINTS = {
    "scheduling.assign": "apply",
    "scheduling.postpone": "apply",
    "scheduling.apply_groups": "apply",
    "scheduling.apply_moves": "apply",
    "presence.mark_down": "apply",
    "placements.observe": "observe",
    "election.acquire": "acquire",
}
_AFTER = {"apply": "applied", "observe": "observed"}


class ProcessLife(Life):
    """One life of a host's process, which can be held."""

    def __init__(self, env: HostEnvironment) -> None:
        super().__init__()
        self._env = env
        self.over = trio.Event()
        #: Its connections to other hosts, and what they are good for; None without links.
        self.stack: Stack | None = None
        self.linked: Linked | None = None
        #: What it leaves its cluster by, None before it is a host's.
        self.member: Member | None = None

    async def going_on(self) -> None:
        """Wait while the process is held."""
        await self._env.going_on()

    def kill(self, *, silently: bool = False) -> None:
        """End it: nothing that unwinds reaches the outside. ``silently``: its machine ends with it."""
        self.dead = True
        self.over.set()
        if self.stack is not None:
            self.stack.end(silently=silently)


@dataclass
class Server:
    """The database's host: what is wrong with it, and who listens."""

    database: Database
    network: Network
    chance: random.Random
    down: bool = False
    aborts: float = 0.0
    lost_answers: float = 0.0
    lost_hints: float = 0.0
    #: Injected, by kind.
    injected: dict[str, int] = field(default_factory=dict)
    listeners: dict[Pipe, Listener] = field(default_factory=dict)
    #: Called when a host comes to a point; see `plan.Ambush`.
    passing: Callable[[str, str], float | None] = lambda host, point: None

    def __post_init__(self) -> None:
        self.database.notify = self._notify

    def count(self, kind: str) -> None:
        """Count something that went wrong on purpose."""
        self.injected[kind] = self.injected.get(kind, 0) + 1

    def execute(self, unit: Unit[T], name: str, request: str, *, read_only: bool) -> T:
        """Run a unit as the database does today."""
        if self.down:
            self.count("refused by a database that was down")
            raise Unavailable("the database is away: connection refused", code="database-away")
        if self.chance.random() < self.aborts:
            self.count("transactions aborted")
            raise Unavailable("the database gave up a transaction that took too long", code="database-slow")
        lost = not read_only and self.chance.random() < self.lost_answers
        if lost and self.chance.random() < 0.5:
            self.count("commits that did not arrive")
            raise _unknown() if self.chance.random() < 0.7 else Unavailable("the database is away: connection lost")
        result = self.database.transact(unit, name, request)
        if lost:
            self.count("commits whose answer was lost")
            raise _unknown()
        return result

    def shut_down(self) -> None:
        """Go down: connections of listeners break."""
        self.down = True
        for pipe, listener in tuple(self.listeners.items()):
            pipe.close()
            listener.broken()
        self.listeners.clear()

    def _notify(self, channel: str, payload: str) -> None:
        for pipe, listener in self.listeners.items():
            if self.chance.random() < self.lost_hints:
                self.count("notifications lost")
                continue
            pipe.send(lambda listener=listener: listener.hear(channel, payload))  # type: ignore[misc]


def _forsaken(work: Callable[[], object]) -> None:
    """Do what nobody waits for any more."""
    with suppress(Exception):
        work()


def _unknown() -> OutcomeUnknown:
    return OutcomeUnknown("the connection to the database was lost during a commit: it may have happened or not")


class RemoteUnits:
    """`tests.simulation.store.Units` of one life, or of a person (then ``request`` names what is asked for)."""

    def __init__(self, server: Server, host: str, life: Life, request: str = "") -> None:
        self._server = server
        self._host = host
        self._life = life
        self._request = request

    async def run(self, unit: Unit[T], *, name: str) -> T:
        """Run a unit that writes."""
        return await self._call(unit, name, read_only=False)

    async def read(self, unit: Unit[T], *, name: str) -> T:
        """Run a unit that only reads."""
        return await self._call(unit, name, read_only=True)

    async def _call(self, unit: Unit[T], name: str, *, read_only: bool) -> T:
        await self._life.going_on()
        if self._life.dead:
            await trio.lowlevel.checkpoint()
            raise Unavailable("this life is over")
        server, point = self._server, _POINTS.get(name, "")

        def work() -> T:
            return server.execute(unit, name, self._request, read_only=read_only)

        if point and not self._request:
            late = server.passing(self._host, point)
            if late is not None:
                server.network.schedule(trio.current_time() + late, None, lambda: _forsaken(work))
            if self._life.dead:
                raise Unavailable("this life is over")

        try:
            answer = await server.network.call(self._host, DATABASE, work, serve=SERVE)
            if point and not self._request:
                server.passing(self._host, _AFTER.get(point, ""))
            return answer
        except Lost as lost:
            # Lost before it was sent, or in the middle: whoever asks sees no difference once it was a commit.
            if read_only or (not lost.sent and server.chance.random() < 0.5):
                raise Unavailable(f"the database is away: {lost}", code="database-away") from lost
            raise _unknown() from lost
        finally:
            await self._settle()

    async def _settle(self) -> None:
        if self._life.dead:
            return
        with trio.CancelScope(shield=True):
            await self._life.going_on()


class Listener:
    """`zeitwork.store.notifications.Notifications` of one life."""

    def __init__(self, server: Server, host: str, life: Life, env: HostEnvironment) -> None:
        self._server = server
        self._host = host
        self._life = life
        self._env = env
        # Ordered: hints are handed out in one order.
        self._subscriptions: dict[Subscription, None] = {}
        self._broken = trio.Event()

    @contextmanager
    def subscribe(self, *channels: str) -> Iterator[Subscription]:
        """Subscribe to channels. The first wait returns at once with ``everything``."""
        assert set(channels) <= set(CHANNELS), channels
        subscription = Subscription(frozenset(channels))
        self._subscriptions[subscription] = None
        try:
            yield subscription
        finally:
            del self._subscriptions[subscription]

    def hear(self, channel: str, payload: str) -> None:
        """Take a notification."""
        if self._life.dead:
            return
        for subscription in self._subscriptions:
            if channel in subscription.channels:
                subscription.offer(payload)

    def broken(self) -> None:
        """The connection ended."""
        self._broken.set()

    async def run(self) -> None:
        """Listen until cancelled, reconnecting as often as it takes."""
        failures = 0
        while not self._life.dead:
            self._broken = trio.Event()
            pipe = await self._connect()
            if pipe is None:
                ceiling = min(BACKOFF_MAX, BACKOFF_FIRST * 2.0 ** min(failures, 16))
                failures += 1
                await trio.sleep(self._env.random.uniform(ceiling / 2, ceiling))
                continue
            failures = 0
            for subscription in self._subscriptions:
                subscription.offer_everything()
            try:
                await self._follow()
            finally:
                self._server.listeners.pop(pipe, None)
                pipe.close()

    async def _connect(self) -> Pipe | None:
        server = self._server
        pipe = server.network.pipe(DATABASE, self._host, lambda: self._lost(pipe))

        def work() -> None:
            if server.down:
                raise Unavailable("the database is away: connection refused")
            server.listeners[pipe] = self

        try:
            with trio.fail_after(3.0):
                await server.network.call(self._host, DATABASE, work)
        except (Unavailable, Lost, trio.TooSlowError):
            server.listeners.pop(pipe, None)
            pipe.close()
            return None
        return pipe

    def _lost(self, pipe: Pipe) -> None:
        self._server.listeners.pop(pipe, None)
        self.broken()

    async def _follow(self) -> None:
        broken = self._broken
        while not broken.is_set():
            with trio.move_on_after(PING_EVERY) as scope:
                await broken.wait()
            if scope.cancelled_caught:
                try:
                    await self._server.network.call(self._host, DATABASE, self._ping)
                except (Unavailable, Lost):
                    return

    def _ping(self) -> None:
        if self._server.down:
            raise Unavailable("the database is away: connection refused")
