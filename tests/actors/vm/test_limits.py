"""Limits of a monitor: on fake trees of both versions, and on whatever this machine really has."""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from actors.vm.cgroup import Cgroup
from actors.vm.limits import Limits, ResourceLimits
from actors.vm.machine import Acceleration, Drive, MachineSpec
from actors.vm.process import spawn
from tests.actors.vm.waiting import until

MIB = 1024 * 1024


def machine(tmp_path: Path, **changes: object) -> MachineSpec:
    made = MachineSpec(
        id=uuid4(),
        vcpu=2,
        memory=512,
        kernel=tmp_path / "kernel",
        initrd=None,
        cmdline="",
        drives=(),
        nic=None,
        console=tmp_path / "console.log",
        log=tmp_path / "vmm.log",
        run=tmp_path / "run",
        cgroup="zeitwork/x",
    )
    return replace(made, **changes)


def test_a_machine_gets_its_cpus_and_memory_and_room_for_its_monitor(tmp_path: Path) -> None:
    fast = Limits.of(machine(tmp_path), Acceleration.KVM)
    assert (fast.cpus, fast.quota) == (2, 2.5)
    assert 512 + 96 < fast.memory < 1024
    slow = Limits.of(machine(tmp_path), Acceleration.TCG)
    assert slow.memory > fast.memory
    assert slow.pids == 130


def fake(root: Path, unified: bool, files: tuple[str, ...]) -> None:
    """What the kernel puts into a group, in a tree of plain files."""
    root.mkdir(parents=True, exist_ok=True)
    for name in (*files, "cgroup.procs", *(("cgroup.controllers", "cgroup.subtree_control") if unified else ())):
        (root / name).write_text("")


V2 = ("cpu.weight", "cpu.max", "memory.max", "memory.oom.group", "pids.max")


