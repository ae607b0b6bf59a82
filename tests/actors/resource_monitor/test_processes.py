"""What monitors take beside their guests: kernel files as found, and real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.resource_monitor.messages import Monitor
from actors.resource_monitor.processes import Mapping, guest_mappings, parse_smaps, read_overhead, read_overheads
from tests.actors.resource_monitor.machine import Machine

GUEST = "7f0000000000-7f0008000000 rw-p 00000000 00:00 0 "
PROGRAM = "55f000000000-55f0001f2000 r-xp 00000000 fe:00 77                         /usr/bin/fire cracker"
KERNEL = "7f1000000000-7f1003000000 rw-p 00000000 fe:00 78                         /guest/vmlinux (deleted)"
HEAP = "55f100000000-55f100100000 rw-p 00000000 00:00 0                          [heap]"


def smaps(*entries: tuple[str, dict[str, int]]) -> str:
    lines = []
    for head, values in entries:
        lines.append(head)
        lines += [f"{name}:{value:>15} kB" for name, value in values.items()]
        lines += ["THPeligible:           0", "VmFlags: rd wr mr mw me ac sd"]
    return "\n".join(lines)


TYPICAL = smaps(
    (PROGRAM, {"Rss": 1600, "Pss": 800, "Private_Dirty": 0, "Anonymous": 0}),
    (KERNEL, {"Rss": 45000, "Pss": 22000, "Shared_Dirty": 4, "Private_Dirty": 8, "Anonymous": 12}),
    (GUEST, {"Rss": 90000, "Pss": 90000, "Private_Dirty": 90000, "Anonymous": 90000}),
    (HEAP, {"Rss": 700, "Pss": 700, "Private_Dirty": 700, "Anonymous": 700}),
)
MONITOR = Monitor(UUID(int=1), 4711, 128, "firecracker")


def test_the_share_of_all_but_the_guest_and_of_files_that_can_be_dropped(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write("proc/4711/smaps", TYPICAL)
    machine.write("proc/4711/status", "Name:\tx\nVmPTE:\t     96 kB\nVmSwap:\t 0 kB")
    assert read_overhead(MONITOR, machine.root) == 800 + 12 + 700 + 96


def test_what_the_kernel_charges_the_group_counts_where_the_group_is_its_own(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.v1("memory", "/", point="/sys/fs/cgroup/memory")
    machine.v2("/", point="/sys/fs/cgroup/unified")
    machine.write("proc/4711/smaps", TYPICAL)
    machine.write("proc/4711/status", "VmPTE:\t     96 kB")
    machine.write("proc/4711/cgroup", "2:memory:/zw/a\n0::/zw/a")
    machine.write("sys/fs/cgroup/memory/zw/a/cgroup.procs", "4711")
    machine.write("sys/fs/cgroup/memory/zw/a/memory.kmem.usage_in_bytes", 1500 * 1024)
    assert read_overhead(MONITOR, machine.root) == 1512 + 1500
    machine.write("sys/fs/cgroup/memory/zw/a/cgroup.procs", "4711\n4712")
    assert read_overhead(MONITOR, machine.root) == 1512 + 96
    machine.write("sys/fs/cgroup/unified/zw/a/cgroup.procs", "4711")
    machine.write("sys/fs/cgroup/unified/zw/a/memory.stat", f"anon 1\nkernel {2000 * 1024}\nkernel_stack 5")
    assert read_overhead(MONITOR, machine.root) == 1512 + 2000


@pytest.mark.parametrize("text", ["", "nonsense", "a-b rw-p", HEAP, "Rss: 5 kB\n" + HEAP + "\nRss: many kB"])
def test_what_can_not_be_told_is_not_guessed(tmp_path: Path, text: str) -> None:
    machine = Machine(tmp_path)
    machine.write("proc/4711/smaps", text)
    assert read_overhead(MONITOR, machine.root) is None


def test_one_that_has_ended_is_left_out(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write("proc/4711/smaps", TYPICAL)
    gone = Monitor(UUID(int=2), 4712, 128, "firecracker")
    assert set(read_overheads((gone, MONITOR), machine.root)) == {MONITOR}


def mapping(size: int, resident: int = 0, *, executable: bool = False) -> Mapping:
    return Mapping(size, executable, 0, resident, resident, resident, resident)


def test_a_guest_is_known_by_its_size() -> None:
    exact, other = mapping(4096, 10), mapping(9000, 5000)
    assert guest_mappings([other, exact], 4096) == [exact]
    # Of two, the one that is used.
    fuller = mapping(4096, 4000)
    assert guest_mappings([exact, fuller, other], 4096) == [fuller]
    # A large guest has a gap below 4 GiB.
    low, high = mapping(3 << 20, 100), mapping(1 << 20, 7)
    assert guest_mappings([other, low, high], 4 << 20) == [low, high]
    # Two neighbours that the kernel made one; never program code.
    assert guest_mappings([other, mapping(4100, executable=True), mapping(100_000)], 4096) == [other]
    assert guest_mappings([mapping(100)], 4096) is None


def test_what_a_merged_mapping_holds_beyond_the_guest_counts(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    merged = "7f0000000000-7f0008800000 rw-p 00000000 00:00 0 "
    machine.write("proc/4711/smaps", smaps((merged, {"Rss": 131072 + 3000, "Pss": 131072 + 3000})))
    assert read_overhead(MONITOR, machine.root) == 3000


@given(st.text(alphabet="0123456789abcdef- rwxp:kB\nRssPAnonymous", max_size=300))
def test_no_text_breaks_it(text: str) -> None:
    for found in parse_smaps(text):
        assert found.needed >= 0


HOLDS = """
import mmap, sys
guest = mmap.mmap(-1, 96 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
# Of another kind than its neighbour, or the kernel would make them one.
own = mmap.mmap(-1, 24 << 20, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
for area, used in ((guest, int(sys.argv[1])), (own, int(sys.argv[2]))):
    for at in range(0, used << 20, 4096):
        area[at] = 1
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(guest: int, own: int) -> Iterator[int]:
    """Yield the PID of a process with a guest of 96 MiB that it uses that many of, and so many beside it."""
    command = [sys.executable, "-c", HOLDS, str(guest), str(own)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.communicate(timeout=90)


def test_a_real_process() -> None:
    with holding(0, 0) as idle, holding(80, 0) as busy, holding(80, 20) as large:
        found = [read_overhead(Monitor(UUID(int=1), pid, 96, "firecracker")) for pid in (idle, busy, large)]
    bare, same, more = (value or 0 for value in found)
    assert bare > 1000
    # Page tables of 80 MiB are all that a busy guest costs, those of small pages at most.
    assert 0 <= same - bare < 1024
    assert 20 * 1024 <= more - same < 21 * 1024
