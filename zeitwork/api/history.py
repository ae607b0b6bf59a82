"""The last hours of resources: how they went, how fast they grow, and when they will be used up."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Annotated, NamedTuple
from uuid import UUID

import msgspec

from actors.model.errors import InvalidInput
from actors.resource_monitor.trend import exhausted_in, growth
from zeitwork.store.history import KEEP_SECONDS
from zeitwork.store.rows import ResourcesRow, SampleRow

#: Points for each node at most: more is not seen on a screen.
MOST_POINTS = 240

Span = Annotated[
    str,
    msgspec.Meta(pattern=r"^[1-9][0-9]{0,3}[mh]$(?!\n)", description="minutes or hours, at most 24h", examples=["24h"]),
]


class HistoryPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Averages from ``at`` on, over the history's ``step``. Memory in MiB; ``used`` is the machine's, VMs included.

    ``overhead`` is what VMMs take beside their guests: ``allocated`` for it, and ``measured``.
    """

    at: datetime
    vcpu_capacity: float
    vcpu_allocated: float
    cpus_used: float
    memory_capacity: float
    memory_allocated: float
    memory_used: float
    memory_total: float
    placements: float
    overhead_allocated: float
    overhead_measured: float


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """Change in an hour, negative when it shrinks; None while less than ten minutes are known."""

    vcpu_allocated: float | None
    memory_allocated: float | None
    cpus_used: float | None
    memory_used: float | None


class Exhaustion(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds until nothing is left, if it goes on like that; None when it does not run out within a year.

    ``vcpu`` and ``memory`` are what can be allocated, ``memory_used`` is the machine's memory itself.
    """

    vcpu: float | None
    memory: float | None
    memory_used: float | None


class NodeHistory(msgspec.Struct, frozen=True, kw_only=True):
    """One host's."""

    node_id: UUID
    hostname: str
    growth: Growth
    exhausted_in: Exhaustion
    points: list[HistoryPoint]


class HistoryView(msgspec.Struct, frozen=True, kw_only=True):
    """``seconds`` back from now in steps of ``step`` seconds; growth and exhaustion of all hosts together, and of each.

    Points are absent where a host's process did not run.
    """

    seconds: int
    step: int
    growth: Growth
    exhausted_in: Exhaustion
    nodes: list[NodeHistory]


def parse_span(text: str) -> int:
    """Return the seconds in ``90m`` or ``24h``. Raises `InvalidInput` above a day."""
    match = re.fullmatch(r"([0-9]+)([mh])", text)
    seconds = int(match[1]) * (60 if match[2] == "m" else 3600) if match else 0
    if not 0 < seconds <= KEEP_SECONDS:
        raise InvalidInput(f"{text} is not kept", field="history", fix="ask for at most 24h")
    return seconds


def step_of(seconds: int) -> int:
    """Return the whole minutes, in seconds, that make at most `MOST_POINTS` points of ``seconds``."""
    return max(60, math.ceil(seconds / MOST_POINTS / 60) * 60)


def present(samples: Sequence[SampleRow], resources: Iterable[ResourcesRow], seconds: int, step: int) -> HistoryView:
    """Return the view of ``samples`` (by node, then time); what is free now is taken from ``resources``."""
    known = {node_id: list(rows) for node_id, rows in groupby(samples, key=lambda sample: sample.node_id)}
    nodes = [_node(row, known.get(row.node_id, [])) for row in resources]
    slopes = [node[1] for node in nodes]
    rooms = [node[2] for node in nodes]
    total = _Slopes(*(_sum(slope[index] for slope in slopes) for index in range(4)))
    room = _Room(*(sum(one[index] for one in rooms) for index in range(3)))
    return HistoryView(
        seconds=seconds,
        step=step,
        growth=_growth(total),
        exhausted_in=_exhaustion(room, total),
        nodes=[node[0] for node in nodes],
    )


class _Slopes(NamedTuple):
    """Change in a second."""

    vcpu_allocated: float | None
    memory_allocated: float | None
    cpus_used: float | None
    memory_used: float | None


class _Room(NamedTuple):
    """What is left now."""

    vcpu: float
    memory: float
    memory_used: float


def _node(row: ResourcesRow, samples: Sequence[SampleRow]) -> tuple[NodeHistory, _Slopes, _Room]:
    def slope(value: Callable[[SampleRow], float]) -> float | None:
        return growth([(sample.at.timestamp(), value(sample)) for sample in samples])

    slopes = _Slopes(
        vcpu_allocated=slope(lambda sample: sample.vcpu_allocated),
        memory_allocated=slope(lambda sample: sample.memory_allocated),
        cpus_used=slope(lambda sample: sample.cpus_used),
        memory_used=slope(lambda sample: sample.memory_used),
    )
    last = samples[-1] if samples else None
    room = _Room(row.vcpu_free, row.memory_free, last.memory_total - last.memory_used if last else 0.0)
    history = NodeHistory(
        node_id=row.node_id,
        hostname=row.hostname,
        growth=_growth(slopes),
        exhausted_in=_exhaustion(room, slopes),
        points=[_point(sample) for sample in samples],
    )
    return history, slopes, room


def _sum(slopes: Iterable[float | None]) -> float | None:
    known = [slope for slope in slopes if slope is not None]
    return sum(known) if known else None


def _growth(slopes: _Slopes) -> Growth:
    hourly = [None if slope is None else round(slope * 3600, 3) for slope in slopes]
    return Growth(vcpu_allocated=hourly[0], memory_allocated=hourly[1], cpus_used=hourly[2], memory_used=hourly[3])


def _exhaustion(room: _Room, slopes: _Slopes) -> Exhaustion:
    # Nobody has measured a machine's memory before the first sample: then its room of 0 means nothing.
    used = None if slopes.memory_used is None else exhausted_in(room.memory_used, slopes.memory_used)
    return Exhaustion(
        vcpu=exhausted_in(room.vcpu, slopes.vcpu_allocated),
        memory=exhausted_in(room.memory, slopes.memory_allocated),
        memory_used=used,
    )


def _point(sample: SampleRow) -> HistoryPoint:
    return HistoryPoint(
        at=sample.at,
        vcpu_capacity=round(sample.vcpu, 2),
        vcpu_allocated=round(sample.vcpu_allocated, 2),
        cpus_used=round(sample.cpus_used, 2),
        memory_capacity=round(sample.memory, 1),
        memory_allocated=round(sample.memory_allocated, 1),
        memory_used=round(sample.memory_used, 1),
        memory_total=round(sample.memory_total, 1),
        placements=round(sample.placements, 1),
        overhead_allocated=round(sample.overhead_allocated, 1),
        overhead_measured=round(sample.overhead_measured, 1),
    )
