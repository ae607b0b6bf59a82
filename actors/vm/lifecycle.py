"""The life of a virtual machine as a pure table: ``step(vm, event, now) -> (vm, effects)``.

    claiming, preparing, committing, spawning, booting, running, stopping, cleaning, (waiting,) reporting, removed

A stop may arrive in every phase and always ends in ``removed`` with every acquired thing dropped. Effects are
jobs: each that is started comes back exactly once, as `Done`, `Broke` or `Dropped` (cancelled). What is acquired
counts as held from the moment it is attempted, since a cancelled attempt may have succeeded.

What ended by itself may be started again in place: it keeps its address and its disk, waits, and begins anew with
``claiming``.

While it runs, its guest may be held still: paused because people want that, or for the time of a snapshot. At most one
job moves it at a time (`MOTION`); what such a job left behind when it failed is not guessed but made so again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from actors.model.restart import RestartMode
from actors.model.states import Outcome, PlacementState
from actors.vm.outcome import Ending, Evidence, classify
from actors.vm.restart import NEVER, Restart, decide, given_up

#: Seconds until an unanswered request to shut down is repeated in another way.
SECOND_ASK = 3.0
#: Share of the margin for a guest that is made to end before its own stop time-out.
HURRIED = 0.2
#: Seconds that a monitor gets to end after SIGTERM.
TERM_GRACE = 2.0
#: Seconds for writing that a machine is only parked, before its monitor is killed.
PARK_GRACE = 2.0
#: Seconds after which SIGKILL is sent again: a monitor stuck in the kernel may need that.
KILL_AGAIN = 5.0
#: After so many of them it is told that the monitor does not end.
STUCK_AFTER = 3
#: First and largest wait in seconds before dropping, pausing or resuming something is tried again.
RETRY_FIRST, RETRY_MAX = 0.5, 30.0


class Phase(StrEnum):
    """Where a virtual machine is in its life."""

    CLAIMING = "claiming"  # the database is told before anything is touched
    PREPARING = "preparing"  # root image, writable disk and TAP, all at once
    COMMITTING = "committing"  # until the database knows that a monitor is about to start
    SPAWNING = "spawning"  # intent, monitor process, configuration
    BOOTING = "booting"  # until the guest says that the app started
    RUNNING = "running"
    PAUSED = "paused"  # its guest is held still until somebody wants it to go on
    STOPPING = "stopping"  # asked, then signalled, then killed
    CLEANING = "cleaning"  # what is held is dropped
    WAITING = "waiting"  # it ended by itself; the time of its next try has not come
    REPORTING = "reporting"  # until the database knows how it ended
    REMOVED = "removed"  # nothing of it is left here


class Thing(StrEnum):
    """What a virtual machine holds on its host."""

    DISK = "disk"  # the writable layer
    TAP = "tap"
    MACHINE = "machine"  # run directory (sockets, PID file, config drive) and cgroup
    VMM = "vmm"  # the monitor's process


class Job(StrEnum):
    """Work that takes time. At most one of each runs."""

    REPORT = "report"
    ROOT = "root"
    DISK = "disk"
    TAP = "tap"
    LAUNCH = "launch"
    PAUSE = "pause"
    RESUME = "resume"
    SNAPSHOT = "snapshot"
    ASK = "ask"
    PARK = "park"
    DROP_DISK = "drop-disk"
    DROP_TAP = "drop-tap"
    DROP_MACHINE = "drop-machine"
    FORGET = "forget"


_PREPARATION = frozenset({Job.ROOT, Job.DISK, Job.TAP})
#: Jobs that hold the guest still or let it go on. A snapshot leaves it held still.
MOTION = frozenset({Job.PAUSE, Job.RESUME, Job.SNAPSHOT})
_DROPS = {Thing.DISK: Job.DROP_DISK, Thing.TAP: Job.DROP_TAP, Thing.MACHINE: Job.DROP_MACHINE}
_THINGS = {job: thing for thing, job in _DROPS.items()}


# --- events


@dataclass(frozen=True, slots=True)
class Begin:
    """The first event."""


@dataclass(frozen=True, slots=True)
class Done:
    """A job succeeded."""

    job: Job


@dataclass(frozen=True, slots=True)
class Broke:
    """A job failed; ``reason`` is a sentence for people."""

    job: Job
    reason: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A job ended because it was cancelled. What it was acquiring may or may not be there."""

    job: Job


