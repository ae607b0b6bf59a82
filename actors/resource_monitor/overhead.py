"""What a new virtual machine is charged for its monitor, learnt from those that run. Pure.

A host charges each placement one figure beside its guest's memory. It begins with a guess for each hypervisor, grows at
once when monitors are seen to need more, and shrinks slowly when they need less: half of the way in an hour of looking.
Placements keep what they were admitted with; what the running ones take beyond that is told to the database, which
takes it from what is free.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from uuid import UUID

from actors.model.units import KIB
from actors.resource_monitor.messages import Monitor

#: Share on top of what was seen, and the MiB that a figure is rounded up to.
MARGIN, STEP = 0.25, 4
#: MiB that are charged at least: less was never proven under load.
FLOOR: Mapping[str, int] = MappingProxyType({"firecracker": 8, "qemu": 64})
_FLOOR_UNKNOWN = 16
#: Seconds of looking in which half of a peak is forgotten.
HALF_LIFE = 3600.0
#: KiB that readings are rounded up to where they are told.
_GRAIN = 256
#: Seconds that one look stands for at most.
_LONGEST = 300.0
#: Share of monitors whose need the figure covers. The few above it count by what they take beyond their charge.
COVERED = 0.95


@dataclass(frozen=True, slots=True)
class Learning:
    """``peaks`` is the KiB that monitors of each hypervisor need, decaying; ``figures`` the MiB that are charged.

    ``seen`` are those of which a peak is known, as opposed to guessed. ``readings`` holds the newest KiB of each
    monitor that still runs, ``read_at`` when it was read.
    """

    peaks: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, int] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()
    readings: Mapping[Monitor, int] = field(default_factory=dict)
    read_at: Mapping[Monitor, float] = field(default_factory=dict)
    looked_at: float | None = None

    def by_placement(self) -> dict[UUID, int]:
        """Return the KiB of each placement's monitor, as far as they are known, rounded up: noise is worth no word."""
        return {monitor.placement_id: _up(reading, _GRAIN) for monitor, reading in self.readings.items()}

    def rounded_peaks(self) -> dict[str, int]:
        """Return the peaks that are known, in KiB, rounded up: what an earlier process leaves to `begin`."""
        return {name: _up(peak, _GRAIN) for name, peak in self.peaks.items() if name in self.seen}


def begin(guesses: Mapping[str, int], peaks: Mapping[str, int]) -> Learning:
    """Return what is known before the first look: ``peaks`` (KiB) of an earlier process, else ``guesses`` (MiB).

    A guess counts like a need that was seen: nothing shrinks before it was looked for a while.
    """
    known = {name: guess * KIB / (1 + MARGIN) for name, guess in guesses.items()}
    known |= {name: float(peak) for name, peak in peaks.items()}
    # Of a guess the figure is the guess itself, whatever the steps are.
    figures = {name: charge(name, peak) for name, peak in known.items()}
    figures |= {name: guess for name, guess in guesses.items() if name not in peaks}
    return Learning(known, figures, frozenset(peaks))


def choose(state: Learning, running: Collection[Monitor], most: int) -> tuple[Monitor, ...]:
    """Return the ``most`` monitors whose reading is the oldest, those that were never read first."""
    order = sorted(running, key=lambda monitor: (state.read_at.get(monitor, -math.inf), monitor.placement_id))
    return tuple(order[:most])


def learn(state: Learning, running: Collection[Monitor], read: Mapping[Monitor, int], now: float) -> Learning:
    """Return what is known after a look at ``now`` (monotonic): ``read`` are the new readings in KiB."""
    alive = set(running)
    readings = {monitor: kib for monitor, kib in {**state.readings, **read}.items() if monitor in alive}
    read_at = {monitor: at for monitor, at in {**state.read_at, **dict.fromkeys(read, now)}.items() if monitor in alive}
    # A pause in the looks proves nothing about what was needed in it.
    elapsed = 0.0 if state.looked_at is None else min(max(0.0, now - state.looked_at), _LONGEST)
    kept = 0.5 ** (elapsed / HALF_LIFE)
    peaks, figures = dict(state.peaks), dict(state.figures)
    hypervisors = {monitor.hypervisor for monitor in readings}
    for hypervisor in sorted(hypervisors):
        need = _covering([kib for monitor, kib in readings.items() if monitor.hypervisor == hypervisor])
        before = peaks.get(hypervisor, 0.0)
        peak = peaks[hypervisor] = max(float(need), need + (before - need) * kept)
        grown, present = charge(hypervisor, peak), figures.get(hypervisor, 0)
        # Half a step of room keeps a figure at a boundary from going to and fro.
        shrunk = charge(hypervisor, peak + STEP * KIB / 2 / (1 + MARGIN))
        figures[hypervisor] = max(grown, min(present, shrunk))
    return Learning(peaks, figures, state.seen | hypervisors, readings, read_at, now)


def _up(value: float, grain: int) -> int:
    return math.ceil(value / grain) * grain


def _covering(readings: list[int]) -> int:
    """Return the least reading that `COVERED` of all do not exceed."""
    return sorted(readings)[math.ceil(len(readings) * COVERED) - 1]


def charge(hypervisor: str, peak: float) -> int:
    """Return the MiB to charge where monitors of ``hypervisor`` need ``peak`` KiB."""
    steps = math.ceil(round(peak * (1 + MARGIN) / KIB / STEP, 6))
    return max(FLOOR.get(hypervisor, _FLOOR_UNKNOWN), steps * STEP)
