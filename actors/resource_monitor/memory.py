"""Memory of the machine and of the control groups that this process is in. Bytes here, MiB to the outside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.model.errors import Failed
from actors.model.units import KIB
from actors.resource_monitor.cgroups import Groups, own_groups, read_number, read_text
from actors.resource_monitor.messages import HugePages

_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. ``total`` is what the kernel or the tightest limit allows, ``available`` what could be had right now."""

    total: int
    available: int

    @property
    def used(self) -> int:
        """What can't be had."""
        return max(0, self.total - self.available)


def read_memory(root: Path = _ROOT) -> Memory:
    """Return this process's memory. Raises `Failed` when the kernel does not tell the machine's."""
    machine = meminfo(root)
    if "MemTotal" not in machine:
        raise Failed("the size of this machine's memory can't be read from /proc/meminfo", fix="mount /proc")
    # Pages set aside for huge ones are no ordinary guest's; MemAvailable leaves them out by itself.
    total = machine["MemTotal"] - sum(pages.total * pages.size * KIB for pages in hugepages(root))
    available = machine.get("MemAvailable", machine.get("MemFree", 0))
    for groups in own_groups("memory", root):
        for directory in groups.directories:
            limit = _limit(groups, directory)
            # Version 1 says "no limit" with a number larger than any machine.
            if limit is None or limit >= machine["MemTotal"]:
                continue
            total = min(total, limit)
            available = min(available, max(0, limit - _held(groups, directory)))
    return Memory(total=total, available=min(available, total))


def meminfo(root: Path = _ROOT) -> dict[str, int]:
    """Return /proc/meminfo in bytes (counts, such as those of huge pages, as they are)."""
    found = {}
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        parts = rest.split()
        if parts and parts[0].isdecimal():
            found[name] = int(parts[0]) * (KIB if parts[1:] == ["kB"] else 1)
    return found


def hugepages(root: Path = _ROOT) -> tuple[HugePages, ...]:
    """Return the sizes of huge pages that this kernel has, smallest first."""
    found = []
    for directory in (root / "sys/kernel/mm/hugepages").glob("hugepages-*kB"):
        size = directory.name.removeprefix("hugepages-").removesuffix("kB")
        total = read_number(directory / "nr_hugepages")
        free = read_number(directory / "free_hugepages")
        if size.isdecimal() and total is not None and free is not None:
            found.append(HugePages(int(size), total, free))
    return tuple(sorted(found, key=lambda pages: pages.size))


def _limit(groups: Groups, directory: Path) -> int | None:
    names = ("memory.max", "memory.high") if groups.version == 2 else ("memory.limit_in_bytes",)
    limits = [limit for name in names if (limit := read_number(directory / name)) is not None]
    return min(limits, default=None)


def _held(groups: Groups, directory: Path) -> int:
    """Return what the group holds and would not give back: its usage without the cache that is easily dropped."""
    usage, reclaimable = ("memory.current", "inactive_file")
    if groups.version == 1:
        usage, reclaimable = ("memory.usage_in_bytes", "total_inactive_file")
    held = read_number(directory / usage) or 0
    for line in (read_text(directory / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == reclaimable and value.isdecimal():
            return max(0, held - int(value))
    return held
