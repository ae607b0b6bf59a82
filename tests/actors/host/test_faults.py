"""What may go wrong on a host, with real parts: a clear reason, and nothing that stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.model.ids import short_id
from actors.vm.cgroup import hierarchies
from actors.vm.console import ROTATE_AT
from actors.vm.work import KEPT_CONSOLE
from tests.actors.host.test_machines import ended
from tests.actors.host.world import World, world

PAGE = 4096


@pytest.fixture
def w() -> Iterator[World]:
    with world("shell") as made:
        yield made


@pytest.fixture
def real() -> Iterator[World]:
    with world("minimal") as made:
        yield made


def stop(w: World, placement: uuid.UUID, **fields: object) -> dict:
    """Stop it, and look that nothing of it stays; return what was told of its end."""
    w.store.change(placement, wanted=False, **fields)
    w.wake()
    return over(w, placement)


def over(w: World, placement: uuid.UUID) -> dict:
    row = w.wait_state(placement, "removed", 30)
    w.wait(lambda: not w.remains(placement), f"clean machine: {w.remains(placement)}", 15)
    return row["observations"][-1]


def step_by_step(w: World, directory: Path, limit: str, unit: int) -> list[str]:
    """Give a directory one unit more again and again, until a machine starts in it; return the reasons why not."""
    reasons = []
    for amount in range(1, 200):
        w.small(directory, **{limit: amount * unit})
        placement = w.place()
        w.wake()
        w.wait(lambda p=placement: w.store.row(p)["state"] in ("running", "removed"), "end of its start", 30)
        if w.store.row(placement)["state"] == "running":
            assert stop(w, placement)["outcome"] == "stopped"
            return reasons
        seen = over(w, placement)
        assert seen["outcome"] == "start_failed"
        reasons.append(seen["reason"])
        # Its console stays for people to read; here it would take what the next one is given more.
        shutil.rmtree(w.paths.placement(placement), ignore_errors=True)
    raise AssertionError("it never started")


@pytest.mark.parametrize(
    ("hypervisor", "directory", "limit", "unit"),
    [
        ("shell", "data/placements", "nr_inodes", 1),
        ("shell", "data/placements", "size", 8 * PAGE),
        ("shell", "data/templates", "nr_inodes", 1),
        ("shell", "data/templates", "size", 8 * PAGE),
        ("shell", "run/vm", "size", PAGE),
        # The jailer copies its program, so it takes more than a monitor alone.
        ("minimal", "data/placements", "nr_inodes", 1),
        ("minimal", "data/placements", "size", 64 * PAGE),
        ("minimal", "run/vm", "nr_inodes", 1),
    ],
)
def test_a_disk_that_is_full_at_any_step_is_told_and_leaves_nothing(
    hypervisor: str, directory: str, limit: str, unit: int
) -> None:
    with world(hypervisor) as w:
        w.start_deadline = 6.0
        w.start()
        reasons = step_by_step(w, w.base / directory, limit, unit)
        assert reasons
        for reason in reasons:
            assert "No space left" in reason or "disk is full" in reason or " is full)" in reason, reason
            assert "free some space there" in reason or "console ends early" in reason, reason


def test_a_console_that_is_flooded_stays_small_and_its_host_responsive(w: World) -> None:
    placement = w.place(argv=["/flood"])
    w.start()
    w.wait_state(placement, "running", 30)
    w.wait(lambda: (w.paths.vm_run(placement) / "flooded").exists(), "flood", 60)
    other = w.place()
    w.wake()
    w.wait_state(other, "running", 30)
    console = w.paths.placement(placement) / "console.log"
    w.wait(console.with_name("console.log.1").exists, "rotated console", 30)
    w.wait(lambda: console.stat().st_size < ROTATE_AT, "small console", 30)
    for item in (placement, other):
        w.store.change(item, wanted=False)
    w.wake()
    assert over(w, other)["outcome"] == over(w, placement)["outcome"] == "stopped"
    # What stays for people to read is its end.
    assert [path.name for path in console.parent.iterdir()] == ["console.log"]
    assert console.stat().st_size <= KEPT_CONSOLE
    assert "halting" in console.read_text()


def test_a_real_guest_floods_its_console() -> None:
    """In a translated guest, whose console is the fastest: smaller limits make up for a tenth of the speed."""
    with world("qemu") as w:
        w.console_limit = 200_000
        placement = w.place(argv=["/flood"])
        w.start()
        w.wait_state(placement, "running")
        console = w.paths.placement(placement) / "console.log"
        w.wait(console.with_name("console.log.2").exists, "second rotation", 120)
        row = w.store.row(placement)
        assert [vm["phase"] for vm in w.view()["vms"]] == ["running"]
        assert stop(w, placement)["outcome"] == "stopped"
        assert row["state"] == "running"
        assert [path.name for path in console.parent.glob("console*")] == ["console.log"]
        assert b"very much to say" in console.read_bytes()


def test_a_monitor_that_was_frozen_is_killed_at_the_deadline(real: World) -> None:
    placement = real.place(stop_timeout=0.1)
    real.start()
    real.wait_state(placement, "running", 20)
    pid = real.vmm_pid(placement)
    os.kill(pid, signal.SIGSTOP)
    assert stop(real, placement)["outcome"] == "killed"
    assert ended(pid)


def test_a_monitor_that_was_frozen_is_taken_over_and_killed_by_force(real: World) -> None:
    placement = real.place()
    real.start()
    real.wait_state(placement, "running", 20)
    pid = real.vmm_pid(placement)
    os.kill(pid, signal.SIGSTOP)
    real.kill()
    real.start()
    real.wait(lambda: [vm["phase"] for vm in real.view()["vms"]] == ["running"], "adopted machine", 10)
    assert stop(real, placement, force=True)["outcome"] == "killed"
    assert ended(pid)


@pytest.mark.parametrize("controllers", [["pids"], ["memory"], ["cpu"], []])
def test_without_a_controller_machines_run_and_the_log_says_what_is_missing(
    real: World, controllers: list[str]
) -> None:
    """No controllers named: no cgroups at all."""
    mounts = hierarchies(Path("/proc/self/mountinfo").read_text())
    real.hidden = [str(path) for path in mounts if not controllers or set(controllers) & set(path.name.split(","))]
    if not real.hidden:
        pytest.skip(f"no hierarchy of {controllers} is mounted here")
    placement = real.place()
    real.start()
    real.wait_state(placement, "running", 20)
    pid = real.vmm_pid(placement)
    [warning] = [line for line in real.log.read_text().splitlines() if "runs without a limit" in line]
    for controller in controllers or ["cpu", "memory", "pids"]:
        assert f"{controller} (no such controller)" in warning
    # It is taken over all the same, by its PID file.
    real.kill()
    real.start()
    real.wait(lambda: [vm["phase"] for vm in real.view()["vms"]] == ["running"], "adopted machine", 10)
    assert real.vmm_pid(placement) == pid
    assert stop(real, placement)["outcome"] == "stopped"
    assert ended(pid)


def test_a_tap_name_that_is_taken_is_told_and_stays_with_its_owner(real: World) -> None:
    placement = real.place()
    name = f"zw{short_id(placement)}"
    subprocess.run(real.inside("ip", "link", "add", name, "type", "bridge"), check=True)
    real.start()
    row = real.wait_state(placement, "removed", 30)
    seen = row["observations"][-1]
    assert seen["outcome"] == "start_failed"
    assert f"there is a network device {name} that is not a TAP of Zeitwork" in seen["reason"]
    real.wait(lambda: real.remains(placement) == ["tap"], "clean machine", 10)
    subprocess.run(real.inside("ip", "link", "del", name), check=True)
