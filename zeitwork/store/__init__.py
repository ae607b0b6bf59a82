"""Postgres behind the protocols that the actors own: SQL by aggregate, one aggregate writing each table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from zeitwork.store.cluster import Cluster
from zeitwork.store.events import Events
from zeitwork.store.idempotency import Idempotency
from zeitwork.store.images import Images
from zeitwork.store.instances import Instances
from zeitwork.store.leases import Leases
from zeitwork.store.nodes import Nodes
from zeitwork.store.notifications import Notifications
from zeitwork.store.placements import Placements
from zeitwork.store.scheduling import Scheduling
from zeitwork.store.units import Units

__all__ = ["Store", "open_store"]


class Store:
    """The aggregates, over one pool of units of work.

    Any method may raise `actors.model.errors.Unavailable` while Postgres is away. A write whose answer was lost
    raises `zeitwork.store.problems.OutcomeUnknown` (an `Unavailable`): read again, or repeat it where that is said
    to be harmless. A cancelled call is in the same position.
    """

    def __init__(self, units: Units, notifications: Notifications) -> None:
        self.units = units
        self.notifications = notifications
        self.cluster = Cluster(units)
        self.nodes = Nodes(units)
        self.images = Images(units)
        self.instances = Instances(units)
        self.placements = Placements(units)
        self.scheduling = Scheduling(units)
        self.leases = Leases(units)
        self.events = Events(units)
        self.idempotency = Idempotency(units)

    async def ping(self) -> None:
        """Ask the database for a sign of life. Raises `Unavailable`."""
        raise NotImplementedError


@asynccontextmanager
async def open_store(dsn: str) -> AsyncIterator[Store]:
    """Connect, bring the schema up to date, follow notifications; close everything at the end.

    Raises a `Problem` that names ``database_url`` when the DSN is wrong or nothing answers there.
    """
    raise NotImplementedError
    yield
