"""kill -9 at every named point of a machine's start and stop: the next host process makes all good. Real jailer."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from actors.model.crash_points import CrashPoint as P
from runtime import crash
from tests.actors.host.test_machines import ended
from tests.actors.host.world import World, world
from tests.actors.host.zygote import ROOT

#: Where a start is killed, in the order in which it gets there: the point and for the how manyth time.
START = [
    (P.REPORT_DUE, 1),
    (P.REPORT_WRITTEN, 1),  # claimed
    (P.TEMPLATE_FORMATTED, 1),
    (P.DISK_WRITTEN, 1),
    (P.DISK_MADE, 1),
    (P.TAP_CREATED, 1),
    (P.TAP_MADE, 1),
    (P.TAP_READY, 1),
    (P.REPORT_DUE, 2),
    (P.REPORT_WRITTEN, 2),  # about to start
    (P.CONFIG_WRITTEN, 1),
    (P.INTENT_WRITTEN, 1),
    (P.JAIL_BEGUN, 1),
    (P.JAIL_FILLED, 1),
    (P.GROUP_MADE, 1),
    (P.SPAWNED, 1),
    (P.PID_WRITTEN, 1),
    (P.CONFIGURED, 1),
    (P.GUEST_STARTED, 1),
    (P.BOOT_NOTED, 1),
    (P.APP_STARTED, 1),
    (P.APP_NOTED, 1),
    (P.REPORT_DUE, 3),
    (P.REPORT_WRITTEN, 3),  # runs
]
#: From here on the guest runs, and the next process takes it over.
ADOPTED = START[START.index((P.BOOT_NOTED, 1)) :]
STOP = [
    (P.REPORT_DUE, 4),
    (P.REPORT_WRITTEN, 4),  # stopping
    (P.STOP_ASKED, 1),
    (P.MONITOR_ENDED, 1),
    (P.DISK_DROPPED, 1),
    (P.TAP_DROPPED, 1),
    (P.JAIL_DROPPED, 1),
    (P.RUN_DROPPED, 1),
    (P.MACHINE_DROPPED, 1),
    (P.REPORT_DUE, 5),
    (P.REPORT_WRITTEN, 5),  # removed
    (P.FILES_FORGOTTEN, 1),
    (P.FORGOTTEN, 1),
]
PARK = [
    (P.REPORT_DUE, 4),
    (P.REPORT_WRITTEN, 4),  # stopping
    (P.PARKED, 1),
    (P.STOP_ASKED, 1),
    (P.MONITOR_ENDED, 1),
    (P.TAP_DROPPED, 1),
    (P.MACHINE_DROPPED, 1),
    (P.REPORT_DUE, 5),
    (P.REPORT_WRITTEN, 5),  # assigned again
]
CRASH = [
    (P.MONITOR_ENDED, 1),
    (P.JAIL_DROPPED, 1),
    (P.MACHINE_DROPPED, 1),
    (P.REPORT_DUE, 4),
    (P.REPORT_WRITTEN, 4),  # waiting
    (P.REPORT_WRITTEN, 5),  # claimed once more
    (P.CONFIG_WRITTEN, 2),
    (P.INTENT_WRITTEN, 2),
    (P.JAIL_BEGUN, 2),
    (P.SPAWNED, 2),
    (P.GUEST_STARTED, 2),
    (P.APP_NOTED, 2),
]
#: A machine that is taken over is released once before: whether it was held still, nobody knew.
SNAPSHOT = [
    (P.SNAPSHOT_BEGUN, 1),
    (P.GUEST_HELD, 1),
    (P.STATE_SAVED, 1),
    (P.DISK_SAVED, 1),
    (P.GUEST_RELEASED, 1),
    (P.SNAPSHOT_KEPT, 1),
    (P.SNAPSHOT_TOLD, 1),
]
RESTORE = [
    (P.DISK_MADE, 1),
    (P.PID_WRITTEN, 1),
    (P.INTRODUCED, 1),
    (P.GUEST_STARTED, 1),
    (P.BOOT_NOTED, 1),
]


def named(table: list[tuple[P, int]]) -> list:
    return [pytest.param(f"{point}:{at}", id=f"{point}-{at}") for point, at in table]


@pytest.fixture
def w() -> Iterator[World]:
    with world("minimal") as made:
        yield made


def place(w: World, crash_point: str, **row: object) -> uuid.UUID:
    w.start(crash_point)
    placement = w.place(**row)
    w.wake()
    return placement


def stop(w: World, placement: uuid.UUID) -> None:
    w.store.change(placement, wanted=False)
    if w.process is not None:
        w.wake()


def runs(w: World, placement: uuid.UUID) -> int:
    """Wait until it runs; it has one monitor, and it answers at its address."""
    w.wait_state(placement, "running", 20)
    w.wait(lambda: [vm["phase"] for vm in w.view()["vms"]] == ["running"], "running machine", 10)
    pid = w.monitor(placement)
    assert w.view()["vms"][0]["pid"] == w.vmm_pid(placement) == pid
    assert w.echo("172.31.0.2", b"are you there?") == b"guest:are you there?"
    return pid


def nothing_is_left(w: World, placement: uuid.UUID) -> None:
    row = w.wait_state(placement, "removed", 20)
    w.wait(lambda: not w.remains(placement) and not w.view()["vms"], "clean machine", 10)
    assert w.view()["orphans"] == []
    # Its end was told once, and nothing after it.
    assert [seen["state"] for seen in row["observations"]].count("removed") == 1
    assert row["observations"][-1]["state"] == "removed"


def goes_on(w: World, placement: uuid.UUID) -> None:
    w.start()
    runs(w, placement)
    stop(w, placement)
    nothing_is_left(w, placement)
    assert w.store.row(placement)["observations"][-1]["outcome"] == "stopped"
    w.end()


@pytest.mark.parametrize("crash_point", named(START))
def test_a_start_that_was_killed_is_completed(w: World, crash_point: str) -> None:
    placement = place(w, crash_point)
    w.wait_crash()
    before = w.monitors(placement)
    w.start()
    pid = runs(w, placement)
    if crash_point in [f"{point}:{at}" for point, at in ADOPTED]:
        assert before == [pid]
    else:
        assert all(ended(other) for other in before if other != pid)
        assert pid not in before
    stop(w, placement)
    nothing_is_left(w, placement)
    assert w.store.row(placement)["observations"][-1]["outcome"] == "stopped"
    w.end()


@pytest.mark.parametrize("crash_point", named(START))
def test_a_start_that_was_killed_is_undone_when_nobody_wants_it_any_more(w: World, crash_point: str) -> None:
    placement = place(w, crash_point)
    w.wait_crash()
    stop(w, placement)
    w.start()
    nothing_is_left(w, placement)
    w.end()


@pytest.mark.parametrize("crash_point", named(STOP))
def test_a_stop_that_was_killed_is_completed(w: World, crash_point: str) -> None:
    placement = place(w, crash_point)
    w.wait_state(placement, "running", 20)
    stop(w, placement)
    w.wait_crash()
    told = w.store.row(placement)["state"] != "running"
    w.start()
    nothing_is_left(w, placement)
    outcome = w.store.row(placement)["observations"][-1]["outcome"]
    # The bare guest says nothing at its end. What nobody saw is a stop where the database had been told of one; that is
    # told while the guest is asked and dropped, so that only the end's own report is certain to come after it.
    assert told or crash_point not in (f"{P.REPORT_WRITTEN}:4", *(f"{point}:{at}" for point, at in STOP[-4:]))
    assert outcome in (["stopped"] if told else ["stopped", "unknown"])
    w.end()


@pytest.mark.parametrize("crash_point", named(PARK))
def test_a_machine_that_was_being_parked_starts_again(w: World, crash_point: str) -> None:
    placement = place(w, crash_point)
    w.wait_state(placement, "running", 20)
    disk = (w.paths.placement(placement) / "upper.ext4").stat().st_ino
    w.say("stop-all 90")
    w.wait_crash()
    w.start()
    runs(w, placement)
    assert (w.paths.placement(placement) / "upper.ext4").stat().st_ino == disk
    stop(w, placement)
    nothing_is_left(w, placement)
    w.end()


@pytest.mark.parametrize("crash_point", named(CRASH))
def test_a_machine_that_crashed_runs_again_even_if_its_host_is_killed_over_it(w: World, crash_point: str) -> None:
    placement = place(w, crash_point, restart="always")
    w.wait_state(placement, "running", 20)
    os.kill(w.vmm_pid(placement), signal.SIGKILL)
    w.wait_crash()
    goes_on(w, placement)
    assert w.store.row(placement)["failures"] == 1


def pairs() -> list:
    """Some of all pairs: where a start or a stop is killed, and where the process that makes it good is killed."""
    chance = random.Random(20)
    second = [*START, (P.JAIL_DROPPED, 1), (P.MACHINE_DROPPED, 1), (P.REPORT_WRITTEN, 1), (P.FILES_FORGOTTEN, 1)]
    found = []
    for wanted, first in [(True, START), (False, START), (False, STOP)]:
        for _ in range(5):
            one, two = chance.choice(first), chance.choice(second)
            found.append(pytest.param(wanted, one, two, id=f"{'go' if wanted else 'end'}-{one[0]}-{one[1]}-{two[0]}"))
    return found


@pytest.mark.parametrize(("wanted", "first", "second"), pairs())
def test_a_recovery_that_was_killed_is_recovered_from(
    w: World, wanted: bool, first: tuple[P, int], second: tuple[P, int]
) -> None:
    placement = place(w, f"{first[0]}:{first[1]}")
    if first in STOP:
        w.wait_state(placement, "running", 20)
        stop(w, placement)
    w.wait_crash()
    if not wanted:
        stop(w, placement)
    w.start(f"{second[0]}:1")
    done = "running" if wanted else "removed"
    # The second point need not lie on the way of this recovery.
    assert w.process is not None
    process = w.process
    w.settle(lambda: process.poll() is not None or (w.store.row(placement)["state"] == done and not busy(w, placement)))
    if process.poll() is None:
        w.kill()
    else:
        w.wait_crash()
    if wanted:
        goes_on(w, placement)
    else:
        w.start()
        nothing_is_left(w, placement)
        w.end()


def busy(w: World, placement: uuid.UUID) -> bool:
    return w.store.row(placement)["state"] == "removed" and bool(w.remains(placement))


@pytest.mark.parametrize("hypervisor", ["qemu", "firecracker"])
def test_snapshots_and_restores_that_were_killed_are_made_again_and_hold_nobody_still(hypervisor: str) -> None:
    """A real Linux guest, since the bare one has no agent; one for all points, since it takes seconds to boot."""
    with world(hypervisor) as w:
        placement = w.place()
        w.start()
        w.wait_state(placement, "running")
        assert "hello from the guest" in w.fetch("172.31.0.2")
        pid = w.vmm_pid(placement)
        for crash_point in named(SNAPSHOT):
            w.end()
            w.start(crash_point.values[0])
            w.wait(lambda: [vm for vm in w.view()["vms"] if vm["phase"] == "running"], "adopted machine")
            order = w.store.order(placement)
            w.wake()
            w.wait_crash()
            w.start()
            w.wait(lambda order=order: w.store.snapshot(order)["state"] == "ready", "snapshot", 120)
            assert "hello from the guest" in w.fetch("172.31.0.2"), crash_point
            assert w.vmm_pid(placement) == pid
            assert sorted(path.name for path in w.paths.snapshots.iterdir()) == w.store.ready()
        for index, crash_point in enumerate(named(RESTORE), start=1):
            w.end()
            w.start(crash_point.values[0])
            copy = w.place(restore=w.store.ready()[0], stop_timeout=60.0)
            w.wake()
            w.wait_crash()
            w.start()
            w.wait_state(copy, "running")
            assert "hello from the guest" in w.fetch(f"172.31.0.{2 + index}"), crash_point
            w.store.change(copy, wanted=False)
            w.wake()
            assert w.wait_state(copy, "removed")["observations"][-1]["outcome"] == "stopped"
        w.store.change(placement, wanted=False)
        w.wake()
        w.wait_state(placement, "removed")
        w.wait(lambda: not w.remains(placement), f"clean machine: {w.remains(placement)}", 10)


def test_every_point_is_tried() -> None:
    tried = {point for table in (START, STOP, PARK, CRASH, SNAPSHOT, RESTORE) for point, _ in table}
    assert tried == set(P)
    assert len(P) >= 12


def test_every_point_is_in_one_place() -> None:
    calls: dict[str, int] = {}
    for file in (*ROOT.glob("actors/**/*.py"), *ROOT.glob("zeitwork/**/*.py")):
        for part in file.read_text().split("crash.point(CrashPoint.")[1:]:
            calls[part.split(")")[0]] = calls.get(part.split(")")[0], 0) + 1
    assert calls == {point.name: 1 for point in P}


def test_nothing_in_the_product_arms_a_point() -> None:
    for package in ("runtime", "actors", "zeitwork"):
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text()
            assert "crash.arm" not in text, file
            assert "CRASH_POINT" not in text, file
            assert "import arm" not in text, file


def test_a_point_kills_at_its_count_and_not_before() -> None:
    program = (
        "from runtime import crash\ncrash.arm('b', 2)\nfor name in 'abab': print(name, flush=True); crash.point(name)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout.split()) == (-signal.SIGKILL, ["a", "b", "a", "b"])


def test_what_is_not_armed_passes() -> None:
    for point in P:
        crash.point(point)
    with pytest.raises(ValueError):
        crash.arm("a", 0)
    crash.arm(P.SPAWNED)
    crash.disarm()
    crash.point(P.SPAWNED)
