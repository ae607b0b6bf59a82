from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from actors.resource_monitor.cpu import cpu_times, cpus_used, load, quota, usable_cpus
from tests.actors.resource_monitor.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_control_groups_affinity_decides(machine: Machine) -> None:
    assert quota(machine.root) is None
    assert usable_cpus(machine.root, affinity=6) == 6.0


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("max 100000", None),
        ("150000 100000", 1.5),
        ("50000 100000", 0.5),
        ("", None),
        ("x y", None),
        ("100000 0", None),
    ],
)
def test_version_2(machine: Machine, text: str, cpus: float | None) -> None:
    machine.v2("/system.slice/zeitwork.service")
    machine.write("sys/fs/cgroup/system.slice/zeitwork.service/cpu.max", text)
    assert quota(machine.root) == cpus


@pytest.mark.parametrize(
    ("allowed", "period", "cpus"),
    [(-1, 100000, None), (250000, 100000, 2.5), (20000, 50000, 0.4), (100000, 0, None), ("", 5, None)],
)
def test_version_1(machine: Machine, allowed: object, period: object, cpus: float | None) -> None:
    machine.v1("cpu,cpuacct", "/docker/abc")
    machine.write("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", allowed)
    machine.write("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", period)
    assert quota(machine.root) == cpus


@pytest.mark.parametrize("tight", ["a", "a/b", "a/b/c"])
def test_the_tightest_ancestor_counts_wherever_it_is(machine: Machine, tight: str) -> None:
    machine.v2("/a/b/c")
    for group in ("a", "a/b", "a/b/c"):
        machine.write(f"sys/fs/cgroup/{group}/cpu.max", "300000 100000" if group == tight else "800000 100000")
    assert usable_cpus(machine.root, affinity=16) == 3.0


def test_affinity_and_quota_both_bind(machine: Machine) -> None:
    machine.v2("/a")
    machine.write("sys/fs/cgroup/a/cpu.max", "300000 100000")
    assert usable_cpus(machine.root, affinity=2) == 2.0
    assert usable_cpus(machine.root, affinity=4) == 3.0


def test_both_versions_at_once(machine: Machine) -> None:
    machine.v1("cpu", "/x")
    machine.v2("/y", point="/sys/fs/cgroup/unified")
    machine.write("sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", 400000)
    machine.write("sys/fs/cgroup/cpu/x/cpu.cfs_period_us", 100000)
    machine.write("sys/fs/cgroup/unified/y/cpu.max", "200000 100000")
    assert quota(machine.root) == 2.0


def test_a_container_with_its_own_namespace_sees_its_limit_at_the_top(machine: Machine) -> None:
    machine.v2("/")
    machine.write("sys/fs/cgroup/cpu.max", "150000 100000")
    assert quota(machine.root) == 1.5


def test_a_container_without_a_namespace_sees_the_machines_path_and_its_own_mount(machine: Machine) -> None:
    machine.v1("cpu,cpuacct", "/docker/abc/inner", root="/docker/abc")
    machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", 300000)
    machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", 100000)
    machine.write("sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_quota_us", 200000)
    machine.write("sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_period_us", 100000)
    assert quota(machine.root) == 2.0


@pytest.mark.parametrize("own", ["/docker/abc", "/../../other", "/gone/for/good"])
def test_a_path_that_can_not_be_seen_falls_back_to_what_is_mounted(machine: Machine, own: str) -> None:
    machine.v2(own)
    machine.write("sys/fs/cgroup/cpu.max", "100000 100000")
    assert quota(machine.root) == 1.0


def test_a_mount_point_with_a_space(machine: Machine) -> None:
    machine.v2("/a", point="/mnt/my\\040groups")
    machine.write("mnt/my groups/a/cpu.max", "70000 100000")
    assert quota(machine.root) == 0.7


@pytest.mark.parametrize("broken", ["", "nonsense", "1 2 - cgroup", "a:b", ":::", "0::"])
def test_files_that_make_no_sense_limit_nothing(machine: Machine, broken: str) -> None:
    machine.write("proc/self/mountinfo", broken)
    machine.write("proc/self/cgroup", broken)
    assert usable_cpus(machine.root, affinity=3) == 3.0


def test_this_machine() -> None:
    allowed = len(os.sched_getaffinity(0))
    assert 0 < usable_cpus() <= allowed == len(psutil.Process().cpu_affinity() or ())
    if quota() is None:
        assert usable_cpus() == allowed
    assert load() >= 0


def test_affinity_of_this_process_is_followed() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cpus() <= 1.0
    finally:
        os.sched_setaffinity(0, before)


def test_load(machine: Machine) -> None:
    assert load(machine.root) == 0.0
    machine.write("proc/loadavg", "1.25 0.5 0.1 1/100 4242")
    assert load(machine.root) == 1.25


def test_how_many_cpus_worked(machine: Machine) -> None:
    assert cpu_times(machine.root) is None
    machine.write("proc/stat", "cpu  100 10 90 700 100 0 0 0 50 0\ncpu0 1 1 1 1 1\ncpu1 1 1 1 1 1\nintr 7")
    before = cpu_times(machine.root)
    machine.write("proc/stat", "cpu  150 10 110 800 130 0 0 0 60 0\ncpu0 1 1 1 1 1\ncpu1 1 1 1 1 1\nintr 7")
    after = cpu_times(machine.root)
    assert before is not None
    assert after is not None
    assert (before.busy, before.total, before.cpus) == (200, 1000, 2)
    assert cpus_used(before, after) == 70 / 200 * 2
    assert cpus_used(after, after) == 0.0


def test_this_machines_cpus_work() -> None:
    found = cpu_times()
    assert found is not None
    assert 0 < found.busy < found.total


def test_a_changed_affinity_is_noticed_by_threads_that_are_older() -> None:
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("this process may use one CPU only")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(usable_cpus).result() > 1 or quota() is not None
        os.sched_setaffinity(os.getpid(), {min(before)})
        try:
            assert pool.submit(usable_cpus).result() <= 1
        finally:
            os.sched_setaffinity(os.getpid(), before)
