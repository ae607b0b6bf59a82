"""Any sequence of events, then a stop: everything acquired is dropped and the end is told."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.model.restart import ALWAYS, RestartMode, RestartPolicy
from actors.model.states import Outcome, PlacementState
from actors.vm import lifecycle as life
from actors.vm.lifecycle import Job, Phase, Thing
from actors.vm.outcome import Evidence
from actors.vm.restart import Restart

LIMITS = life.Limits(start=60, margin=5)
AGAIN = Restart(ALWAYS)
restarts = st.sampled_from([Restart(RestartPolicy(mode, most)) for mode in RestartMode for most in (None, 1, 3)])


class World:
    """Carries out effects: jobs really acquire and drop things, finish, fail or are cancelled when told to."""

    def __init__(self, vm: life.Vm, things: set[Thing] | None = None) -> None:
        self.vm = vm
        self.now = 0.0
        self.things: set[Thing] = things or set()
        self.jobs: dict[Job, life.Report | None] = {}
        self.cancelled: set[Job] = set()
        self.database = next(iter(vm.known))
        self.endings: list[object] = []
        self.finished = False
        self.disowned = 0
        self.killed = False
        self.still = False  # whether the guest's CPUs really are stopped
        self.immovable = False  # a resume failed, so that nobody can tell whether it goes on
        self.taken: list[UUID] = []
        self.complaints: list[str] = []

    def feed(self, event: life.Event) -> None:
        assert not self.finished or self.vm.phase is Phase.REMOVED
        self.vm, effects = life.step(self.vm, event, self.now)
        for effect in effects:
            self._carry_out(effect)
        assert frozenset(self.jobs) == self.vm.jobs or self.finished
        assert self.things <= self.vm.held or Job.LAUNCH in self.jobs or self.finished

    def _carry_out(self, effect: life.Effect) -> None:
        assert not self.finished
        match effect:
            case life.Start(job):
                assert job not in self.jobs, f"{job} twice"
                assert job not in life.MOTION or not life.MOTION & set(self.jobs), "two that move it"
                self.jobs[job] = None
            case life.Ask():
                assert Job.ASK not in self.jobs
                assert self.immovable or not self.still, "asked a guest that hears nothing"
                self.jobs[Job.ASK] = None
            case life.Report():
                assert Job.REPORT not in self.jobs
                self.jobs[Job.REPORT] = effect
            case life.Capture(snapshot):
                assert not life.MOTION & set(self.jobs)
                self.jobs[Job.SNAPSHOT] = None
                self.taken.append(snapshot)
            case life.Complain(state, reason):
                assert state is self.database
                self.complaints.append(reason)
            case life.Cancel(job):
                assert job in self.jobs
                assert job not in self.cancelled
                self.cancelled.add(job)
            case life.Signal(kill):
                assert Thing.VMM in self.things
                self.killed = kill
            case life.Watch():
                assert Thing.VMM in self.things
            case life.Disown():
                self.disowned += 1
            case life.Finish():
                self.finished = True

    def finish(self, job: Job, how: str) -> None:
        """End a job: ``done``, ``broke``, ``refused`` (reports), or ``half``: cancelled, though its work was done."""
        report = self.jobs.pop(job)
        cancelled = job in self.cancelled
        self.cancelled.discard(job)
        acquired = {Job.DISK: Thing.DISK, Job.TAP: Thing.TAP}.get(job)
        dropped = {Job.DROP_DISK: Thing.DISK, Job.DROP_TAP: Thing.TAP, Job.DROP_MACHINE: Thing.MACHINE}.get(job)
        if report is not None:
            if how == "broke" or (how == "half" and cancelled):
                if how == "half":
                    self.database = report.state
                self.feed(life.Dropped(job) if cancelled else life.Broke(job, "lost"))
            elif how == "refused" or self.database not in report.expected:
                self.feed(life.Reported(False))
            else:
                self.database = report.state
                self.endings.append(report.ending)
                self.feed(life.Reported(True))
            return
        if job in life.MOTION and Thing.VMM in self.things:
            if how in ("done", "half"):
                self.still = job is not Job.RESUME
            self.immovable = job is Job.RESUME and how != "done"
        if how == "done":
            if acquired:
                self.things.add(acquired)
            if dropped:
                assert Thing.VMM not in self.things, "dropped under a running monitor"
                self.things.discard(dropped)
            if job is Job.LAUNCH:
                self.things |= {Thing.VMM, Thing.MACHINE}
                self.still = self.immovable = False
            self.feed(life.Done(job))
            return
        if how == "half" and acquired:
            self.things.add(acquired)
        if job is Job.LAUNCH:
            self.things.add(Thing.MACHINE)
        self.feed(life.Dropped(job) if cancelled else life.Broke(job, "it broke"))

    def exit(self, evidence: Evidence) -> None:
        if Thing.VMM in self.things:
            self.things.discard(Thing.VMM)
            self.feed(life.Exited(evidence))

    def rest(self) -> None:
        """Let what moves it, and what is told of that, come to an end."""
        while self.vm.phase in (Phase.RUNNING, Phase.PAUSED) and (self.jobs or self.vm.deadline is not None):
            if self.jobs:
                self.finish(min(self.jobs), "half" if min(self.jobs) in self.cancelled else "done")
            elif self.vm.deadline is not None:
                self.tick()

    def settle(self) -> None:
        """Let everything that is under way succeed, in order, until nothing more happens."""
        for _ in range(200):
            if self.finished:
                return
            if self.jobs:
                self.finish(min(self.jobs), "half" if min(self.jobs) in self.cancelled else "done")
            elif self.killed and Thing.VMM in self.things:
                self.exit(Evidence(vmm_status=-9))
            elif self.vm.deadline is not None:
                self.tick()
            else:
                return

    def tick(self) -> None:
        """Let the deadline pass."""
        assert self.vm.deadline is not None
        self.now = max(self.now, self.vm.deadline)
        self.feed(life.Tick())


def booting(restart: Restart = AGAIN) -> World:
    world = World(life.fresh(PlacementState.ASSIGNED, LIMITS, restart=restart))
    world.feed(life.Begin())
    for job in (Job.REPORT, Job.DISK, Job.ROOT, Job.REPORT, Job.TAP, Job.LAUNCH):
        world.finish(job, "done")
    return world


def running(restart: Restart = AGAIN) -> World:
    world = World(life.fresh(PlacementState.ASSIGNED, LIMITS, restart=restart))
    world.feed(life.Begin())
    begin(world)
    return world


def begin(world: World) -> None:
    """Let a claimed start go well."""
    for job in (Job.REPORT, Job.DISK, Job.ROOT, Job.REPORT, Job.TAP, Job.LAUNCH):
        world.finish(job, "done")
    world.feed(life.AppStarted())
    world.finish(Job.REPORT, "done")
    assert world.vm.phase is Phase.RUNNING
    assert world.database is PlacementState.RUNNING


def drop(world: World) -> None:
    """Let everything that is dropped or told be done, without letting time pass."""
    while world.jobs:
        world.finish(min(world.jobs), "half" if min(world.jobs) in world.cancelled else "done")


moves = st.one_of(
    st.tuples(
        st.just("finish"), st.integers(0, 9), st.sampled_from(["done", "done", "done", "broke", "half", "refused"])
    ),
    st.tuples(st.just("tick"), st.sampled_from([0.0, 1.0, 10.0, 100.0])),
    st.tuples(st.just("started")),
    st.tuples(st.just("hurry")),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("snapshot"), st.integers(1, 3)),
    st.tuples(st.just("unhealthy"), st.sampled_from([0.0, 5.0])),
    st.tuples(st.just("exit"), st.sampled_from([Evidence(), Evidence(started=True, status=0), Evidence(error="no")])),
    st.tuples(st.just("stop"), st.sampled_from([0.0, 5.0, 30.0]), st.booleans(), st.booleans()),
    st.tuples(st.just("resync"), st.sampled_from(list(PlacementState))),
)
starts = st.one_of(
    st.builds(
        lambda told, left, again: (life.fresh(told, LIMITS, leftovers=left, restart=again), set()),
        st.sampled_from(list(PlacementState)[:-1]),
        st.booleans(),
        restarts,
    ),
    st.builds(
        lambda wait, again: (life.waiting(LIMITS, 0.0, wait, again), {Thing.DISK, Thing.TAP}),
        st.sampled_from([0.0, 5.0]),
        restarts,
    ),
    st.builds(
        lambda told, started, again: (
            life.adopted(told, LIMITS, 0.0, started=started, restart=again),
            set(Thing),
        ),
        st.sampled_from(list(PlacementState)[1:-1]),
        st.booleans(),
        restarts,
    ),
    st.builds(
        lambda told, wanted, again: (
            life.ended(told, LIMITS, Evidence(status=1, started=True), wanted=wanted, restart=again),
            {Thing.DISK, Thing.TAP, Thing.MACHINE},
        ),
        st.sampled_from([PlacementState.RUNNING, PlacementState.STOPPING]),
        st.booleans(),
        restarts,
    ),
)


@settings(max_examples=400, deadline=None)
@given(start=starts, sequence=st.lists(moves, max_size=40))
def test_after_any_history_a_stop_releases_everything(start: tuple[life.Vm, set[Thing]], sequence: list[tuple]) -> None:
    vm, things = start
    world = World(vm, set(things))
    world.feed(life.Begin())
    for move in sequence:
        if world.finished:
            break
        match move:
            case ("finish", index, how) if world.jobs:
                jobs = sorted(world.jobs)
                world.finish(jobs[index % len(jobs)], how)
            case ("tick", seconds):
                world.now += seconds
                world.feed(life.Tick())
            case ("started",):
                world.feed(life.AppStarted())
            case ("unhealthy", timeout):
                world.feed(life.Unhealthy("no answer", timeout, 1.0))
            case ("hurry",):
                world.feed(life.Hurry())
            case ("pause", paused):
                world.feed(life.PauseWanted(paused))
            case ("snapshot", number):
                world.feed(life.SnapshotWanted(UUID(int=number)))
            case ("exit", evidence):
                world.exit(evidence)
            case ("stop", timeout, force, park):
                world.feed(life.StopWanted(timeout, force, park))
            case ("resync", state):
                if world.vm.disowned:
                    world.database = state
                world.feed(life.Resynced(state))
    if not world.finished:
        world.rest()
        if world.vm.phase in (Phase.RUNNING, Phase.PAUSED):
            assert world.still is world.vm.pause
            assert world.vm.orders == ()
            assert (world.vm.phase is Phase.PAUSED) is world.vm.pause
            if not world.vm.disowned:
                assert world.database.value == world.vm.phase.value
        world.feed(life.StopWanted(1.0))
        world.settle()
    assert world.finished
    assert world.vm.phase is Phase.REMOVED
    assert Thing.VMM not in world.things
    keep = {Thing.DISK} if world.vm.park else set()
    claimed = not (world.vm.disowned and world.vm.held)
    if claimed:
        assert world.things <= keep
    if not world.vm.disowned and not world.vm.park:
        assert world.database is PlacementState.REMOVED
        assert world.endings[-1] is not None


def test_a_stop_while_spawning_waits_for_the_monitor_and_kills_it() -> None:
    world = World(life.fresh(PlacementState.ASSIGNED, LIMITS))
    world.feed(life.Begin())
    for job in (Job.REPORT, Job.DISK, Job.ROOT, Job.TAP, Job.REPORT):
        world.finish(job, "done")
    world.feed(life.StopWanted(30))
    assert world.cancelled == {Job.LAUNCH}
    world.finish(Job.LAUNCH, "done")  # it was too late to cancel
    assert world.killed
    world.settle()
    assert world.finished
    assert world.things == set()
    assert world.endings[-1].outcome is Outcome.STOPPED


def test_an_unanswered_stop_is_asked_twice_then_signalled_then_killed() -> None:
    world = running()
    world.feed(life.StopWanted(30))
    assert world.vm.phase is Phase.STOPPING
    seen = []
    world.finish(Job.REPORT, "done")
    for _ in range(4):
        if Job.ASK in world.jobs:
            world.finish(Job.ASK, "done")
        seen.append((world.vm.urge, world.vm.deadline))
        world.now = world.vm.deadline
        world.feed(life.Tick())
    assert [urge for urge, _ in seen] == [0, 1, 2, 3]
    assert seen[1][1] == 35.0  # stop time-out and margin
    world.exit(Evidence(started=True, vmm_status=-9))
    world.settle()
    assert world.endings[-1].outcome is Outcome.KILLED


@pytest.mark.parametrize(("timeout", "kill_at"), [(2.0, 3.0), (29.9, 30.9), (30.0, 35.0), (60.0, 65.0)])
def test_who_waits_less_than_the_guest_was_told_does_not_wait_for_the_guest(timeout: float, kill_at: float) -> None:
    limits = replace(LIMITS, own=30.0)
    world = World(life.adopted(PlacementState.RUNNING, limits, 0.0, started=True), set(Thing))
    world.feed(life.Begin())
    world.feed(life.StopWanted(timeout))
    assert world.vm.kill_at == pytest.approx(kill_at)
    world.feed(life.StopWanted(1.0))
    assert world.vm.kill_at == pytest.approx(2.0)


def test_the_start_deadline_ends_in_start_failed_with_the_last_lines() -> None:
    world = World(life.fresh(PlacementState.ASSIGNED, LIMITS))
    world.feed(life.Begin())
    for job in (Job.REPORT, Job.DISK, Job.ROOT, Job.TAP, Job.REPORT, Job.LAUNCH):
        world.finish(job, "done")
    world.now = 61
    world.feed(life.Tick())
    assert world.killed
    world.exit(Evidence(vmm_status=-9, output=("Loading kernel", "stuck here")))
    world.settle()
    assert world.endings[-1].outcome is Outcome.START_FAILED
    assert "stuck here" in world.endings[-1].reason


def test_a_refused_claim_touches_nothing() -> None:
    world = World(life.fresh(PlacementState.ASSIGNED, LIMITS))
    world.feed(life.Begin())
    world.finish(Job.REPORT, "refused")
    assert world.finished
    assert world.disowned == 1
    assert world.things == set()
    assert world.jobs == {}


def test_a_refused_report_of_a_running_guest_leaves_it_alone() -> None:
    world = World(life.adopted(PlacementState.STARTING, LIMITS, 0.0, started=True), set(Thing))
    world.feed(life.Begin())
    world.finish(Job.REPORT, "refused")
    assert world.vm.phase is Phase.RUNNING
    assert world.disowned == 1
    assert not world.killed
    world.database = PlacementState.PREPARING
    world.feed(life.Resynced(PlacementState.PREPARING))
    world.finish(Job.REPORT, "done")
    assert world.database is PlacementState.RUNNING


def test_parking_keeps_the_disk_and_puts_the_placement_back() -> None:
    world = running()
    world.feed(life.StopWanted(5, park=True))
    world.finish(Job.PARK, "done")
    world.finish(Job.ASK, "done")
    world.exit(Evidence(started=True, signal=15))
    world.settle()
    assert world.finished
    assert world.things == {Thing.DISK}
    assert world.database is PlacementState.ASSIGNED


@pytest.mark.parametrize("how", ["done", "broke"])
def test_a_guest_is_asked_to_end_only_once_it_is_written_that_it_is_parked(how: str) -> None:
    """Killed in between, the next life would take its end for the end."""
    world = running()
    world.feed(life.StopWanted(5, park=True))
    assert Job.PARK in world.jobs
    assert Job.ASK not in world.jobs
    world.finish(Job.PARK, how)
    assert Job.ASK in world.jobs
    world.exit(Evidence(started=True, signal=15))
    assert (Job.PARK in world.jobs) is (how == "broke")
    world.settle()
    assert world.database is PlacementState.ASSIGNED


def test_a_guest_that_can_not_be_written_to_be_parked_is_ended_in_its_time_all_the_same() -> None:
    world = running()
    world.feed(life.StopWanted(5, park=True))
    while not world.killed:
        world.tick()
    world.exit(Evidence(started=True))
    world.settle()
    assert world.database is PlacementState.ASSIGNED


@pytest.mark.parametrize("how", ["done", "broke", "never"])
def test_one_that_boots_is_killed_only_once_it_is_written_that_it_is_parked(how: str) -> None:
    world = booting()
    world.feed(life.StopWanted(5, park=True))
    assert not world.killed
    if how == "never":
        world.tick()
    else:
        world.finish(Job.PARK, how)
    assert world.killed
    world.exit(Evidence())
    world.settle()
    assert world.database is PlacementState.ASSIGNED


def test_what_ended_by_itself_starts_again_with_its_disk_and_its_tap() -> None:
    world = running()
    world.exit(Evidence(started=True, status=1, ran=0.4))
    drop(world)
    assert world.vm.phase is Phase.WAITING
    assert world.database is PlacementState.WAITING
    assert world.things == {Thing.DISK, Thing.TAP}
    assert world.endings[-1].status == 1
    world.now = world.vm.deadline - 0.1
    world.feed(life.Tick())
    assert world.vm.phase is Phase.WAITING
    world.now += 0.1
    world.feed(life.Tick())
    begin(world)
    assert world.vm.restart.failures == 1
    first, start = 1.0, world.now
    world.exit(Evidence(started=True, status=0, ran=0.4))
    drop(world)
    assert world.vm.deadline == start + 2 * first


def test_what_does_not_answer_is_ended_and_starts_again() -> None:
    world = running()
    world.feed(life.Unhealthy("no answer from port 80", 5.0, 1000.0))
    assert world.vm.phase is Phase.STOPPING
    world.feed(life.Unhealthy("no answer from port 80", 5.0, 1001.0))
    world.exit(Evidence(started=True, signal=15))
    drop(world)
    assert world.database is PlacementState.WAITING
    assert world.endings[-1].outcome is Outcome.UNHEALTHY
    assert "no answer from port 80" in world.endings[-1].reason
    assert world.vm.restart.failures == 1
    world.now = world.vm.deadline
    world.feed(life.Tick())
    begin(world)


def test_one_that_does_not_answer_and_does_not_stop_is_killed() -> None:
    world = running()
    world.feed(life.Unhealthy("no answer", 0.0))
    while not world.killed:
        if Job.ASK in world.jobs:
            world.finish(Job.ASK, "done")
        world.now = world.vm.deadline
        world.feed(life.Tick())
    world.exit(Evidence(started=True, vmm_status=-9))
    drop(world)
    assert world.endings[-1].outcome is Outcome.UNHEALTHY


def test_one_that_is_never_restarted_runs_on_although_it_does_not_answer() -> None:
    world = running(life.NEVER)
    world.feed(life.Unhealthy("no answer", 5.0))
    assert world.vm.phase is Phase.RUNNING
    assert world.jobs == {}


def test_failures_are_counted_and_given_up_in_the_end() -> None:
    world = running(Restart(RestartPolicy(RestartMode.ON_FAILURE, 2)))
    for _ in range(2):
        world.exit(Evidence(started=True, status=1))
        drop(world)
        world.now = world.vm.deadline
        world.feed(life.Tick())
        begin(world)
    world.exit(Evidence(started=True, status=1))
    world.settle()
    assert world.finished
    assert world.endings[-1].reason.endswith("given up after 3 failures in a row")
    assert world.things == set()


def test_a_start_that_fails_is_tried_again_too() -> None:
    world = World(life.fresh(PlacementState.ASSIGNED, LIMITS, restart=AGAIN))
    world.feed(life.Begin())
    world.finish(Job.REPORT, "done")
    world.finish(Job.ROOT, "broke")
    drop(world)
    assert world.database is PlacementState.WAITING
    assert world.endings[-1].outcome is Outcome.START_FAILED
    world.feed(life.Hurry())
    begin(world)


def test_a_try_can_be_hurried_and_then_counts_from_the_beginning() -> None:
    world = World(life.waiting(LIMITS, 0.0, 200.0, Restart(ALWAYS, failures=9)))
    world.feed(life.Begin())
    assert world.jobs == {}
    world.feed(life.Hurry())
    begin(world)
    assert world.vm.restart.failures == 0


@pytest.mark.parametrize("park", [True, False])
def test_a_stop_ends_the_waiting(park: bool) -> None:
    world = running()
    world.exit(Evidence(started=True, status=1))
    drop(world)
    world.feed(life.StopWanted(5, park=park))
    world.settle()
    assert world.finished
    assert world.database is (PlacementState.ASSIGNED if park else PlacementState.REMOVED)
    assert world.things == ({Thing.DISK} if park else set())


def test_a_stop_while_the_end_is_cleaned_prevents_the_next_try() -> None:
    world = running()
    world.exit(Evidence(started=True, status=1))
    world.feed(life.StopWanted(5))
    world.settle()
    assert world.finished
    assert world.database is PlacementState.REMOVED
    assert world.endings[-1].outcome is Outcome.EXITED


def test_an_app_that_ends_by_itself_is_told_and_cleaned() -> None:
    world = running(life.NEVER)
    world.exit(Evidence(started=True, status=1, ran=0.44, output=("hello", "no database")))
    world.settle()
    ending = world.endings[-1]
    assert (ending.outcome, ending.status) == (Outcome.EXITED, 1)
    assert ending.reason == "the app exited with status 1 after 0.4 s: no database"
    assert world.things == set()


@pytest.mark.parametrize("job", [Job.ROOT, Job.DISK, Job.TAP])
def test_a_preparation_that_breaks_fails_the_start_with_its_own_words(job: Job) -> None:
    world = World(life.fresh(PlacementState.ASSIGNED, LIMITS))
    world.feed(life.Begin())
    world.finish(Job.REPORT, "done")
    world.finish(job, "broke")
    world.settle()
    assert world.endings[-1].outcome is Outcome.START_FAILED
    assert world.endings[-1].reason == "it broke"
    assert world.things == set()


def test_events_after_the_end_do_nothing() -> None:
    vm = replace(life.fresh(PlacementState.ASSIGNED, LIMITS), phase=Phase.REMOVED)
    for event in (life.Begin(), life.Tick(), life.StopWanted(1), life.AppStarted(), life.Exited(Evidence())):
        assert life.step(vm, event, 1.0) == (vm, [])


def test_no_monitor_before_the_database_knows_and_everything_is_made() -> None:
    for order in ((Job.ROOT, Job.REPORT, Job.DISK, Job.TAP), (Job.DISK, Job.TAP, Job.ROOT, Job.REPORT)):
        world = World(life.fresh(PlacementState.ASSIGNED, LIMITS))
        world.feed(life.Begin())
        world.finish(Job.REPORT, "done")
        for job in order:
            assert Job.LAUNCH not in world.jobs
            world.finish(job, "done")
        assert Job.LAUNCH in world.jobs
        assert world.database is PlacementState.STARTING


def test_a_start_that_is_refused_while_things_are_made_is_cleaned() -> None:
    world = World(life.fresh(PlacementState.ASSIGNED, LIMITS))
    world.feed(life.Begin())
    world.finish(Job.REPORT, "done")
    world.finish(Job.ROOT, "done")
    world.finish(Job.REPORT, "refused")
    world.settle()
    assert world.finished
    assert world.disowned == 1
    assert world.things == set()


def test_it_is_held_still_and_goes_on() -> None:
    world = running()
    world.feed(life.PauseWanted(True))
    assert set(world.jobs) == {Job.PAUSE}
    assert world.database is PlacementState.RUNNING
    world.finish(Job.PAUSE, "done")
    world.finish(Job.REPORT, "done")
    assert (world.vm.phase, world.database, world.still) == (Phase.PAUSED, PlacementState.PAUSED, True)
    world.feed(life.Unhealthy("no answer", 5.0))
    assert world.vm.phase is Phase.PAUSED
    world.feed(life.PauseWanted(False))
    world.finish(Job.RESUME, "done")
    world.finish(Job.REPORT, "done")
    assert (world.vm.phase, world.database, world.still) == (Phase.RUNNING, PlacementState.RUNNING, False)


def test_one_that_can_not_be_held_still_is_tried_again_later() -> None:
    world = running()
    world.feed(life.PauseWanted(True))
    world.finish(Job.PAUSE, "broke")
    assert world.jobs == {}
    world.now = world.vm.deadline
    world.feed(life.Tick())
    assert set(world.jobs) == {Job.PAUSE}
    world.feed(life.PauseWanted(False))
    world.finish(Job.PAUSE, "broke")  # perhaps it is held still, perhaps not
    world.now = world.vm.deadline
    world.feed(life.Tick())
    assert set(world.jobs) == {Job.RESUME}


def test_a_stop_lets_a_paused_guest_go_on_so_that_it_can_end() -> None:
    world = running()
    world.feed(life.PauseWanted(True))
    world.finish(Job.PAUSE, "done")
    world.finish(Job.REPORT, "done")
    world.feed(life.StopWanted(30))
    assert set(world.jobs) == {Job.REPORT, Job.RESUME}
    world.finish(Job.RESUME, "done")
    assert Job.ASK in world.jobs
    world.finish(Job.ASK, "done")
    world.exit(Evidence(started=True, signal=15))
    world.settle()
    assert world.endings[-1].outcome is Outcome.STOPPED


def test_a_forced_stop_does_not_wait_for_a_paused_guest() -> None:
    world = running()
    world.feed(life.PauseWanted(True))
    world.finish(Job.PAUSE, "done")
    world.feed(life.StopWanted(30, force=True))
    assert world.killed


def test_a_snapshot_leaves_it_as_it_is_wanted() -> None:
    first, second = UUID(int=1), UUID(int=2)
    world = running()
    world.feed(life.SnapshotWanted(first))
    world.feed(life.SnapshotWanted(second))
    world.feed(life.SnapshotWanted(first))
    world.feed(life.Unhealthy("no answer", 5.0))
    assert world.vm.phase is Phase.RUNNING, "nobody can answer meanwhile"
    world.finish(Job.SNAPSHOT, "done")
    world.finish(Job.SNAPSHOT, "broke")
    assert world.taken == [first, second]
    world.rest()
    assert (world.vm.phase, world.still, world.jobs) == (Phase.RUNNING, False, {})
    assert world.database is PlacementState.RUNNING


def test_a_stop_gives_a_snapshot_up() -> None:
    world = running()
    world.feed(life.SnapshotWanted(UUID(int=1)))
    world.feed(life.StopWanted(30))
    assert world.cancelled == {Job.SNAPSHOT}
    world.finish(Job.SNAPSHOT, "half")
    assert Job.RESUME in world.jobs
    world.finish(Job.RESUME, "done")
    world.finish(Job.ASK, "done")
    world.exit(Evidence(started=True, signal=15))
    world.settle()
    assert world.things == set()


def test_one_taken_over_is_made_certain() -> None:
    for told, job in ((PlacementState.RUNNING, Job.RESUME), (PlacementState.PAUSED, Job.PAUSE)):
        world = World(life.adopted(told, LIMITS, 0.0, started=True), set(Thing))
        world.feed(life.Begin())
        assert job in world.jobs
        world.rest()
        assert world.database is told


def test_a_monitor_that_does_not_end_is_complained_of_once() -> None:
    world = running()
    world.feed(life.StopWanted(0, force=True))
    world.finish(Job.REPORT, "done")
    for _ in range(5):
        world.now = world.vm.deadline
        world.feed(life.Tick())
    assert world.complaints == ["its monitor does not end, although it was killed"]


@pytest.mark.parametrize(
    ("told", "wanted", "evidence", "outcome"),
    [
        (PlacementState.STARTING, False, Evidence(), Outcome.STOPPED),
        (PlacementState.STARTING, True, Evidence(), Outcome.START_FAILED),
        (PlacementState.STARTING, False, Evidence(error="no such command"), Outcome.START_FAILED),
        (PlacementState.STOPPING, False, Evidence(started=True), Outcome.STOPPED),
        (PlacementState.RUNNING, False, Evidence(started=True), Outcome.UNKNOWN),
        (PlacementState.RUNNING, True, Evidence(started=True, status=0), Outcome.EXITED),
    ],
)
def test_an_end_that_nobody_saw_is_a_stop_where_one_was_under_way(
    told: PlacementState, wanted: bool, evidence: Evidence, outcome: Outcome
) -> None:
    vm = life.ended(told, LIMITS, evidence, wanted=wanted)
    assert vm.ending is not None
    assert vm.ending.outcome is outcome


def test_one_that_was_asked_has_its_time_although_it_can_not_be_asked_again() -> None:
    """A guest that ends takes its agent with it: the second request meets nobody, and that is no reason to kill it."""
    world = running()
    world.feed(life.StopWanted(30))
    world.finish(Job.ASK, "done")
    world.tick()
    world.finish(Job.ASK, "broke")
    assert world.vm.deadline == world.vm.kill_at
    assert not world.killed
    world.exit(Evidence(started=True, signal=15))
    assert world.vm.ending is not None
    assert world.vm.ending.outcome is Outcome.STOPPED


def test_one_that_nobody_can_ask_is_not_waited_for() -> None:
    world = running()
    world.feed(life.StopWanted(30))
    world.finish(Job.ASK, "broke")
    world.tick()
    world.finish(Job.ASK, "broke")
    world.tick()
    assert world.vm.urge == 2
    assert world.now < 10
