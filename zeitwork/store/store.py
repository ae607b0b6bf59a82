"""The store: every aggregate over one pool of units of work."""

from __future__ import annotations

import structlog
import trio

from actors.model.errors import Unavailable
from zeitwork.store.cluster import Cluster
from zeitwork.store.commands import Commands
from zeitwork.store.election import Election
from zeitwork.store.events import Events
from zeitwork.store.groups import Groups
from zeitwork.store.history import History
from zeitwork.store.idempotency import Idempotency
from zeitwork.store.images import Images
from zeitwork.store.instances import Instances
from zeitwork.store.invitations import Invitations
from zeitwork.store.leases import REST, Leases
from zeitwork.store.metrics import StoreMetrics
from zeitwork.store.nodes import Nodes
from zeitwork.store.notifications import Notifications
from zeitwork.store.placements import Placements
from zeitwork.store.presence import Presence
from zeitwork.store.scheduling import Scheduling
from zeitwork.store.snapshots import Snapshots
from zeitwork.store.units import Cursor, Units

#: Events are kept this many seconds, and at most this many of them.
KEEP_EVENTS_SECONDS, KEEP_EVENTS_ROWS = 30 * 24 * 3600.0, 200_000
#: Seconds between two sweeps of what has expired.
HOUSEKEEPING_EVERY = 600.0

_log = structlog.get_logger().bind(part="store")


class Store:
    """The aggregates, over one pool of units of work.

    Any method may raise `actors.model.errors.Unavailable` while Postgres is away. A write whose answer was lost
    raises `zeitwork.store.problems.OutcomeUnknown` (an `Unavailable`): read again, or repeat it where that is said
    to be harmless. A cancelled call is in the same position. ``rest`` is how long released addresses rest (seconds).
    ``reserved`` is for the election alone: no lease is lost because its renewal waited behind other work.
    """

    def __init__(self, units: Units, notifications: Notifications, *, reserved: Units, rest: float = REST) -> None:
        self.units = units
        self.notifications = notifications
        self.cluster = Cluster(units)
        self.election = Election(units, reserved)
        self.nodes = Nodes(units)
        self.presence = Presence(units)
        self.invitations = Invitations(units)
        self.images = Images(units)
        self.instances = Instances(units)
        self.groups = Groups(units)
        self.placements = Placements(units, rest=rest)
        self.snapshots = Snapshots(units)
        self.scheduling = Scheduling(units)
        self.commands = Commands(units)
        self.leases = Leases(units)
        self.events = Events(units)
        self.history = History(units)
        self.idempotency = Idempotency(units)

    @property
    def metrics(self) -> StoreMetrics:
        """Counts of what the store did."""
        return self.units.metrics

    async def run(self) -> None:
        """Follow notifications, sweep away what has expired, and watch for the database's return, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.units.watch)
            nursery.start_soon(self.notifications.run)
            nursery.start_soon(self._housekeeping)

    async def ping(self) -> None:
        """Ask the database for a sign of life. Raises `Unavailable`."""

        def unit(cursor: Cursor) -> None:
            cursor.execute("select 1")

        await self.units.read(unit, name="ping")

    async def _housekeeping(self) -> None:
        while True:
            try:
                events = await self.events.prune(keep_seconds=KEEP_EVENTS_SECONDS, keep_rows=KEEP_EVENTS_ROWS)
                keys = await self.idempotency.prune()
                samples = await self.history.prune()
            except Unavailable as error:
                _log.warning("housekeeping has to wait", error=str(error))
            else:
                if events or keys or samples:
                    _log.info("expired rows deleted", events=events, idempotency_keys=keys, samples=samples)
            await trio.sleep(HOUSEKEEPING_EVERY)
