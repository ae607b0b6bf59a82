"""What a virtual machine's monitor takes beside its guest's memory, read from /proc. Blocking."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from actors.model.units import KIB, MIB
from actors.resource_monitor.cgroups import groups_of, read_number, read_text
from actors.resource_monitor.messages import Monitor

_ROOT = Path("/")
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)(?: |$)")


@dataclass(slots=True)
class Mapping:
    """One line of /proc/PID/smaps with what is below it. Sizes in KiB; ``inode`` 0 is memory without a file."""

    size: int
    executable: bool
    inode: int
    resident: int = 0
    share: int = 0
    anonymous: int = 0
    dirty: int = 0

    @property
    def needed(self) -> int:
        """KiB of this process's share that the kernel can't simply drop and read again, program code excepted.

        QEMU maps the whole guest kernel from its file and never looks at it again: that costs nobody anything.
        """
        if self.inode == 0 or self.executable:
            return self.share
        return min(self.share, max(self.anonymous, self.dirty))


def read_overheads(monitors: Iterable[Monitor], root: Path = _ROOT) -> dict[Monitor, int]:
    """Return KiB for each monitor that could be read; one that has ended, or whose guest is not found, is left out."""
    found = {}
    for monitor in monitors:
        overhead = read_overhead(monitor, root)
        if overhead is not None:
            found[monitor] = overhead
    return found


def read_overhead(monitor: Monitor, root: Path = _ROOT) -> int | None:
    """Return the KiB that a monitor takes beside its guest's memory, None when that can't be told.

    That is its share of resident memory without the guest's, and what the kernel keeps for it: page tables and, where
    its control group is its own, all else that the group is charged for. Reading takes some milliseconds for each GiB
    that the guest has touched.
    """
    directory = root / "proc" / str(monitor.pid)
    text = read_text(directory / "smaps")
    if not text:
        return None
    mappings = parse_smaps(text)
    guest = guest_mappings(mappings, monitor.memory * MIB // KIB)
    if guest is None:
        return None
    own = sum(mapping.needed for mapping in mappings if mapping not in guest)
    # A mapping can hold more than the guest where the kernel merged neighbours; of those only what is beyond a full
    # guest can be told. Firecracker and QEMU both keep a guard page around it.
    own += max(0, sum(mapping.share for mapping in guest) - monitor.memory * MIB // KIB)
    return own + max(_page_tables(directory), _charged(monitor.pid, root))


def parse_smaps(text: str) -> list[Mapping]:
    """Return the mappings that /proc/PID/smaps tells of. Lines that mean nothing here are skipped."""
    found: list[Mapping] = []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head is not None:
            size = (int(head[2], 16) - int(head[1], 16)) // KIB
            found.append(Mapping(size, "x" in head[3], int(head[4])))
            continue
        name, _, rest = line.partition(":")
        parts = rest.split()
        if not found or len(parts) != 2 or parts[1] != "kB" or not parts[0].isdecimal():
            continue
        match name:
            case "Rss":
                found[-1].resident = int(parts[0])
            case "Pss":
                found[-1].share = int(parts[0])
            case "Anonymous":
                found[-1].anonymous = int(parts[0])
            case "Shared_Dirty" | "Private_Dirty":
                found[-1].dirty += int(parts[0])
            case _:
                pass
    return found


def guest_mappings(mappings: Collection[Mapping], memory: int) -> list[Mapping] | None:
    """Return those that back a guest of ``memory`` KiB, None when there are none.

    They are known by their size: one that is exactly that large, two that are so together (the guest's memory has a
    gap below 4 GiB), or the smallest one that is larger (the kernel merges neighbours). Of equals, the fullest.
    """
    exact = [mapping for mapping in mappings if mapping.size == memory]
    if exact:
        return [max(exact, key=lambda mapping: mapping.resident)]
    pairs = [
        [first, second]
        for first in mappings
        for second in mappings
        if first.size > second.size and first.size + second.size == memory
    ]
    if pairs:
        return max(pairs, key=lambda pair: pair[0].resident + pair[1].resident)
    larger = [mapping for mapping in mappings if mapping.size > memory and not mapping.executable]
    return [min(larger, key=lambda mapping: mapping.size)] if larger else None


def _page_tables(directory: Path) -> int:
    """Return the KiB of a process's page tables, 0 when the kernel does not tell."""
    for line in (read_text(directory / "status") or "").splitlines():
        name, _, rest = line.partition(":")
        parts = rest.split()
        if name == "VmPTE" and len(parts) == 2 and parts[0].isdecimal():
            return int(parts[0])
    return 0


def _charged(pid: int, root: Path) -> int:
    """Return the KiB of kernel memory of a process's control group, 0 where it shares the group or nothing is told."""
    most = 0
    for groups in groups_of("memory", str(pid), root):
        if not groups.directories:
            continue
        directory = groups.directories[0]
        if (read_text(directory / "cgroup.procs") or "").split() != [str(pid)]:
            continue
        if groups.version == 1:
            most = max(most, (read_number(directory / "memory.kmem.usage_in_bytes") or 0) // KIB)
            continue
        for line in (read_text(directory / "memory.stat") or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "kernel" and value.isdecimal():
                most = max(most, int(value) // KIB)
    return most
