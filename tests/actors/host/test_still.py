"""Machines held still and let go on, and machines that do not answer: the real Firecracker with the bare guest."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from uuid import UUID

import pytest

from tests.actors.host.world import World, world


@pytest.fixture
def w() -> Iterator[World]:
    with world("minimal") as made:
        yield made


def answers(w: World) -> bool:
    try:
        return w.echo("172.31.0.2", b"are you there", tries=2) == b"guest:are you there"
    except AssertionError:
        return False


def stop(w: World, placement: UUID, **fields: object) -> dict:
    w.store.change(placement, wanted=False, **fields)
    w.wake()
    row = w.wait_state(placement, "removed", 30)
    w.wait(lambda: not w.remains(placement), f"clean machine: {w.remains(placement)}", 10)
    return row["observations"][-1]


def pause(w: World, placement: UUID, paused: bool) -> None:
    w.store.change(placement, paused=paused)
    w.wake()
    w.wait_state(placement, "paused" if paused else "running", 30)


def test_a_paused_machine_does_nothing_until_it_is_resumed(w: World) -> None:
    placement = w.place()
    w.start()
    w.wait_state(placement, "running", 30)
    w.wait(lambda: answers(w), "answer", 20)
    pid = w.vmm_pid(placement)
    pause(w, placement, True)
    assert not answers(w)
    pause(w, placement, False)
    w.wait(lambda: answers(w), "answer", 20)
    assert w.vmm_pid(placement) == pid
    states = [seen["state"] for seen in w.store.row(placement)["observations"]]
    assert states == ["preparing", "starting", "running", "paused", "running"]
    assert stop(w, placement)["outcome"] == "stopped"


@pytest.mark.parametrize("resumed", [False, True])
def test_a_paused_machine_is_taken_over_as_it_is_wanted(w: World, resumed: bool) -> None:
    placement = w.place()
    w.start()
    w.wait_state(placement, "running", 30)
    pause(w, placement, True)
    pid = w.vmm_pid(placement)
    w.kill()
    w.store.change(placement, paused=not resumed)
    w.start()
    if resumed:
        w.wait_state(placement, "running", 30)
        w.wait(lambda: answers(w), "answer", 20)
    else:
        w.wait(lambda: [vm for vm in w.view()["vms"] if vm["phase"] == "paused"], "paused machine")
        assert not answers(w)
    assert w.vmm_pid(placement) == pid
    assert stop(w, placement)["outcome"] == "stopped"


def test_one_wanted_paused_from_the_beginning_starts_first(w: World) -> None:
    placement = w.place(paused=True)
    w.start()
    w.wait_state(placement, "paused", 30)
    states = [seen["state"] for seen in w.store.row(placement)["observations"]]
    assert states == ["preparing", "starting", "running", "paused"]
    assert stop(w, placement, force=True)["outcome"] == "killed"


def test_a_snapshot_of_a_guest_without_an_agent_is_refused(w: World) -> None:
    placement = w.place()
    w.start()
    w.wait_state(placement, "running", 30)
    snapshot = w.store.order(placement)
    w.wake()
    w.wait(lambda: w.store.snapshot(snapshot)["state"] == "failed", "failed snapshot", 60)
    assert "agent did not answer" in w.store.snapshot(snapshot)["reason"]
    assert list(w.paths.snapshots.glob("*")) == []
    w.wait(lambda: answers(w), "answer", 20)
    stop(w, placement)


def test_a_monitor_that_does_not_answer_is_told_and_then_replaced(w: World) -> None:
    w.pulse = 0.2
    placement = w.place(restart="always")
    w.start()
    w.wait_state(placement, "running", 30)
    pid = w.vmm_pid(placement)
    os.kill(pid, signal.SIGSTOP)
    silent = "its monitor does not answer"
    w.wait(
        lambda: [seen for seen in w.store.row(placement)["observations"] if seen["reason"] == silent], "complaint", 60
    )
    w.wait(lambda: w.store.row(placement)["failures"] == 1, "given up machine", 90)
    w.wait_state(placement, "running", 30)
    assert w.vmm_pid(placement) != pid
    [waiting] = [seen for seen in w.store.row(placement)["observations"] if seen["state"] == "waiting"]
    assert waiting["outcome"] == "unhealthy"
    assert waiting["reason"].startswith(silent)
    stop(w, placement)


def test_a_monitor_that_answers_again_is_told_too(w: World) -> None:
    w.pulse = 0.2
    placement = w.place(restart="never")
    w.start()
    w.wait_state(placement, "running", 30)
    pid = w.vmm_pid(placement)
    os.kill(pid, signal.SIGSTOP)
    w.wait(lambda: w.store.row(placement)["observations"][-1]["reason"], "complaint", 60)
    os.kill(pid, signal.SIGCONT)
    w.wait(lambda: not w.store.row(placement)["observations"][-1]["reason"], "all clear", 60)
    assert w.store.row(placement)["observations"][-1]["state"] == "running"
    assert w.vmm_pid(placement) == pid
    stop(w, placement)


def test_a_monitor_stopped_by_a_signal_is_killed_at_the_deadline(w: World) -> None:
    placement = w.place(stop_timeout=0.5)
    w.start()
    w.wait_state(placement, "running", 30)
    os.kill(w.vmm_pid(placement), signal.SIGSTOP)
    assert stop(w, placement)["outcome"] == "killed"