@dataclass(frozen=True, slots=True)
class Reported:
    """The database answered the report job: True, or False when another decision was there first."""

    accepted: bool


@dataclass(frozen=True, slots=True)
class Resynced:
    """The host read the placement again after a refused report; this is the database's state of it."""

    state: PlacementState


@dataclass(frozen=True, slots=True)
class AppStarted:
    """The guest said that the app runs."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The monitor's process ended; ``evidence`` is what it and the console left."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class StopWanted:
    """Somebody wants it ended. See `actors.vm.messages.Stop`."""

    timeout: float
    force: bool = False
    park: bool = False


@dataclass(frozen=True, slots=True)
class PauseWanted:
    """Somebody wants the guest held still, or going on again."""

    paused: bool


@dataclass(frozen=True, slots=True)
class SnapshotWanted:
    """Somebody wants a snapshot of it, as soon as it runs."""

    snapshot: UUID


@dataclass(frozen=True, slots=True)
class Hurry:
    """Somebody wants the next try now; earlier failures are forgotten."""


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """It does not answer any more, ``reason`` says which part of it; ``timeout`` is its app's time to end by itself,
    ``ran`` how long it has run.
    """

    reason: str
    timeout: float
    ran: float | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline in the state has passed."""


Event = (
    Begin
    | Done
    | Broke
    | Dropped
    | Reported
    | Resynced
    | AppStarted
    | Exited
    | StopWanted
    | PauseWanted
    | SnapshotWanted
    | Hurry
    | Unhealthy
    | Tick
)


# --- effects


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a job."""

    job: Job


@dataclass(frozen=True, slots=True)
class Ask:
    """Begin `Job.ASK`: request a shutdown from the guest."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Capture:
    """Begin `Job.SNAPSHOT`: the guest is left held still."""

    snapshot: UUID


@dataclass(frozen=True, slots=True)
class Report:
    """Begin `Job.REPORT`: compare-and-set the placement's state. ``wait`` is the seconds to the next try."""

    state: PlacementState
    expected: frozenset[PlacementState]
    ending: Ending | None
    failures: int = 0
    wait: float | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a job early; it still comes back."""

    job: Job


@dataclass(frozen=True, slots=True)
class Watch:
    """Follow the monitor's process and, until the app has started, its console."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Send the monitor SIGTERM, or SIGKILL when ``kill``."""

    kill: bool


@dataclass(frozen=True, slots=True)
class Complain:
    """Tell the database, without a change of ``state``, why that lasts so long."""

    state: PlacementState
    reason: str


@dataclass(frozen=True, slots=True)
class Disown:
    """Tell the host that the database refused a report."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left: the actor may end."""


