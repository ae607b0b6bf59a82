"""Pressure stall information: how long tasks waited for CPU, memory and disks."""

from __future__ import annotations

from pathlib import Path

from actors.resource_monitor.cgroups import own_groups, read_text
from actors.resource_monitor.messages import Pressure


def read_pressure(resource: str, root: Path = Path("/")) -> Pressure | None:
    """Return the pressure on ``cpu``, ``memory`` or ``io``; None where the kernel does not measure it."""
    text = read_text(root / "proc/pressure" / resource)
    return None if text is None else parse_pressure(text)


def memory_pressure(root: Path = Path("/")) -> Pressure | None:
    """Return the pressure on memory: the machine's, or that of the highest group in sight where it is worse.

    In a container that group is the container, whose limit may be tight while the machine is idle.
    """
    found = [read_pressure("memory", root)]
    for groups in own_groups("memory", root):
        if groups.version == 2 and groups.directories:
            text = read_text(groups.directories[-1] / "memory.pressure")
            found.append(None if text is None else parse_pressure(text))
    known = [pressure for pressure in found if pressure is not None]
    return max(known, key=lambda pressure: (pressure.some_avg10, pressure.full_avg10), default=None)


def cpu_waiting(pressure: Pressure | None, load: float, cpus: float) -> float:
    """Return the share of the last minute in which tasks waited for a CPU, 0 to 1, in hundredths.

    Where the kernel does not measure that, it is how much of ``cpus`` the load average takes: coarser, and no less when
    there is too much to do.
    """
    share = load / max(cpus, 0.01) if pressure is None else pressure.some_avg60 / 100
    return round(min(1.0, max(0.0, share)), 2)


def parse_pressure(text: str) -> Pressure | None:
    """Return what a file of /proc/pressure says, None when it says something else (old kernels: no "full" of CPUs)."""
    lines: dict[str, dict[str, float]] = {}
    try:
        for line in text.splitlines():
            kind, *pairs = line.split()
            lines[kind] = {name: float(value) for name, value in (pair.split("=", 1) for pair in pairs)}
        some, full = lines["some"], lines.get("full", {})
        return Pressure(some["avg10"], some["avg60"], full.get("avg10", 0.0), full.get("avg60", 0.0))
    except (ValueError, KeyError):
        return None
