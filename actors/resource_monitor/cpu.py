"""How many CPUs this process may use: affinity, and the tightest quota of its control groups."""

from __future__ import annotations

import os
from pathlib import Path

from actors.resource_monitor.cgroups import own_groups, read_number, read_text
from actors.resource_monitor.messages import CpuTimes

_ROOT = Path("/")


def quota(root: Path = _ROOT) -> float | None:
    """Return the tightest CPU quota over all groups this process is in, in CPUs; None when there is none."""
    found = []
    for groups in own_groups("cpu", root):
        for directory in groups.directories:
            limit = _quota_v2(directory) if groups.version == 2 else _quota_v1(directory)
            if limit is not None:
                found.append(limit)
    return min(found, default=None)


def usable_cpus(root: Path = _ROOT, affinity: int | None = None) -> float:
    """Return the CPUs this process may use, with fractions: what affinity allows, at most the quota."""
    # Of the process and not of the thread that reads: a worker has what was valid when it was made.
    allowed = len(os.sched_getaffinity(os.getpid())) if affinity is None else affinity
    limit = quota(root)
    return float(allowed) if limit is None else min(float(allowed), limit)


def load(root: Path = _ROOT) -> float:
    """Return the load average of one minute, 0 when the kernel does not tell."""
    text = read_text(root / "proc/loadavg")
    try:
        return float((text or "").split()[0])
    except (IndexError, ValueError):
        return 0.0


def cpu_times(root: Path = _ROOT) -> CpuTimes | None:
    """Return how long the machine's CPUs worked, None when the kernel does not tell."""
    lines = [line.split() for line in (read_text(root / "proc/stat") or "").splitlines() if line.startswith("cpu")]
    try:
        # user nice system idle iowait irq softirq steal; what follows, time of guests, is in user and nice already.
        ticks = [int(field) for field in lines[0][1:9]]
        return CpuTimes(sum(ticks) - ticks[3] - ticks[4], sum(ticks), max(1, len(lines) - 1))
    except (IndexError, ValueError):
        return None


def cpus_used(before: CpuTimes, after: CpuTimes) -> float:
    """Return how many CPUs worked between two readings, on average. 0 when no time has passed."""
    total = after.total - before.total
    return max(0, after.busy - before.busy) / total * after.cpus if total > 0 else 0.0


def _quota_v2(directory: Path) -> float | None:
    parts = (read_text(directory / "cpu.max") or "").split()
    if len(parts) != 2 or parts[0] == "max":
        return None
    try:
        return _cpus(int(parts[0]), int(parts[1]))
    except ValueError:
        return None


def _quota_v1(directory: Path) -> float | None:
    allowed = read_number(directory / "cpu.cfs_quota_us")
    period = read_number(directory / "cpu.cfs_period_us")
    return None if allowed is None or period is None else _cpus(allowed, period)


def _cpus(allowed: int, period: int) -> float | None:
    return allowed / period if allowed > 0 and period > 0 else None
