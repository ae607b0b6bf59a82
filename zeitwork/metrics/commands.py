"""What this host's dispatcher counts of its own work while it leads."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric as Family

from actors.commands.counts import Counts
from zeitwork.metrics import catalogue
from zeitwork.metrics.families import family


def families(counts: Counts) -> Iterator[Family]:
    """Yield the families of the dispatcher's numbers as they are now."""
    steps: dict[tuple[str, ...], float] = {
        ("sent",): counts.sent,
        ("taken",): counts.taken,
        ("refused",): counts.refused,
        ("unreachable",): counts.unreachable,
        ("wrong",): counts.wrong,
    }
    yield family(catalogue.COMMANDS, steps)
    yield family(catalogue.COMMANDS_OUTSTANDING, counts.outstanding)
