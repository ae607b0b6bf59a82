"""Real machines under a real host process: they run, stop, die, and are taken over after kill -9."""

from __future__ import annotations

import json
import os
import signal

import pytest

from actors.vm.guest import FIGURES
from actors.vm.process import read_stat
from tests.actors.host.world import world


def ended(pid: int) -> bool:
    """A zombie has: what we orphaned stays one until pid 1 reaps it."""
    stat = read_stat(pid)
    return stat is None or stat[0] in "ZX"


@pytest.mark.parametrize("hypervisor", ["firecracker", "qemu"])
def test_a_machine_serves_survives_its_host_and_stops_without_trace(hypervisor: str) -> None:
    with world(hypervisor) as w:
        placement = w.place()
        w.start()
        row = w.wait_state(placement, "running")
        assert [seen["state"] for seen in row["observations"]] == ["preparing", "starting", "running"]
        assert "hello from the guest" in w.fetch("172.31.0.2")
        assert "hello from the guest" in w.fetch("[fd7a:77::2]")
        pid = w.vmm_pid(placement)

        w.kill()
        assert "hello from the guest" in w.fetch("172.31.0.2")
        w.start()
        w.wait(lambda: w.view()["vms"], "adopted machine")
        [vm] = w.wait(lambda: [vm for vm in w.view()["vms"] if vm["phase"] == "running"], "running machine")
        assert (vm["pid"], vm["adopted"]) == (pid, True)
        assert "hello from the guest" in w.fetch("[fd7a:77::2]")

        w.store.change(placement, wanted=False)
        w.wake()
        row = w.wait_state(placement, "removed")
        last = row["observations"][-1]
        assert (last["outcome"], last["reason"]) == ("stopped", "stopped")
        w.wait(lambda: not w.remains(placement), f"clean machine: {w.remains(placement)}", 10)
        console = (w.paths.placement(placement) / "console.log").read_text()
        assert "serving" in console
        assert "halting" in console
        figures = w.paths.placement(placement) / FIGURES
        if hypervisor == "firecracker":
            assert json.loads(figures.read_text())["vmm"]["panic_count"] == 0
            assert figures.stat().st_uid == 0
        assert ended(pid)
        w.end()


def test_an_app_that_exits_at_once_is_told_with_its_status_and_last_words() -> None:
    with world("qemu") as w:
        placement = w.place(argv=["/short"])
        w.start()
        last = w.wait_state(placement, "removed")["observations"][-1]
        assert (last["outcome"], last["exit_status"]) == ("exited", 3)
        assert last["reason"].startswith("the app exited with status 3")
        assert last["reason"].endswith(": cannot reach the database")
        w.wait(lambda: not w.remains(placement), "clean machine", 10)


def test_a_monitor_that_dies_while_the_host_is_down_is_told_by_the_next_one() -> None:
    with world("qemu") as w:
        placement = w.place()
        w.start()
        w.wait_state(placement, "running")
        w.kill()
        os.kill(w.vmm_pid(placement), signal.SIGKILL)
        w.start()
        last = w.wait_state(placement, "removed")["observations"][-1]
        # Nobody saw it and the guest said nothing: that it was killed is not known, and not guessed.
        assert last["outcome"] == "unknown"
        w.wait(lambda: not w.remains(placement), "clean machine", 10)


def test_a_machine_whose_monitor_is_killed_serves_again_at_its_address_with_its_disk() -> None:
    with world("firecracker") as w:
        placement = w.place(restart="on-failure")
        w.start()
        w.wait_state(placement, "running")
        assert "hello from the guest" in w.fetch("172.31.0.2")
        first = w.vmm_pid(placement)
        os.kill(first, signal.SIGKILL)
        w.wait(lambda: w.store.row(placement)["failures"] == 1, "noticed end", 30)
        w.wait_state(placement, "running")
        assert "hello from the guest" in w.fetch("[fd7a:77::2]")
        assert w.vmm_pid(placement) != first
        [waiting] = [seen for seen in w.store.row(placement)["observations"] if seen["state"] == "waiting"]
        assert waiting["outcome"] == "vmm_died"
        assert "SIGKILL" in waiting["reason"]
        w.store.change(placement, wanted=False)
        w.wake()
        w.wait_state(placement, "removed")
        w.wait(lambda: not w.remains(placement), f"clean machine: {w.remains(placement)}", 10)
