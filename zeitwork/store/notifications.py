"""LISTEN fan-out: hints that something changed, coalesced and bounded, with a wake-up after every reconnect."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import structlog
import trio

from zeitwork.store.connections import Connection, parameters
from zeitwork.store.metrics import StoreMetrics
from zeitwork.store.problems import first_line

#: The channels; a payload is the id of what changed. What is wanted of placements, and what hosts observed of them, are
#: apart: a host that follows the one does not hear its own words in the other.
CHANNELS = (
    "zw_instances",
    "zw_placements",
    "zw_observed",
    "zw_images",
    "zw_nodes",
    "zw_snapshots",
    "zw_events",
    "zw_leader",
)
#: Ids that a subscriber may have waiting; with more of them it is told to read everything.
MAX_IDS = 256
#: First and largest wait in seconds between attempts to reconnect.
BACKOFF_FIRST, BACKOFF_MAX = 0.05, 5.0
#: Seconds of silence after which the connection is tried.
PING_EVERY = 30.0


@dataclass(frozen=True, slots=True)
class Wake:
    """What changed: ``ids`` (payloads), or ``everything`` when that is not known: read all again."""

    ids: frozenset[str] = frozenset()
    everything: bool = False


class Subscription:
    """A bounded, coalescing inbox of hints, for one task."""

    def __init__(self, channels: frozenset[str]) -> None:
        self.channels = channels
        self._ids: set[str] = set()
        # Whoever subscribes has not read yet.
        self._everything = True
        self._event = trio.Event()
        self._event.set()

    async def wait(self) -> Wake:
        """Wait for a hint; those that came since the last call are folded into one."""
        await self._event.wait()
        wake = Wake(frozenset() if self._everything else frozenset(self._ids), self._everything)
        self._ids.clear()
        self._everything = False
        self._event = trio.Event()
        return wake

    def offer(self, identifier: str) -> None:
        """Add a hint."""
        if not self._everything:
            self._ids.add(identifier)
            self._everything = len(self._ids) > MAX_IDS
        self._event.set()

    def offer_everything(self) -> None:
        """Say that anything may have changed."""
        self._everything = True
        self._event.set()


class Notifications:
    """Hands notifications of Postgres to subscribers, over one connection of its own.

    ``connected`` is called whenever that has been made, before subscribers are told to read all again.
    """

    def __init__(
        self,
        dsn: str,
        *,
        application_name: str = "zeitwork listen",
        metrics: StoreMetrics | None = None,
        rng: random.Random | None = None,
        connected: Callable[[], None] = lambda: None,
    ) -> None:
        self.metrics = metrics or StoreMetrics()
        self._connected = connected
        self._parameters = parameters(dsn, application_name, {"statement_timeout": "10000"})
        self._random = rng or random.Random()
        self._subscriptions: set[Subscription] = set()
        self._log = structlog.get_logger().bind(part="listen")
        self._failures = 0

    @contextmanager
    def subscribe(self, *channels: str) -> Iterator[Subscription]:
        """Subscribe to channels. The first wait returns at once with ``everything``."""
        unknown = set(channels) - set(CHANNELS)
        if unknown or not channels:
            raise ValueError(f"no such channels: {sorted(unknown)}")
        subscription = Subscription(frozenset(channels))
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def run(self) -> None:
        """Listen until cancelled, reconnecting as often as it takes."""
        connected_before = False
        while True:
            try:
                connection = await trio.to_thread.run_sync(self._connect)
            except psycopg.Error as error:
                await self._pause(error)
                continue
            try:
                self.metrics.listening = 1
                if connected_before:
                    self.metrics.listener_reconnects += 1
                    self._log.info("listening again")
                connected_before = True
                self._connected()
                # Notifications of the time before are lost: everything may have changed.
                for subscription in self._subscriptions:
                    subscription.offer_everything()
                await self._follow(connection)
            except (psycopg.Error, OSError) as error:
                await self._pause(error)
            finally:
                self.metrics.listening = 0
                connection.close()

    def _connect(self) -> Connection:
        connection = psycopg.connect(**self._parameters, autocommit=True)
        try:
            for channel in CHANNELS:
                connection.execute(f"listen {channel}".encode())
        except BaseException:
            connection.close()
            raise
        return connection

    async def _follow(self, connection: Connection) -> None:
        self._failures = 0
        while True:
            with trio.move_on_after(PING_EVERY) as scope:
                # Some may have come along with the answers to our own statements, so look before waiting.
                self._hand_out(connection)
                await trio.lowlevel.wait_readable(connection.fileno())
            if scope.cancelled_caught:
                await trio.to_thread.run_sync(_ping, connection)

    def _hand_out(self, connection: Connection) -> None:
        for notification in connection.notifies(timeout=0):
            self.metrics.notifications += 1
            for subscription in self._subscriptions:
                if notification.channel in subscription.channels:
                    subscription.offer(notification.payload)

    async def _pause(self, error: Exception) -> None:
        ceiling = min(BACKOFF_MAX, BACKOFF_FIRST * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._log.warning("not listening", error=first_line(error), attempt=self._failures)
        await trio.sleep(self._random.uniform(ceiling / 2, ceiling))


def _ping(connection: Connection) -> None:
    connection.execute("select 1")
