"""What this host knows of the others by gossip; it needs no database."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric as Family

from zeitwork.members import Overview
from zeitwork.metrics import catalogue
from zeitwork.metrics.families import family


def families(overview: Overview | None) -> Iterator[Family]:
    """Yield the families as of now; without an overview nobody is known."""
    counts = {} if overview is None else overview.count()
    yield family(catalogue.MEMBERS, {(state.value,): float(count) for state, count in counts.items()})
    yield family(catalogue.MEMBER_HEALTH, 0 if overview is None else overview.health)
