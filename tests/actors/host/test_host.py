"""The host and its machines around a monitor double: everything else (processes, TAPs, cgroups, files) is real."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.vm.guest import DISK
from actors.vm.intent import Intent
from tests.actors.host.test_machines import ended
from tests.actors.host.world import World, world


@pytest.fixture
def w() -> Iterator[World]:
    with world("shell") as made:
        yield made


def clean(w: World, placement: uuid.UUID) -> None:
    w.wait(lambda: not w.remains(placement), f"clean machine: {w.remains(placement)}", 10)


def last(w: World, placement: uuid.UUID) -> dict:
    return w.wait_state(placement, "removed", 30)["observations"][-1]


def phase(w: World, placement: uuid.UUID) -> str | None:
    return next((vm["phase"] for vm in w.view()["vms"] if vm["id"] == str(placement)), None)


def stop(w: World, placement: uuid.UUID, **fields: object) -> None:
    w.store.change(placement, wanted=False, **fields)
    w.wake()


def test_start_and_stop(w: World) -> None:
    placement = w.place()
    w.start()
    row = w.wait_state(placement, "running", 30)
    assert [seen["state"] for seen in row["observations"]] == ["preparing", "starting", "running"]
    assert row["observations"][-1]["pid"] == w.vmm_pid(placement)
    stop(w, placement)
    assert last(w, placement)["outcome"] == "stopped"
    clean(w, placement)
    w.wait(lambda: not w.view()["vms"], "forgotten machine", 10)
    w.end()


@pytest.mark.parametrize(
    ("play", "outcome", "status", "words"),
    [
        ("/short", "exited", 7, "no database"),
        ("/panic", "panic", None, "Attempted to kill init"),
        ("/bad-guest", "start_failed", None, "command not found: /bad-guest"),
        ("/unborn", "start_failed", None, "cannot allocate memory"),
        ("/refuse", "start_failed", None, "no such luck"),
    ],
)
def test_endings_are_told_in_the_right_words(w: World, play: str, outcome: str, status: int | None, words: str) -> None:
    placement = w.place(argv=[play])
    w.start()
    seen = last(w, placement)
    assert (seen["outcome"], seen["exit_status"]) == (outcome, status)
    assert words in seen["reason"]
    clean(w, placement)


def test_an_image_without_a_command_and_an_image_that_is_not_here(w: World) -> None:
    silent, missing = w.place(argv=[]), w.place(digest="sha256:other")
    w.start()
    assert "neither entrypoint nor cmd" in last(w, silent)["reason"]
    assert "is not here" in last(w, missing)["reason"]
    clean(w, silent)
    clean(w, missing)


def test_a_guest_that_does_not_start_in_time_fails_with_its_last_lines(w: World) -> None:
    w.start_deadline = 0.5
    placement = w.place(argv=["/stuck"])
    w.start()
    seen = last(w, placement)
    assert seen["outcome"] == "start_failed"
    assert "Waiting for the end of time" in seen["reason"]
    clean(w, placement)


@pytest.mark.parametrize("play", ["/never-up", "/stuck", "/slow"])
def test_a_stop_reaches_a_machine_in_the_middle_of_its_start(w: World, play: str) -> None:
    placement = w.place(argv=[play])
    w.start()
    w.wait(lambda: (w.paths.vm_run(placement) / "vmm.json").exists(), "monitor", 20)
    stop(w, placement)
    assert last(w, placement)["outcome"] == "stopped"
    clean(w, placement)


def test_a_second_way_of_asking_is_tried(w: World) -> None:
    placement = w.place(argv=["/keyboard"])
    w.start()
    w.wait_state(placement, "running", 30)
    stop(w, placement)
    assert last(w, placement)["outcome"] == "stopped"
    clean(w, placement)


@pytest.mark.parametrize("force", [True, False])
def test_a_deaf_guest_is_killed(w: World, force: bool) -> None:
    placement = w.place(argv=["/deaf"], stop_timeout=0.2)
    w.start()
    w.wait_state(placement, "running", 30)
    pid = w.vmm_pid(placement)
    stop(w, placement, force=force)
    assert last(w, placement)["outcome"] == "killed"
    assert ended(pid)
    clean(w, placement)


def test_force_shortens_a_stop_that_is_under_way(w: World) -> None:
    placement = w.place(argv=["/deaf"], stop_timeout=600)
    w.start()
    w.wait_state(placement, "running", 30)
    stop(w, placement)
    w.wait_state(placement, "stopping", 10)
    stop(w, placement, force=True)
    assert last(w, placement)["outcome"] == "killed"


def test_while_the_database_is_away_machines_run_and_the_end_is_told_later(w: World) -> None:
    placement = w.place(argv=["/slow"])
    w.start()
    w.wait(lambda: (w.paths.vm_run(placement) / "up").exists(), "guest", 20)
    w.wait_state(placement, "starting", 10)
    w.store.away.touch()
    (w.paths.vm_run(placement) / "go").touch()
    w.wait(lambda: phase(w, placement) == "running", "running machine", 10)
    pid = w.vmm_pid(placement)
    assert w.store.row(placement)["state"] == "starting"
    w.store.away.unlink()
    w.wait_state(placement, "running", 20)
    w.store.away.touch()
    os.kill(pid, signal.SIGKILL)
    w.wait(lambda: phase(w, placement) == "reporting", "machine that waits to report", 20)
    # All is dropped meanwhile but the intent and what explains the end: it goes once the end is told.
    left = {"intent.json"}
    w.wait(lambda: {Path(item).name for item in w.remains(placement)} == left, "dropped machine", 20)
    w.store.away.unlink()
    assert last(w, placement)["outcome"] == "vmm_died"
    clean(w, placement)


def test_nothing_starts_while_the_database_is_away(w: World) -> None:
    placement = w.place()
    w.store.away.touch()
    w.start()
    w.wait(lambda: "placements could not be read" in w.log.read_text(), "failed reading", 10)
    assert w.view()["vms"] == []
    w.store.away.unlink()
    w.wait_state(placement, "running", 30)


def test_a_claim_that_is_refused_touches_nothing(w: World) -> None:
    placement = w.place()
    w.start()
    w.wait_state(placement, "running", 30)
    stop(w, placement)
    last(w, placement)
    clean(w, placement)
    # A reading from before: the row is listed once more although it is removed.
    w.end()
    w.store.change(placement, state="assigned", wanted=True)
    w.store.away.touch()
    w.start()
    w.store.change(placement, state="removed")
    w.store.away.unlink()
    w.wait(lambda: w.view()["reconciled"], "reading", 10)
    assert w.remains(placement) == []


@pytest.mark.parametrize("wanted", [True, False])
def test_a_machine_is_taken_over_after_kill_9(w: World, wanted: bool) -> None:
    placement = w.place()
    w.start()
    w.wait_state(placement, "running", 30)
    pid = w.vmm_pid(placement)
    w.kill()
    assert not ended(pid)
    if not wanted:
        w.store.change(placement, wanted=False)
    w.start()
    if wanted:
        w.wait(lambda: phase(w, placement) == "running", "adopted machine", 10)
        assert w.view()["vms"][0]["pid"] == pid
        stop(w, placement)
    assert last(w, placement)["outcome"] == "stopped"
    assert ended(pid)
    clean(w, placement)


def test_a_machine_that_boots_while_the_host_is_down_is_taken_over(w: World) -> None:
    placement = w.place(argv=["/slow"])
    w.start()
    w.wait(lambda: phase(w, placement) == "booting", "booting machine", 20)
    pid = w.vmm_pid(placement)
    w.kill()
    (w.paths.vm_run(placement) / "go").touch()
    w.start()
    w.wait_state(placement, "running", 20)
    assert w.vmm_pid(placement) == pid


def test_an_end_while_the_host_was_down_is_told(w: World) -> None:
    placement = w.place(argv=["/short"])
    w.store.change(placement, argv=["/slow"])
    w.start()
    w.wait(lambda: phase(w, placement) == "booting", "booting machine", 20)
    pid = w.vmm_pid(placement)
    w.kill()
    (w.paths.vm_run(placement) / "go").touch()
    console = w.paths.placement(placement) / "console.log"
    w.wait(lambda: b"hello from the app" in console.read_bytes(), "app", 10)
    (w.paths.vm_run(placement) / "stop0").touch()
    w.wait(lambda: ended(pid), "end", 10)
    w.start()
    seen = last(w, placement)
    assert (seen["outcome"], seen["exit_status"]) == ("signaled", 15)
    clean(w, placement)


def test_a_start_that_was_interrupted_is_cleaned_and_begun_again(w: World) -> None:
    placement = w.place(argv=["/never-up"])
    w.start()
    w.wait(lambda: (w.paths.vm_run(placement) / "vmm.json").exists(), "monitor", 20)
    first = w.vmm_pid(placement)
    w.kill()
    w.store.change(placement, argv=["/serve"])
    w.start()
    w.wait_state(placement, "running", 20)
    assert ended(first)
    assert w.vmm_pid(placement) != first


def test_a_monitor_without_its_pid_file_is_found_by_its_cgroup(w: World) -> None:
    placement = w.place(argv=["/never-up"])
    w.start()
    w.wait(lambda: (w.paths.vm_run(placement) / "vmm.json").exists(), "monitor", 20)
    first = w.vmm_pid(placement)
    w.kill()
    w.rest()
    (w.paths.vm_run(placement) / "vmm.json").unlink()
    w.store.change(placement, wanted=False)
    w.start()
    last(w, placement)
    assert ended(first)
    clean(w, placement)


def test_after_a_reboot_what_is_wanted_runs_again_in_place(w: World) -> None:
    placement = w.place()
    w.start()
    w.wait_state(placement, "running", 30)
    before = w.vmm_pid(placement)
    w.kill()
    os.kill(before, signal.SIGKILL)
    w.wait(lambda: ended(before), "end", 10)
    # What a reboot leaves: another boot in the row and in the files that survived.
    w.store.change(placement, boot_id="another-boot")
    file = w.paths.vm_run(placement) / "vmm.json"
    content = json.loads(file.read_text())
    content["identity"]["boot_id"] = "another-boot"
    file.write_text(json.dumps(content))
    w.start()
    w.wait(lambda: phase(w, placement) == "running", "running machine", 20)
    assert w.vmm_pid(placement) != before
    w.wait_state(placement, "running", 10)
    assert w.store.row(placement)["boot_id"] != "another-boot"


def test_stop_all_parks_and_the_next_host_starts_again(w: World) -> None:
    placement = w.place()
    w.start()
    w.wait_state(placement, "running", 30)
    pid = w.vmm_pid(placement)
    w.say("stop-all 90")
    assert w.hear() == {"stopped": True}
    assert ended(pid)
    assert w.store.row(placement)["state"] == "assigned"
    assert not w.paths.vm_run(placement).exists()
    w.end()
    w.start()
    w.wait_state(placement, "running", 20)
    stop(w, placement)
    last(w, placement)
    clean(w, placement)


def test_a_parked_machine_that_is_deleted_leaves_nothing(w: World) -> None:
    placement = w.place()
    w.start()
    w.wait_state(placement, "running", 30)
    w.say("stop-all 90")
    w.hear()
    w.end()
    w.store.change(placement, wanted=False)
    w.start()
    last(w, placement)
    clean(w, placement)


def test_an_unknown_machine_is_left_alone_and_told(w: World) -> None:
    placement = w.place()
    w.start()
    w.wait_state(placement, "running", 30)
    pid = w.vmm_pid(placement)
    row = w.store.row(placement)
    w.kill()
    w.store.delete(placement)
    w.start()
    w.wait(lambda: w.view()["orphans"] == [str(placement)], "orphan", 10)
    assert not ended(pid)
    # The right database is back: it is an ordinary machine again.
    w.store.add(placement, **row)
    w.wake()
    w.wait(lambda: phase(w, placement) == "running", "adopted machine", 10)
    assert w.vmm_pid(placement) == pid


@pytest.mark.parametrize("same_cluster", [True, False])
def test_what_the_database_removed_is_destroyed_if_it_is_of_the_same_cluster(w: World, same_cluster: bool) -> None:
    placement = w.place()
    w.start()
    w.wait_state(placement, "running", 30)
    pid = w.vmm_pid(placement)
    w.kill()
    w.store.change(placement, state="removed")
    if not same_cluster:
        w.cluster = "cluster-b"
    w.start()
    if same_cluster:
        w.wait(lambda: ended(pid), "end", 10)
        clean(w, placement)
    else:
        w.wait(lambda: w.view()["orphans"] == [str(placement)], "orphan", 10)
        assert not ended(pid)
        assert Intent.read(w.paths.placement(placement)) is not None


def test_a_second_host_on_the_machine_does_not_touch_the_first_ones(w: World) -> None:
    placement = w.place()
    w.start()
    w.wait_state(placement, "running", 30)
    pid = w.vmm_pid(placement)
    w.kill()  # nobody looks after the machine now
    with world("shell") as other:
        other.start()
        view = other.wait(lambda: (seen := other.view())["reconciled"] and seen, "reading", 10)
        assert (view["vms"], view["orphans"]) == ([], [])
        assert "no placement explains" not in other.log.read_text()
        other.end()
    assert not ended(pid)


def test_the_intent_is_on_disk_before_the_monitor_is(w: World) -> None:
    placement = w.place(argv=["/never-up"])
    w.start()
    w.wait(lambda: (w.paths.vm_run(placement) / "vmm.json").exists(), "monitor", 20)
    intent = Intent.read(w.paths.placement(placement))
    assert intent is not None
    assert intent.placement_id == placement
    assert intent.cluster == "cluster-a"
    assert intent.cgroup.startswith(f"zeitwork-{w.tag}/")
    config = w.paths.vm_run(placement) / "config"
    assert config.stat().st_mode & 0o777 == 0o600


def test_machines_boot_one_after_the_other_when_so_configured(w: World) -> None:
    placements = [w.place(argv=["/slow"]) for _ in range(3)]
    w.start()
    for expected in range(3):
        [booting] = w.wait(
            lambda: [item for item in placements if phase(w, item) == "booting"], "one machine that boots", 20
        )
        assert sum(phase(w, item) == "running" for item in placements) == expected
        (w.paths.vm_run(booting) / "go").touch()
        w.wait_state(booting, "running", 10)
    for item in placements:
        stop(w, item)
    for item in placements:
        last(w, item)
    clean(w, placements[0])


def test_a_machine_that_crashed_runs_again_with_its_disk_and_address(w: World) -> None:
    placement = w.place(restart="always")
    w.start()
    w.wait_state(placement, "running", 30)
    first = w.vmm_pid(placement)
    disk = w.paths.placement(placement) / DISK
    inode = disk.stat().st_ino
    os.kill(first, signal.SIGKILL)
    w.wait(lambda: w.store.row(placement)["failures"] == 1, "noticed end", 10)
    w.wait(lambda: phase(w, placement) == "running", "running machine", 20)
    w.wait_state(placement, "running", 10)
    assert w.vmm_pid(placement) != first
    assert disk.stat().st_ino == inode
    row = w.store.row(placement)
    [waiting] = [seen for seen in row["observations"] if seen["state"] == "waiting"]
    assert waiting["outcome"] == "vmm_died"
    assert "next try at" in waiting["reason"]
    assert row["failures"] == 1
    stop(w, placement)
    assert last(w, placement)["outcome"] == "stopped"
    clean(w, placement)


def test_an_app_that_ends_again_and_again_is_tried_until_nobody_wants_to(w: World) -> None:
    placement = w.place(argv=["/short"], restart="on-failure", max_attempts=2)
    w.start()
    seen = last(w, placement)
    assert "given up after 3 failures in a row" in seen["reason"]
    states = [one["state"] for one in w.store.row(placement)["observations"]]
    assert states.count("waiting") == 2
    assert states.count("preparing") == 3
    clean(w, placement)


def test_a_wait_outlives_the_host_process_and_can_be_hurried_and_ended(w: World) -> None:
    placement = w.place(argv=["/short"], restart="always", failures=8)
    w.start()
    w.wait_state(placement, "waiting", 30)
    due = w.store.row(placement)["next_try_at"]
    w.wait(lambda: phase(w, placement) == "waiting", "waiting machine", 10)
    w.kill()
    w.start()
    w.wait(lambda: phase(w, placement) == "waiting", "waiting machine", 10)
    assert w.store.row(placement)["next_try_at"] == due
    w.store.change(placement, next_try_at=None, failures=0)
    w.wake()
    w.wait(lambda: w.store.row(placement)["failures"] == 1, "another try", 20)
    w.wait_state(placement, "waiting", 20)
    stop(w, placement)
    last(w, placement)
    clean(w, placement)


def test_a_panic_of_an_earlier_start_does_not_explain_a_later_end(w: World) -> None:
    placement = w.place(argv=["/panic"], restart="always", failures=8)
    w.start()
    w.wait_state(placement, "waiting", 30)
    w.kill()
    w.store.change(placement, argv=["/serve"], next_try_at=None)
    w.start()
    w.wait_state(placement, "running", 30)
    os.kill(w.vmm_pid(placement), signal.SIGKILL)
    w.wait(lambda: w.store.row(placement)["failures"] == 10, "second end", 20)
    waits = [one for one in w.store.row(placement)["observations"] if one["state"] == "waiting"]
    assert [one["outcome"] for one in waits] == ["panic", "vmm_died"]


@pytest.mark.parametrize("play", ["/serve", "/deaf"])
def test_a_machine_whose_app_does_not_answer_is_ended_and_runs_again(w: World, play: str) -> None:
    placement = w.place(argv=[play], restart="on-failure", stop_timeout=0.1)
    w.start()
    w.wait_state(placement, "running", 30)
    pid = w.vmm_pid(placement)
    w.say(f"unhealthy {placement}")
    w.wait(lambda: w.store.row(placement)["failures"] == 1, "its end", 20)
    w.wait(lambda: phase(w, placement) == "running", "running machine", 20)
    assert ended(pid)
    [waiting] = [seen for seen in w.store.row(placement)["observations"] if seen["state"] == "waiting"]
    assert waiting["outcome"] == "unhealthy"
    assert "no answer from port 80" in waiting["reason"]