Effect = Start | Ask | Capture | Report | Cancel | Watch | Signal | Complain | Disown | Finish
Step = tuple["Vm", list[Effect]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: ``start`` from power-on to the app, ``margin`` beyond its stop time-out, for the guest to end.

    ``own`` is the stop time-out that the guest was told: after it the guest kills the app by itself. Somebody who
    waits less waits only `HURRIED` of the margin, since the guest would not use the rest.
    """

    start: float = 60.0
    margin: float = 5.0
    own: float = 0.0

    def patience(self, timeout: float) -> float:
        """Return how long the whole guest gets to end when its app gets ``timeout``."""
        return timeout + (self.margin if timeout >= self.own else self.margin * HURRIED)


@dataclass(frozen=True, slots=True)
class Vm:
    """The state. ``deadline`` is a time of the monotonic clock at which a `Tick` is due.

    ``still`` is whether the guest's CPUs are stopped, None when that has to be made certain; ``orders`` are snapshots
    to take, the first of them being taken while `Job.SNAPSHOT` runs.
    """

    phase: Phase
    known: frozenset[PlacementState]  # what the database may hold now
    tell: PlacementState  # what it should hold
    limits: Limits = Limits()
    reporting: PlacementState | None = None
    jobs: frozenset[Job] = frozenset()
    cancelled: frozenset[Job] = frozenset()
    held: frozenset[Thing] = frozenset()
    ending: Ending | None = None
    stop: StopWanted | None = None
    park: bool = False
    parked: bool = False  # the intent says so on disk
    disowned: bool = False
    forgotten: bool = False
    started: bool = False  # the app has run
    late: bool = False  # the start deadline passed
    pause: bool = False  # it is wanted held still
    still: bool | None = False
    orders: tuple[UUID, ...] = ()
    heard: bool = False  # it was asked to end and may be at it: whatever fails then, it has its time
    urge: int = 0  # how hard it was told to stop: 0, 1 asked, 2 SIGTERM, 3 SIGKILL
    kills: int = 0  # how often SIGKILL was sent
    kill_at: float = 0.0
    deadline: float | None = None
    tries: int = 0
    restart: Restart = NEVER
    again: float | None = None  # seconds from its end to the next try, once that is decided


def fresh(told: PlacementState, limits: Limits, *, leftovers: bool = False, restart: Restart = NEVER) -> Vm:
    """Return the state of a virtual machine that is to start. ``leftovers``: an earlier try may have left things."""
    held = frozenset(_DROPS) if leftovers else frozenset()
    return Vm(Phase.CLAIMING, frozenset({told}), PlacementState.PREPARING, limits, held=held, restart=restart)


def waiting(limits: Limits, now: float, wait: float, restart: Restart) -> Vm:
    """Return the state of a virtual machine that ended in an earlier life of the host; its next try is due."""
    state = PlacementState.WAITING
    return Vm(
        phase=Phase.WAITING,
        known=frozenset({state}),
        tell=state,
        limits=limits,
        held=frozenset(_DROPS),
        deadline=now + wait,
        restart=restart,
        again=wait,
    )


def adopted(told: PlacementState, limits: Limits, now: float, *, started: bool, restart: Restart = NEVER) -> Vm:
    """Return the state of a virtual machine whose monitor was found running; ``started`` when its app ran already.

    Whether its guest was held still when the last host ended, nobody knows.
    """
    paused = started and told is PlacementState.PAUSED
    running = PlacementState.PAUSED if paused else PlacementState.RUNNING
    return Vm(
        phase=Phase.PAUSED if paused else Phase.RUNNING if started else Phase.BOOTING,
        known=frozenset({told}),
        tell=running if started else PlacementState.STARTING,
        pause=paused,
        still=None if started else False,
        limits=limits,
        held=frozenset(Thing),
        started=started,
        deadline=None if started else now + limits.start,
        restart=restart,
    )


def ended(
    told: PlacementState, limits: Limits, evidence: Evidence, *, wanted: bool = False, restart: Restart = NEVER
) -> Vm:
    """Return the state of a virtual machine whose monitor ended while nobody looked. ``wanted``: it should run."""
    asked = told is PlacementState.STOPPING and not wanted
    ending = classify(evidence, asked=asked, killed=False, late=False)
    if not wanted and told is PlacementState.STARTING and ending.outcome is Outcome.START_FAILED and not evidence.error:
        # Nobody wanted it any more, and an earlier life was ending it before the app had started.
        asked, ending = True, Ending(Outcome.STOPPED, "stopped before the app had started")
    vm = Vm(
        phase=Phase.CLEANING,
        known=frozenset({told}),
        tell=told,
        limits=limits,
        held=frozenset(_DROPS),
        started=evidence.started,
        restart=restart,
    )
    return replace(vm, ending=ending) if asked else _conclude(vm, ending, evidence.ran)


def step(vm: Vm, event: Event, now: float) -> Step:
    """Return the next state and the effects to carry out. ``now`` is monotonic, in seconds. Total: never raises."""
    if vm.phase is Phase.REMOVED:
        return vm, []
    match event:
        case Begin():
            return _begin(vm, now)
        case Done(job):
            return _done(_back(vm, job), job, now)
        case Broke(job, reason):
            return _broke(_back(vm, job), job, reason, now)
        case Dropped(job) if job in MOTION:
            return _unmoved(_back(vm, job), job, now)
        case Dropped(job):
            return _after_job(_back(vm, job), now)
        case Reported(accepted):
            return _reported(vm, accepted, now)
        case Resynced(state):
            if not vm.disowned or vm.phase not in (Phase.BOOTING, *_LIVE, Phase.STOPPING):
                return vm, []
            return _sync(replace(vm, disowned=False, known=frozenset({state})))
        case AppStarted():
            return _app_started(vm, now)
        case Exited(evidence):
            return _exited(vm, evidence, now)
        case StopWanted():
            return _stop(vm, event, now)
        case PauseWanted(paused):
            return _move(replace(vm, pause=paused), now)
        case SnapshotWanted(snapshot):
            return _move(vm if snapshot in vm.orders else replace(vm, orders=(*vm.orders, snapshot)), now)
        case Hurry():
            return _hurry(vm)
        case Unhealthy():
            return _unhealthy(vm, event, now)
        case Tick():
            return _tick(vm, now)


def _begin(vm: Vm, now: float) -> Step:
    if vm.phase is Phase.CLEANING:
        return _clean(vm, now)
    vm, effects = _sync(vm)
    vm, moves = _move(vm, now)
    return vm, [*([Watch()] if Thing.VMM in vm.held else []), *effects, *moves]


def _back(vm: Vm, job: Job) -> Vm:
    return replace(
        vm,
        jobs=vm.jobs - {job},
        cancelled=vm.cancelled - {job},
        reporting=None if job is Job.REPORT else vm.reporting,
    )


def _done(vm: Vm, job: Job, now: float) -> Step:
    if job in _THINGS:
        vm = replace(vm, held=vm.held - {_THINGS[job]})
    elif job is Job.LAUNCH:
        vm = replace(vm, held=vm.held | {Thing.VMM}, still=False)
        if vm.phase is Phase.SPAWNING:
            return replace(vm, phase=Phase.BOOTING, deadline=now + vm.limits.start), [Watch()]
        vm, effects = _clean(vm, now)
        return vm, [Watch(), *effects]
    elif job in MOTION:
        return _moved(vm, job, now)
    elif job is Job.ASK:
        vm = replace(vm, heard=True)
    elif job is Job.PARK:
        return _after_parking(replace(vm, parked=True), now)
    elif job is Job.FORGET:
        vm = replace(vm, forgotten=True)
    elif job in _PREPARATION and vm.phase is Phase.PREPARING:
        if job is Job.ROOT:
            # Image and hypervisor are certain: the database may hear of the start while disk and TAP are still made.
            vm = replace(vm, tell=PlacementState.STARTING)
        if not vm.jobs & _PREPARATION:
            if vm.known == {PlacementState.STARTING}:
                return _spawn(vm)
            vm = replace(vm, phase=Phase.COMMITTING)
    return _after_job(vm, now)


def _spawn(vm: Vm) -> Step:
    vm = replace(vm, phase=Phase.SPAWNING, jobs=vm.jobs | {Job.LAUNCH}, held=vm.held | {Thing.MACHINE})
    return vm, [Start(Job.LAUNCH)]


def _broke(vm: Vm, job: Job, reason: str, now: float) -> Step:
    if job in _PREPARATION or job is Job.LAUNCH:
        if vm.ending is None and not vm.park:
            vm = _conclude(vm, Ending(Outcome.START_FAILED, reason), None)
        return _clean(vm, now)
    if job in MOTION:
        return _unmoved(vm, job, now)
    if job is Job.ASK:
        if vm.phase is Phase.STOPPING and vm.urge <= 1 and not vm.heard:
            # An answer that failed once may be a busy monitor; twice, there is nobody to ask.
            return replace(vm, deadline=now + 1.0) if vm.urge == 0 else replace(vm, deadline=now), []
        return vm, []
    if job is Job.REPORT:
        return _sync(vm)
    if job is Job.PARK and Thing.VMM in vm.held:
        return _after_parking(vm, now)  # it is tried again once the monitor has ended
    wait = min(RETRY_MAX, RETRY_FIRST * 2.0 ** min(vm.tries, 10))
    return replace(vm, tries=vm.tries + 1, deadline=now + wait), []


def _after_job(vm: Vm, now: float) -> Step:
    """Go on after a job that came back and changed nothing by itself."""
    if vm.phase is Phase.CLEANING:
        return _clean(vm, now)
    if vm.phase is Phase.REPORTING:
        return _report_end(vm)
    return _sync(vm)


def _sync(vm: Vm) -> Step:
    """Bring the database's view nearer to ours: one report at a time, the newest wins."""
    if vm.reporting is not None:
        outdated = vm.disowned or vm.reporting is not vm.tell
        if outdated and Job.REPORT not in vm.cancelled:
            return replace(vm, cancelled=vm.cancelled | {Job.REPORT}), [Cancel(Job.REPORT)]
        return vm, []
    # A claim is made even when the state is written already: it also says under which boot and by whom.
    if vm.disowned or (vm.known == {vm.tell} and vm.phase is not Phase.CLAIMING):
        return vm, []
    over = vm.tell in (PlacementState.REMOVED, PlacementState.WAITING)
    wait = vm.again if vm.tell is PlacementState.WAITING else None
    effect = Report(vm.tell, vm.known, vm.ending if over else None, vm.restart.failures, wait)
    return replace(vm, reporting=vm.tell, known=vm.known | {vm.tell}, jobs=vm.jobs | {Job.REPORT}), [effect]


def _reported(vm: Vm, accepted: bool, now: float) -> Step:
    state = vm.reporting
    vm = _back(vm, Job.REPORT)
    if state is None:
        return vm, []
    if not accepted:
        return _refused(vm, now)
    vm = replace(vm, known=frozenset({state}))
    if vm.phase is Phase.CLAIMING and state is PlacementState.PREPARING:
        jobs = sorted(_PREPARATION)
        vm = replace(
            vm,
            phase=Phase.PREPARING,
            jobs=vm.jobs | _PREPARATION,
            held=vm.held | {Thing.DISK, Thing.TAP},
        )
        return vm, [Start(job) for job in jobs]
    if vm.phase is Phase.COMMITTING and state is PlacementState.STARTING:
        return _spawn(vm)
    return _after_job(vm, now)


def _refused(vm: Vm, now: float) -> Step:
    vm = replace(vm, disowned=True)
    if vm.phase is Phase.CLAIMING:
        # Nothing was touched in this life; what an earlier one left is for the host to judge by tombstones.
        return replace(vm, phase=Phase.REMOVED, deadline=None), [Disown(), Finish()]
    if vm.phase in (Phase.PREPARING, Phase.COMMITTING, Phase.WAITING):
        vm, effects = _clean(vm, now)
        return vm, [Disown(), *effects]
    vm, effects = _after_job(vm, now)
    return vm, [Disown(), *effects]


def _app_started(vm: Vm, now: float) -> Step:
    vm = replace(vm, started=True)
    if vm.phase is not Phase.BOOTING:
        return vm, []
    vm, effects = _sync(replace(vm, phase=Phase.RUNNING, tell=PlacementState.RUNNING, deadline=None, tries=0))
    vm, moves = _move(vm, now)
    return vm, [*effects, *moves]


#: Phases in which the app has started and nothing has asked it to end.
_LIVE = (Phase.RUNNING, Phase.PAUSED)


def _move(vm: Vm, now: float) -> Step:
    """Bring the guest nearer to how it is wanted: snapshots first, then held still or going on."""
    if vm.phase not in _LIVE or vm.jobs & MOTION or (vm.deadline is not None and now < vm.deadline):
        return vm, []
    vm = replace(vm, deadline=None)
    if vm.orders:
        return replace(vm, still=None, jobs=vm.jobs | {Job.SNAPSHOT}), [Capture(vm.orders[0])]
    if vm.still is not vm.pause:
        job = Job.PAUSE if vm.pause else Job.RESUME
        return replace(vm, still=None, jobs=vm.jobs | {job}), [Start(job)]
    phase, tell = (Phase.PAUSED, PlacementState.PAUSED) if vm.pause else (Phase.RUNNING, PlacementState.RUNNING)
    return _sync(replace(vm, phase=phase, tell=tell, tries=0))


def _moved(vm: Vm, job: Job, now: float) -> Step:
    """Go on after a motion that succeeded."""
    if job is Job.SNAPSHOT:
        vm = replace(vm, orders=vm.orders[1:])
    elif vm.phase in (*_LIVE, Phase.STOPPING):
        vm = replace(vm, still=job is Job.PAUSE)
    return _after_motion(vm, now)


def _unmoved(vm: Vm, job: Job, now: float) -> Step:
    """Go on after a motion that failed or was given up: how it left the guest is not known.

    A snapshot is not tried again, since people were told that it failed.
    """
    if job is Job.SNAPSHOT:
        vm = replace(vm, orders=vm.orders[1:])
    elif vm.phase in _LIVE:
        wait = min(RETRY_MAX, RETRY_FIRST * 2.0 ** min(vm.tries, 10))
        vm = replace(vm, tries=vm.tries + 1, deadline=now + wait)
    return _after_motion(vm, now, certain=job is not Job.RESUME)


def _after_motion(vm: Vm, now: float, *, certain: bool = True) -> Step:
    if vm.phase in _LIVE:
        return _move(vm, now)
    if vm.phase is Phase.STOPPING:
        # One that could not be made to go on is asked all the same; its time runs.
        return _request(vm if certain else replace(vm, still=False))
    return _after_job(vm, now)


def _after_parking(vm: Vm, now: float) -> Step:
    """Now the monitor may end: should we be killed over it, the next life knows that it was not to stay ended."""
    if vm.phase is Phase.STOPPING:
        return _request(vm)
    if vm.phase is Phase.CLEANING and Thing.VMM in vm.held and vm.urge < 3:
        return _kill(vm, now)
    return _after_job(vm, now)


def _parking(vm: Vm) -> bool:
    """Return whether it has to be written yet that the machine is only parked."""
    return vm.park and not vm.parked and not vm.disowned


def _request(vm: Vm) -> Step:
    """Ask for the shutdown, of a guest that goes on: one held still hears nothing."""
    if Job.PARK in vm.jobs:
        return vm, []
    if vm.urge > 0 or vm.jobs & {*MOTION, Job.ASK}:
        cancel = sorted((vm.jobs & MOTION - {Job.RESUME}) - vm.cancelled) if vm.urge == 0 else []
        return replace(vm, cancelled=vm.cancelled | set(cancel)), [Cancel(job) for job in cancel]
    if vm.still is not False:
        return replace(vm, jobs=vm.jobs | {Job.RESUME}), [Start(Job.RESUME)]
    return replace(vm, jobs=vm.jobs | {Job.ASK}), [Ask(0)]


def _exited(vm: Vm, evidence: Evidence, now: float) -> Step:
    if Thing.VMM not in vm.held:
        return vm, []
    vm = replace(vm, held=vm.held - {Thing.VMM}, started=vm.started or evidence.started)
    if vm.ending is None and not vm.park:
        asked = vm.stop is not None
        forced = vm.stop is not None and vm.stop.force
        ending = classify(evidence, asked=asked, killed=vm.urge >= 2, late=vm.late, forced=forced)
        vm = replace(vm, ending=ending) if asked else _conclude(vm, ending, evidence.ran)
    return _clean(replace(vm, deadline=None), now)


def _conclude(vm: Vm, ending: Ending, ran: float | None) -> Vm:
    """Note how it ended by itself, and whether there is another try."""
    restart, again = decide(vm.restart, ending, ran)
    if again is None:
        ending = replace(ending, reason=ending.reason + given_up(restart))
    return replace(vm, ending=ending, restart=restart, again=again)


def _retrying(vm: Vm) -> bool:
    return vm.again is not None and not vm.disowned and not vm.park


def _wait(vm: Vm, now: float) -> Step:
    """Nothing runs any more: tell when the next try is, and wait for it."""
    assert vm.again is not None
    return _sync(replace(vm, phase=Phase.WAITING, tell=PlacementState.WAITING, deadline=now + vm.again, tries=0))


def _again(vm: Vm) -> Step:
    return _sync(
        replace(
            vm,
            phase=Phase.CLAIMING,
            tell=PlacementState.PREPARING,
            deadline=None,
            ending=None,
            again=None,
            started=False,
            late=False,
            still=False,
            urge=0,
            kills=0,
            kill_at=0.0,
        )
    )


def _hurry(vm: Vm) -> Step:
    if vm.again is None:
        return vm, []
    vm = replace(vm, restart=replace(vm.restart, failures=0), again=0.0)
    return _again(vm) if vm.phase is Phase.WAITING else (vm, [])


def _unhealthy(vm: Vm, event: Unhealthy, now: float) -> Step:
    """End what runs but does not answer; a machine that is not started again is left to its people."""
    held = vm.pause or vm.still is not False  # for a snapshot, say: then nobody could answer
    if vm.phase is not Phase.RUNNING or held or vm.restart.policy.mode is RestartMode.NEVER:
        return vm, []
    vm = _conclude(vm, Ending(Outcome.UNHEALTHY, event.reason), event.ran)
    vm, effects = _sync(replace(vm, phase=Phase.STOPPING, tell=PlacementState.STOPPING))
    vm, more = _ask(vm, event.timeout, now)
    return vm, [*effects, *more]


def _stop(vm: Vm, wanted: StopWanted, now: float) -> Step:
    before = vm.stop
    alive = _retrying(vm) or vm.phase not in (Phase.CLEANING, Phase.REPORTING)
    over = vm.ending is not None and not _retrying(vm)
    # Parking is for what would otherwise run on; once an end is known, or somebody wants it gone, it is gone.
    park = wanted.park and not over and (vm.park or (alive and before is None))
    unpark = vm.park and not park
    vm = replace(vm, stop=wanted, park=park, again=None, ending=None if park else vm.ending)
    if unpark and vm.ending is None:
        vm = replace(vm, ending=Ending(Outcome.STOPPED, "stopped"))
    match vm.phase:
        case Phase.CLAIMING | Phase.PREPARING | Phase.COMMITTING | Phase.SPAWNING | Phase.BOOTING:
            if not park:
                vm = replace(vm, ending=Ending(Outcome.STOPPED, "stopped before the app had started"))
            return _clean(vm, now)
        case Phase.WAITING:
            if vm.ending is None and not park:
                vm = replace(vm, ending=Ending(Outcome.STOPPED, "stopped while it waited for its next try"))
            return _clean(vm, now)
        case Phase.RUNNING | Phase.PAUSED:
            vm = replace(vm, phase=Phase.STOPPING, tell=PlacementState.STOPPING)
            vm, effects = _sync(vm)
            if _parking(vm):
                vm = replace(vm, jobs=vm.jobs | {Job.PARK})
                effects = [Start(Job.PARK), *effects]
            vm, more = _kill(vm, now) if wanted.force else _ask(vm, wanted.timeout, now)
            return vm, [*effects, *more]
        case Phase.STOPPING:
            if wanted.force and vm.urge < 3:
                return _kill(vm, now)
            if before is not None and wanted.timeout < before.timeout and vm.urge <= 1:
                kill_at = min(vm.kill_at, now + vm.limits.patience(wanted.timeout))
                return replace(vm, kill_at=kill_at, deadline=min(vm.deadline or kill_at, kill_at)), []
            return vm, []
        case Phase.REPORTING if unpark:
            return _clean(replace(vm, phase=Phase.CLEANING), now)
        case _:
            return vm, []


def _ask(vm: Vm, timeout: float, now: float) -> Step:
    kill_at = now + vm.limits.patience(timeout)
    deadline = min(kill_at, now + SECOND_ASK)
    return _request(replace(vm, urge=0, heard=False, kill_at=kill_at, deadline=deadline))


def _kill(vm: Vm, now: float) -> Step:
    vm = replace(vm, urge=3, kills=vm.kills + 1, deadline=now + KILL_AGAIN)
    if vm.kills != STUCK_AFTER or vm.known != {vm.tell} or vm.disowned:
        return vm, [Signal(kill=True)]
    return vm, [Signal(kill=True), Complain(vm.tell, "its monitor does not end, although it was killed")]


def _tick(vm: Vm, now: float) -> Step:
    if vm.deadline is None or now < vm.deadline:
        return vm, []
    match vm.phase:
        case Phase.BOOTING:
            return _clean(replace(vm, late=True), now)
        case Phase.RUNNING | Phase.PAUSED:
            return _move(vm, now)
        case Phase.STOPPING if vm.urge == 0 and now < vm.kill_at and not vm.jobs & {Job.ASK, *MOTION}:
            vm = replace(vm, urge=1, deadline=vm.kill_at, jobs=vm.jobs | {Job.ASK})
            return vm, [Ask(1)]
        case Phase.STOPPING if vm.urge == 0 and now < vm.kill_at:
            return replace(vm, deadline=min(vm.kill_at, now + SECOND_ASK)), []
        case Phase.STOPPING if vm.urge <= 1:
            return replace(vm, urge=2, deadline=now + TERM_GRACE), [Signal(kill=False)]
        case Phase.STOPPING:
            return _kill(vm, now)
        case Phase.CLEANING:
            if Thing.VMM in vm.held:
                return _kill(vm, now)
            return _clean(replace(vm, deadline=None), now)
        case Phase.REPORTING:
            return _report_end(replace(vm, deadline=None))
        case Phase.WAITING:
            return _again(vm)
        case _:
            return replace(vm, deadline=None), []


def _clean(vm: Vm, now: float) -> Step:
    """Take the next step towards holding nothing: first acquiring ends, then the monitor, then the rest."""
    entering = vm.phase is not Phase.CLEANING
    if entering:
        vm = replace(vm, phase=Phase.CLEANING, deadline=None, tries=0)
    effects: list[Effect] = []
    acquiring = vm.jobs & (_PREPARATION | MOTION | {Job.LAUNCH})
    if acquiring:
        cancel = sorted(acquiring - vm.cancelled)
        return replace(vm, cancelled=vm.cancelled | acquiring), [Cancel(job) for job in cancel]
    if Thing.VMM in vm.held:
        if vm.deadline is not None:
            return vm, []
        if _parking(vm) and Job.PARK not in vm.jobs:
            vm = replace(vm, jobs=vm.jobs | {Job.PARK}, deadline=now + PARK_GRACE)
            return vm, [Start(Job.PARK)]
        return _kill(vm, now)
    if vm.deadline is not None and now < vm.deadline:
        return vm, []  # something could not be dropped; it is tried again then
    keep = {Thing.DISK} if vm.park else {Thing.DISK, Thing.TAP} if _retrying(vm) else set()
    drops = {_DROPS[thing] for thing in vm.held - keep}
    if _parking(vm):
        drops.add(Job.PARK)
    effects = [Start(job) for job in sorted(drops - vm.jobs)]
    if drops:
        return replace(vm, jobs=vm.jobs | drops), effects
    if vm.jobs & {*_DROPS.values(), Job.PARK}:
        return vm, []
    if _retrying(vm):
        return _wait(vm, now)
    return _report_end(replace(vm, phase=Phase.REPORTING, deadline=None, tries=0))


def _report_end(vm: Vm) -> Step:
    final = PlacementState.ASSIGNED if vm.park else PlacementState.REMOVED
    vm = replace(vm, tell=final)
    if vm.reporting is not None or (vm.known != {final} and not vm.disowned):
        return _sync(vm)
    if not vm.park and not vm.forgotten:
        if Job.FORGET in vm.jobs or vm.deadline is not None:
            return vm, []
        return replace(vm, jobs=vm.jobs | {Job.FORGET}), [Start(Job.FORGET)]
    return replace(vm, phase=Phase.REMOVED, deadline=None), [Finish()]
