"""Whether a host takes new work: closed by memory pressure, open again once it has been calm for a while."""

from __future__ import annotations

from dataclasses import dataclass, replace

from actors.resource_monitor.messages import Pressure


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Percent of the time in which tasks waited for memory, and the gap that keeps a host from flapping.

    It closes when some task waited for ``close`` percent of the last 10 s, or all of them for half of that. It opens
    after ``calm`` seconds without interruption in which tasks waited less than a quarter of it, over 10 and over 60 s.
    """

    close: float = 20.0
    calm: float = 30.0

    @property
    def reopen(self) -> float:
        """Percent of waiting below which a host is calm."""
        return self.close / 4


@dataclass(frozen=True, slots=True)
class Admission:
    """``closed`` says why, empty while the host is open; ``calm_since`` is on the monotonic clock."""

    closed: str = ""
    calm_since: float | None = None


def step(state: Admission, pressure: Pressure | None, now: float, limits: Thresholds) -> Admission:
    """Return what follows from one reading at ``now``.

    A kernel that tells nothing (None) never closes a host, and opens one that an earlier kernel had closed. The reason
    is that of the moment of closing: it does not change with each reading.
    """
    if not state.closed:
        return Admission(closed=_why(pressure, limits))
    if not _is_calm(pressure, limits):
        return replace(state, calm_since=None)
    since = now if state.calm_since is None else state.calm_since
    return Admission() if now - since >= limits.calm else replace(state, calm_since=since)


def _why(pressure: Pressure | None, limits: Thresholds) -> str:
    if pressure is None or (pressure.some_avg10 < limits.close and pressure.full_avg10 < limits.close / 2):
        return ""
    return (
        f"memory pressure: tasks waited for memory {pressure.some_avg10:.0f} % of 10 s, "
        f"all of them {pressure.full_avg10:.0f} %"
    )


def _is_calm(pressure: Pressure | None, limits: Thresholds) -> bool:
    if pressure is None:
        return True
    return max(pressure.some_avg10, pressure.some_avg60, pressure.full_avg10, pressure.full_avg60) < limits.reopen
