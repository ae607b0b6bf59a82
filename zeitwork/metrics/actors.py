"""Actors, summed by kind: the first part of their name (``vm`` of ``vm/ab12``), since single ones come and go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client.metrics_core import Metric as Family

from zeitwork.metrics import catalogue
from zeitwork.metrics.families import family

if TYPE_CHECKING:
    from runtime import System


class ActorTotals:
    """Reads the system's introspection. Keeps what ended actors had counted, so that counters only grow."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._lives: dict[tuple[str, int], int] = {}
        self._names: dict[str, int] = {}
        self._handled: defaultdict[str, int] = defaultdict(int)
        self._restarts: defaultdict[str, int] = defaultdict(int)

    def families(self) -> Iterator[Family]:
        """Yield the families as of now."""
        living: defaultdict[str, int] = defaultdict(int)
        depth: defaultdict[str, int] = defaultdict(int)
        oldest: defaultdict[str, float] = defaultdict(float)
        lives: dict[tuple[str, int], int] = {}
        names: dict[str, int] = {}
        for info in self._system.snapshot():
            kind = info.name.partition("/")[0]
            living[kind] += 1
            depth[kind] += info.depth
            oldest[kind] = max(oldest[kind], info.oldest_age or 0.0)
            life = (info.name, info.generation)
            self._handled[kind] += _growth(self._lives.get(life, 0), info.handled)
            self._restarts[kind] += _growth(self._names.get(info.name, 0), info.restarts)
            lives[life], names[info.name] = info.handled, info.restarts
        self._lives, self._names = lives, names
        yield family(catalogue.ACTORS, _labelled(living))
        yield family(catalogue.ACTOR_DEPTH, _labelled(depth))
        yield family(catalogue.ACTOR_OLDEST, _labelled(oldest))
        yield family(catalogue.ACTOR_HANDLED, _labelled(self._handled))
        yield family(catalogue.ACTOR_RESTARTS, _labelled(self._restarts))
        yield family(catalogue.DEAD_LETTERS, _labelled(self._system.dead_letters.by_cause))


def _growth(before: int, now: int) -> int:
    """Return by how much a counter grew; one that is smaller than before began anew."""
    return now - before if now >= before else now


def _labelled(values: Mapping[Any, float]) -> dict[tuple[str, ...], float]:
    return {(kind,): float(value) for kind, value in values.items()}