def test_version_2_is_limited_and_controllers_are_passed_down(tmp_path: Path) -> None:
    fake(tmp_path, True, ())
    fake(tmp_path / "zeitwork", True, ())
    fake(tmp_path / "zeitwork/x", True, V2)
    for group in (tmp_path, tmp_path / "zeitwork"):
        (group / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    group = Cgroup("zeitwork/x", (tmp_path,))
    assert group.create() == (tmp_path / "zeitwork/x/cgroup.procs",)
    # A plain file keeps the last of the three words that were written one by one.
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+pids"
    assert (tmp_path / "zeitwork/cgroup.subtree_control").read_text() == "+pids"
    assert (tmp_path / "zeitwork/x/cgroup.subtree_control").read_text() == ""
    limits = Limits.of(machine(tmp_path), Acceleration.KVM)
    assert group.limit(limits) == ()
    values = {name: (tmp_path / "zeitwork/x" / name).read_text() for name in V2}
    assert values == {
        "cpu.weight": "200",
        "cpu.max": "250000 100000",
        "memory.max": str(limits.memory * MIB),
        "memory.oom.group": "1",
        "pids.max": "130",
    }


def test_version_1_is_limited_hierarchy_by_hierarchy(tmp_path: Path) -> None:
    trees = {
        "cpu,cpuacct": ("cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"),
        "memory": ("memory.limit_in_bytes",),
        "pids": ("pids.max",),
    }
    for name, files in trees.items():
        fake(tmp_path / name / "zeitwork/x", False, files)
    group = Cgroup("zeitwork/x", tuple(tmp_path / name for name in trees))
    limits = Limits.of(machine(tmp_path), Acceleration.TCG)
    assert group.limit(limits) == ()
    assert (tmp_path / "cpu,cpuacct/zeitwork/x/cpu.shares").read_text() == "2048"
    assert (tmp_path / "cpu,cpuacct/zeitwork/x/cpu.cfs_quota_us").read_text() == "250000"
    assert (tmp_path / "memory/zeitwork/x/memory.limit_in_bytes").read_text() == str(limits.memory * MIB)
    assert (tmp_path / "pids/zeitwork/x/pids.max").read_text() == "130"


def test_a_missing_controller_and_one_that_refuses_are_named(tmp_path: Path) -> None:
    fake(tmp_path / "zeitwork/x", True, ("cpu.weight", "cpu.max"))
    (tmp_path / "cgroup.controllers").write_text("cpu")
    (tmp_path / "zeitwork/x/cpu.max").unlink()
    (tmp_path / "zeitwork/x/cpu.max").mkdir()
    missing = Cgroup("zeitwork/x", (tmp_path,)).limit(Limits.of(machine(tmp_path), Acceleration.KVM))
    assert missing == (
        "cpu (cpu.max: Is a directory)",
        "memory (no such controller)",
        "pids (no such controller)",
    )


def test_weights_stay_within_what_the_kernel_takes(tmp_path: Path) -> None:
    limits = Limits.of(machine(tmp_path, vcpu=512), Acceleration.KVM)
    for unified, file, most in ((True, "cpu.weight", "10000"), (False, "cpu.shares", "262144")):
        [weight] = [item.value for item in limits.settings(unified=unified) if item.file == file]
        assert weight == most


def test_the_largest_file_is_a_drive_or_a_snapshot(tmp_path: Path) -> None:
    assert ResourceLimits.of(machine(tmp_path)).file_size == 8192 * MIB
    assert ResourceLimits.of(machine(tmp_path, memory=5000)).file_size == 10_000 * MIB
    with (tmp_path / "disk").open("wb") as disk:
        disk.truncate(20_000 * MIB)
    drives = (Drive("upper", tmp_path / "disk", False), Drive("gone", tmp_path / "gone", False))
    assert ResourceLimits.of(machine(tmp_path, drives=drives)).file_size == 20_000 * MIB


@pytest.fixture
def group() -> Iterator[Cgroup]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes cgroups")
    made = Cgroup.of(f"zeitwork-t{secrets.token_hex(4)}/abc")
    yield made
    made.remove()


async def test_a_real_group_holds_what_it_was_told_before_anybody_enters(group: Cgroup) -> None:
    folder = Path(tempfile.mkdtemp(prefix="zwl-"))
    try:
        enter = group.create()
        limits = Limits.of(machine(folder), Acceleration.KVM)
        missing = {words.split(" ")[0] for words in group.limit(limits)}
        bounds = ResourceLimits(512, 3 * MIB)
        process = spawn(
            ("/bin/sleep", "600"),
            stdout=folder / "out",
            stderr=folder / "err",
            enter=enter,
            limits=bounds,
        )
        try:
            await until(lambda: process.pid in group.members())
            await until(lambda: resource.prlimit(process.pid, resource.RLIMIT_FSIZE) == (3 * MIB, 3 * MIB))
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (512, 512)
            there = {
                "memory": [root / group.name / "memory.limit_in_bytes" for root in group.roots]
                + [root / group.name / "memory.max" for root in group.roots],
                "pids": [root / group.name / "pids.max" for root in group.roots],
            }
            wanted = {"memory": str(limits.memory * MIB), "pids": str(limits.pids)}
            for controller, files in there.items():
                values = [file.read_text().strip() for file in files if file.exists()]
                assert values == [] if controller in missing else wanted[controller] in values
        finally:
            await process.kill()
            process.close()
        await trio.to_thread.run_sync(group.remove)
    finally:
        shutil.rmtree(folder)


async def test_a_file_that_grows_beyond_the_limit_ends_its_writer(tmp_path: Path) -> None:
    process = spawn(
        ("/bin/sh", "-c", "exec cat /dev/zero"),
        stdout=tmp_path / "out",
        stderr=tmp_path / "err",
        limits=ResourceLimits(64, MIB),
    )
    with trio.fail_after(90):
        assert await process.wait() == -25  # SIGXFSZ
    assert (tmp_path / "out").stat().st_size == MIB
    process.close()
