"""Gathers everything and writes it in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
import trio
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from actors.commands.counts import Counts as CommandCounts
from actors.model.errors import Problem
from actors.scheduler.counts import Counts
from zeitwork.metrics import actors, catalogue, commands, domain, members, scheduling, units
from zeitwork.metrics.families import family

if TYPE_CHECKING:
    from runtime import System
    from zeitwork.members import Members
    from zeitwork.store import Store

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Seconds the database gets at a scrape; without it the rest is still shown.
STORE_DEADLINE_S = 2.0

# A second series for each counter, with the time of its first increment, that nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

log = structlog.get_logger()


class Exposition:
    """Everything that `/metrics` shows. ``registry`` is where others put what they count themselves."""

    def __init__(
        self,
        store: Store,
        system: System,
        node_id: UUID,
        version: str,
        scheduler: Counts,
        known: Members | None = None,
        dispatcher: CommandCounts | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._store = store
        self._node_id = node_id
        info: dict[tuple[str, ...], float] = {(version, str(node_id)): 1.0}
        self._gathered = _Gathered(
            store, actors.ActorTotals(system), scheduler, dispatcher or CommandCounts(), known, info
        )
        self.registry.register(self._gathered)

    async def render(self) -> bytes:
        """Return the text. What the database can't tell now is left out, and ``zeitwork_store_up`` is 0."""
        reading = None
        try:
            with trio.fail_after(STORE_DEADLINE_S):
                reading = await domain.read(self._store, self._node_id)
        except (Problem, trio.TooSlowError) as error:
            log.warning("metrics are shown without what the database knows", error=str(error) or "it is too slow")
        # From here to the end nothing awaits, so that each scrape shows its own reading.
        self._gathered.domain = reading
        return generate_latest(self.registry)


class _Gathered(Collector):
    """What is read at a scrape, as opposed to counted as it happens."""

    def __init__(
        self,
        store: Store,
        totals: actors.ActorTotals,
        scheduler: Counts,
        dispatcher: CommandCounts,
        known: Members | None,
        info: dict[tuple[str, ...], float],
    ) -> None:
        self.domain: domain.Domain | None = None
        self._store = store
        self._totals = totals
        self._scheduler = scheduler
        self._dispatcher = dispatcher
        self._known = known
        self._info = info

    def describe(self) -> Iterator[Family]:
        """Say nothing in advance: names come from the catalogue, which a test keeps free of doubles."""
        return iter(())

    def collect(self) -> Iterator[Family]:
        """Yield every family."""
        yield family(catalogue.INFO, self._info)
        yield from self._totals.families()
        yield from units.families(self._store.metrics)
        yield from scheduling.families(self._scheduler)
        yield from commands.families(self._dispatcher)
        yield from members.families(None if self._known is None else self._known.overview())
        yield family(catalogue.STORE_UP, 0 if self.domain is None else 1)
        if self.domain is not None:
            yield from domain.families(self.domain)
