"""What nobody looks after: destroyed with all that belongs to it when the database says so, else left alone and told.

Real Firecracker and jailer, but for what a monitor double shows as well.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from actors.model.crash_points import CrashPoint
from actors.vm.process import Identity, boot_id, read_stat
from tests.actors.host.test_machines import ended
from tests.actors.host.world import World, world


@pytest.fixture
def w() -> Iterator[World]:
    with world("minimal") as made:
        yield made


@pytest.fixture
def innocent() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def left_alone(w: World, at: str = "") -> uuid.UUID:
    """Return a placement that runs, or whose start was killed at a point, and that no host process looks after."""
    w.start(at)
    placement = w.place()
    w.wake()
    if at:
        w.wait_crash()
    else:
        w.wait_state(placement, "running", 20)
        w.kill()
        w.rest()
    return placement


def own(w: World, placement: uuid.UUID) -> list[str]:
    """What remains of it; a half-made template is nobody's, and neither are rules of a TAP that was not made yet."""
    there = w.remains(placement)
    return sorted(item for item in there if "templates" not in item and (item != "rules" or "tap" in there))


#: Started, half started, and begun so early that nothing says for which cluster.
MOMENTS = ["", CrashPoint.SPAWNED, CrashPoint.INTENT_WRITTEN, CrashPoint.DISK_WRITTEN, CrashPoint.TAP_READY]


@pytest.mark.parametrize("at", MOMENTS)
def test_with_a_tombstone_all_of_it_is_destroyed(w: World, at: str) -> None:
    placement = left_alone(w, at)
    assert w.remains(placement)
    # As after the node was deleted: the database did not wait for this host's word.
    w.store.change(placement, state="removed")
    w.start()
    w.wait(lambda: not w.remains(placement), f"clean machine: {w.remains(placement)}", 10)
    assert w.view()["vms"] == []
    assert w.wait(lambda: not w.view()["orphans"], "forgotten orphan", 10)


@pytest.mark.parametrize("at", MOMENTS)
def test_without_a_tombstone_none_of_it_is_touched(w: World, at: str) -> None:
    placement = left_alone(w, at)
    w.store.delete(placement)
    before = own(w, placement)
    w.start()
    assert w.wait(lambda: w.view()["orphans"], "orphan", 10) == [str(placement)]
    w.wake()
    w.wait(lambda: w.view()["reconciled"], "reading", 10)
    assert own(w, placement) == before
    assert w.log.read_text().count("left alone") == 1


@pytest.mark.parametrize("at", ["", CrashPoint.INTENT_WRITTEN])
def test_a_tombstone_of_another_cluster_destroys_nothing(w: World, at: str) -> None:
    placement = left_alone(w, at)
    w.store.change(placement, state="removed")
    w.cluster = "cluster-b"
    before = own(w, placement)
    w.start()
    assert w.wait(lambda: w.view()["orphans"], "orphan", 10) == [str(placement)]
    assert own(w, placement) == before


def test_what_is_left_of_a_placement_does_not_stop_a_new_start_of_it(w: World) -> None:
    """A jail under the same ID, a socket that nobody listens on, a PID file that makes no sense."""
    placement = w.place()
    run, data = w.paths.vm_run(placement), w.paths.placement(placement)
    root = data / "jail" / "firecracker" / run.name / "root"
    (root / "dev/net").mkdir(parents=True)
    (root / "dev/net/tun").touch()
    (root / "kernel").write_bytes(b"an older one")
    run.mkdir(parents=True)
    (run / "api.sock").touch()
    (run / "vmm.json").write_text('{"identity": 7}')
    (data / "intent.json").write_text("{")
    (data / ".upper.ext4.new").touch()
    w.start()
    w.wait_state(placement, "running", 20)
    w.monitor(placement)
    w.store.change(placement, wanted=False)
    w.wake()
    w.wait_state(placement, "removed", 20)
    w.wait(lambda: not w.remains(placement), f"clean machine: {w.remains(placement)}", 10)


class TestRecycledPid:
    """The PID file names somebody else's process: a monitor double, whose PID was given away."""

    @pytest.fixture
    def w(self) -> Iterator[World]:
        with world("shell") as made:
            yield made

    def point_at(self, w: World, placement: uuid.UUID, identity: Identity) -> int:
        """Have the PID file say so, once the real monitor is gone; return that one's PID."""
        file = w.paths.vm_run(placement) / "vmm.json"
        content = json.loads(file.read_text())
        before = Identity(**content["identity"])
        w.kill_monitors(placement)
        file.write_text(json.dumps({**content, "identity": dataclasses.asdict(identity)}))
        return before.pid

    def identities(self, innocent: subprocess.Popen[bytes]) -> dict[str, Identity]:
        stat = read_stat(innocent.pid)
        assert stat is not None
        return {
            "another start": Identity(innocent.pid, stat[1] - 100, boot_id()),
            "another boot": Identity(innocent.pid, stat[1], "another-boot"),
            # Even one that is right in all of that: it is not in the machine's cgroup.
            "another cgroup": Identity(innocent.pid, stat[1], boot_id()),
        }

    @pytest.mark.parametrize("how", ["another start", "another boot", "another cgroup"])
    @pytest.mark.parametrize("wanted", [True, False])
    def test_it_is_neither_taken_over_nor_hit(
        self, w: World, innocent: subprocess.Popen[bytes], how: str, wanted: bool
    ) -> None:
        placement = left_alone(w)
        self.point_at(w, placement, self.identities(innocent)[how])
        w.store.change(placement, wanted=wanted, force=True)
        w.start()
        w.wait_state(placement, "removed", 20)
        assert not ended(innocent.pid)
        assert innocent.poll() is None

    def test_it_is_not_hit_when_leftovers_are_destroyed(self, w: World, innocent: subprocess.Popen[bytes]) -> None:
        for how in self.identities(innocent):
            placement = left_alone(w)
            self.point_at(w, placement, self.identities(innocent)[how])
            w.store.change(placement, state="removed")
            w.start()
            w.wait(lambda placement=placement: not w.remains(placement), "clean machine", 10)
            w.end()
            assert not ended(innocent.pid)


def test_a_tap_that_does_not_say_yet_whose_it_is_goes_with_its_host(w: World) -> None:
    placement = left_alone(w, CrashPoint.TAP_CREATED)
    assert "tap" not in w.remains(placement)


def test_a_tap_without_anything_else_is_destroyed_by_its_tombstone(w: World) -> None:
    placement = left_alone(w, CrashPoint.TAP_READY)
    shutil.rmtree(w.paths.placement(placement), ignore_errors=True)
    w.store.change(placement, state="removed")
    assert w.remains(placement)
    w.start()
    w.wait(lambda: not w.remains(placement), f"clean machine: {w.remains(placement)}", 10)
