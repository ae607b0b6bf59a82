from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from actors.model.errors import Failed
from actors.resource_monitor.memory import hugepages, meminfo, read_memory
from actors.resource_monitor.messages import HugePages, Pressure
from actors.resource_monitor.pressure import parse_pressure, read_pressure
from tests.actors.resource_monitor.machine import GIB, UNLIMITED_V1, Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_machines_own(machine: Machine) -> None:
    memory = read_memory(machine.root)
    assert (memory.total, memory.available, memory.used) == (16 * GIB, 12 * GIB, 4 * GIB)
    assert meminfo(machine.root)["HugePages_Total"] == 3


def test_version_2_takes_the_lower_of_max_and_high(machine: Machine) -> None:
    machine.v2("/a")
    machine.write("sys/fs/cgroup/a/memory.max", 4 * GIB)
    machine.write("sys/fs/cgroup/a/memory.high", "max")
    machine.write("sys/fs/cgroup/a/memory.current", 3 * GIB)
    machine.write("sys/fs/cgroup/a/memory.stat", f"anon 5\ninactive_file {GIB}\nactive_file 7")
    memory = read_memory(machine.root)
    assert (memory.total, memory.available) == (4 * GIB, 2 * GIB)
    machine.write("sys/fs/cgroup/a/memory.high", 3 * GIB)
    assert read_memory(machine.root).total == 3 * GIB


def test_version_1_and_its_way_to_say_unlimited(machine: Machine) -> None:
    machine.v1("memory", "/docker/abc")
    machine.write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", UNLIMITED_V1)
    assert read_memory(machine.root).total == 16 * GIB
    machine.write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", 2 * GIB)
    machine.write("sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", GIB)
    machine.write("sys/fs/cgroup/memory/docker/abc/memory.stat", f"inactive_file 1\ntotal_inactive_file {GIB // 2}")
    memory = read_memory(machine.root)
    assert (memory.total, memory.available, memory.used) == (2 * GIB, 3 * GIB // 2, GIB // 2)


@pytest.mark.parametrize("tight", ["", "a/", "a/b/"])
def test_the_tightest_ancestor_counts(machine: Machine, tight: str) -> None:
    machine.v2("/a/b")
    for group in ("", "a/", "a/b/"):
        machine.write(f"sys/fs/cgroup/{group}memory.max", GIB if group == tight else 8 * GIB)
    assert read_memory(machine.root).total == GIB


def test_a_full_group_has_nothing_left_and_never_less(machine: Machine) -> None:
    machine.v2("/a")
    machine.write("sys/fs/cgroup/a/memory.max", GIB)
    machine.write("sys/fs/cgroup/a/memory.current", 2 * GIB)
    memory = read_memory(machine.root)
    assert (memory.available, memory.used) == (0, GIB)


def test_what_the_machine_has_not_got_no_group_can_have(machine: Machine) -> None:
    machine.v2("/a")
    machine.write("sys/fs/cgroup/a/memory.max", 14 * GIB)
    machine.write("sys/fs/cgroup/a/memory.current", 0)
    assert read_memory(machine.root).available == 12 * GIB


def test_memory_that_is_plugged_in_is_seen_at_the_next_reading(machine: Machine) -> None:
    machine.write("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 33000000 kB")
    assert read_memory(machine.root).total == 32 * GIB


def test_without_proc_the_problem_says_so(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="meminfo") as caught:
        read_memory(tmp_path)
    assert caught.value.fix == "mount /proc"


def test_huge_pages(machine: Machine) -> None:
    assert hugepages(machine.root) == ()
    for size, total, free in ((1048576, 2, 1), (2048, 128, 100)):
        machine.write(f"sys/kernel/mm/hugepages/hugepages-{size}kB/nr_hugepages", total)
        machine.write(f"sys/kernel/mm/hugepages/hugepages-{size}kB/free_hugepages", free)
    assert hugepages(machine.root) == (HugePages(2048, 128, 100), HugePages(1048576, 2, 1))


PSI = "some avg10=1.50 avg60=0.25 avg300=0.00 total=123\nfull avg10=0.50 avg60=0.10 avg300=0.00 total=45"


def test_pressure(machine: Machine) -> None:
    assert read_pressure("memory", machine.root) is None
    machine.write("proc/pressure/memory", PSI)
    assert read_pressure("memory", machine.root) == Pressure(1.5, 0.25, 0.5, 0.1)
    assert parse_pressure(PSI.splitlines()[0]) == Pressure(1.5, 0.25, 0.0, 0.0)


@pytest.mark.parametrize("text", ["", "some", "some avg10", "some avg10=x avg60=1", "full avg10=1 avg60=2"])
def test_pressure_that_makes_no_sense_is_no_pressure(text: str) -> None:
    assert parse_pressure(text) is None


def test_this_machine() -> None:
    memory, told = read_memory(), psutil.virtual_memory()
    assert 0 < memory.total <= told.total
    assert 0 <= memory.available <= memory.total
    assert meminfo()["MemTotal"] == told.total
