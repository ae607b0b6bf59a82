"""What this host's scheduler counts of its own work while it leads."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric as Family

from actors.scheduler.counts import Counts
from zeitwork.metrics import catalogue
from zeitwork.metrics.families import family


def families(counts: Counts) -> Iterator[Family]:
    """Yield the families of the scheduler's numbers as they are now."""
    ended: dict[tuple[str, ...], float] = {
        ("done",): counts.evaluations - counts.failures,
        ("failed",): counts.failures,
    }
    yield family(catalogue.SCHEDULER_EVALUATIONS, ended)
    yield family(catalogue.SCHEDULER_SECONDS, counts.seconds)
    decisions: dict[tuple[str, ...], float] = {
        ("placed",): counts.placed,
        ("postponed",): counts.postponed,
        ("refused",): counts.refused,
        ("moved",): counts.moved,
        ("member",): counts.members,
    }
    yield family(catalogue.SCHEDULER_DECISIONS, decisions)
    yield family(catalogue.SCHEDULER_PENDING, counts.pending)
