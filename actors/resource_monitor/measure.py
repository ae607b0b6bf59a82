"""One reading of the machine."""

from __future__ import annotations

from pathlib import Path

from actors.model.units import bytes_to_mib
from actors.resource_monitor.capacity import CapacityPolicy, compute_capacity
from actors.resource_monitor.cpu import cpu_times, load, usable_cpus
from actors.resource_monitor.memory import hugepages, read_memory
from actors.resource_monitor.messages import ResourceSnapshot
from actors.resource_monitor.pressure import memory_pressure, read_pressure


def measure(at: float, policy: CapacityPolicy, hypervisor: str | None, root: Path = Path("/")) -> ResourceSnapshot:
    """Read everything; ``at`` is the time to write on it. Some twenty small kernel files: not for the event loop.

    Raises `Failed` when the kernel does not tell the size of the memory.
    """
    memory = read_memory(root)
    cpus = usable_cpus(root)
    return ResourceSnapshot(
        at=at,
        capacity=compute_capacity(cpus, bytes_to_mib(memory.total), policy, hypervisor),
        cpus=cpus,
        load=load(root),
        memory_used=bytes_to_mib(memory.used),
        memory_available=bytes_to_mib(memory.available),
        cpu_pressure=read_pressure("cpu", root),
        memory_pressure=memory_pressure(root),
        io_pressure=read_pressure("io", root),
        hugepages=hugepages(root),
        cpu_times=cpu_times(root),
    )
