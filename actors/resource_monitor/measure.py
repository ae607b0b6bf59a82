"""One reading of the machine."""

from __future__ import annotations

import os

from actors.resource_monitor.capacity import Policy, capacity
from actors.resource_monitor.cgroups import Machine
from actors.resource_monitor.cpu import usable_cpus
from actors.resource_monitor.memory import huge_pages, usable_memory
from actors.resource_monitor.messages import ResourceSnapshot
from actors.resource_monitor.pressure import read_pressure


def measure(policy: Policy, machine: Machine, at: float) -> ResourceSnapshot:
    """Read everything. Some twenty small kernel files: well below a millisecond each, but not for the event loop."""
    cpus = usable_cpus(machine)
    memory = usable_memory(machine)
    return ResourceSnapshot(
        at=at,
        capacity=capacity(cpus, memory.total, policy),
        cpus=cpus,
        load=os.getloadavg()[0],
        memory_used=memory.used,
        memory_available=memory.available,
        cpu_pressure=read_pressure("cpu", machine),
        memory_pressure=read_pressure("memory", machine),
        io_pressure=read_pressure("io", machine),
        hugepages=huge_pages(machine),
    )
