"""One virtual machine: carries out what its lifecycle decides and tells it what came of it."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID

import trio

from actors.host.store import PlacementStore, SnapshotStore
from actors.model.crash_points import CrashPoint
from actors.model.errors import Failed, Problem
from actors.model.ids import short_id
from actors.model.image import RootImage
from actors.model.records import Observation, Placement
from actors.model.states import PlacementState
from actors.tap.messages import TapDevice, TapDown, TapUp
from actors.vm import lifecycle as life
from actors.vm.console import ConsoleParser, rotate
from actors.vm.files import shed, size, stored
from actors.vm.guest import CONSOLE, FIGURES, LOG
from actors.vm.intent import Intent
from actors.vm.keeper import SnapshotKeeper
from actors.vm.lifecycle import MOTION, Job, Phase
from actors.vm.line import Answers, GuestLine
from actors.vm.machine import Acceleration, Hypervisor
from actors.vm.messages import (
    Disowned,
    Replace,
    Resync,
    Retry,
    SetPaused,
    Stop,
    TakeSnapshot,
    VmChanged,
    VmView,
)
from actors.vm.operations import HostOperations, Operations
from actors.vm.outcome import Evidence
from actors.vm.process import PidFile, VmProcess
from actors.vm.recover import Found
from actors.vm.report import observation, observe
from actors.vm.restart import Restart, longest_wait
from actors.vm.root import await_root
from actors.vm.settings import VmSettings
from actors.vm.work import Launch, Launched
from runtime import Actor, ActorError, Effect, Message, Ref, crash

#: Seconds for the TAP actor to answer.
_TAP = 40.0
#: Seconds between looks at the console of a guest that boots, and at the size of every console.
_BOOT_POLL, _ROTATE_EVERY = 0.02, 5.0
#: Bytes of a monitor's own log that are kept.
_LOG_LIMIT = 1024 * 1024
_ACTIVE = (Phase.BOOTING, Phase.RUNNING, Phase.PAUSED, Phase.STOPPING)


@dataclass(frozen=True, slots=True)
class _Fact(Message):
    """Something happened to the machine."""

    event: life.Event


@dataclass(frozen=True, slots=True)
class _JobDone(Message):
    job: Job
    result: Any


@dataclass(frozen=True, slots=True)
class _JobBroke(Message):
    job: Job
    error: Exception


@dataclass(frozen=True, slots=True)
class _JobDropped(Message):
    job: Job


@dataclass(frozen=True, slots=True)
class _Announce(Message):
    """Tell the host again."""


@dataclass(frozen=True, slots=True)
class _Rotate(Message):
    """Look at the console's size."""


@dataclass(frozen=True, slots=True)
class _Pulse(Message):
    """Ask whether guest and monitor are alive."""


@dataclass(frozen=True, slots=True)
class _Answered(Message):
    """What came of a pulse of ``line``."""

    line: GuestLine
    answers: Answers


@dataclass(frozen=True, slots=True)
class _Awaited(Message):
    """The image is not here yet; ``reason`` says how far it is."""

    reason: str


@dataclass(frozen=True, slots=True)
class _LineChanged(Message):
    """The guest's agent connected, or its connection ended."""

    line: GuestLine


@dataclass(frozen=True, slots=True)
class _Noted(Message):
    """Work on the side ended; ``error`` says how, if badly."""

    what: str
    error: Exception | None = None


class VmActor(Actor):
    """The virtual machine of one placement.

    It looks first what an earlier process left: a monitor that runs is taken over, one that ended is told, a start
    that was interrupted is cleaned and begun again. ``stop`` is set for a placement that is not wanted any more.
    When the actor is stopped, the machine runs on. ``operations`` are those on this machine unless given.
    """

    def __init__(
        self,
        placement: Placement,
        settings: VmSettings,
        store: PlacementStore,
        snapshots: SnapshotStore,
        *,
        tap: Ref,
        host: Ref,
        stop: Stop | None = None,
        operations: Operations | None = None,
    ) -> None:
        self._placement = placement
        self._settings = settings
        self._store = store
        self._snapshot_store = snapshots
        self._tap = tap
        self._host = host
        self._initial_stop = stop
        self._data = settings.paths.placement(placement.id)
        self._run = settings.paths.vm_run(placement.id)
        self._operations = operations or HostOperations(settings, placement)
        self._console = self._data / CONSOLE
        self._vm = life.fresh(placement.state, life.Limits())
        self._scopes: dict[Job, trio.CancelScope] = {}
        self._root: RootImage | None = None
        self._tap_device: TapDevice | None = None
        self._hypervisor: Hypervisor | None = None
        self._intent: Intent | None = None
        self._pid_file: PidFile | None = None
        self._process: VmProcess | None = None
        self._adopted = False
        #: The snapshot that it goes on from until its app has run.
        self._restore = placement.restore
        self._line: GuestLine | None = None
        self._line_effect: Effect | None = None
        self._pulsing = False
        self._doubt = ""
        self._boot_slot: trio.Semaphore | None = None
        self._rotating = False
        #: Held by whoever moves the console's content, or needs to find it in its place.
        self._moving = trio.Lock()
        self._tick: Any = None
        self._since = 0.0
        self._shown: VmView | None = None

    # --- beginning and end

    async def init(self) -> None:
        """Find out what is here already, then begin."""
        placement = self._placement
        self._keeper = SnapshotKeeper(self._operations, self._snapshot_store, self.ctx.env, self.ctx.log)
        found = await self._operations.recover()
        for stray in found.strays:
            self.ctx.log.warning("monitor of an interrupted start is ended", placement=str(placement.id), pid=stray.pid)
            await stray.kill()
            stray.close()
        self._intent, self._pid_file = found.intent, found.pid_file
        if found.intent is not None and found.found in (Found.RUNNING, Found.ENDED):
            self._hypervisor = self._settings.control(found.intent.hypervisor, found.intent.acceleration)
        self._since = self.ctx.env.now()
        now = self.ctx.env.monotonic()
        restart = Restart(placement.restart, placement.failures, self.ctx.env.random.random())
        events: list[life.Event] = [life.Begin()]
        match found.found:
            case Found.RUNNING:
                assert found.process is not None
                self._process, self._adopted = found.process, True
                started = found.pid_file is not None and found.pid_file.app_started_at is not None
                self._vm = life.adopted(placement.state, self._limits(), now, started=started, restart=restart)
                self.ctx.log.info("running machine taken over", placement=str(placement.id), pid=found.process.pid)
                self._aside("tap", partial(self._tap.ask, TapUp(), timeout=_TAP))
            case Found.ENDED:
                evidence = await self._evidence(None, False)
                wanted = self._initial_stop is None
                self._vm = life.ended(placement.state, self._limits(), evidence, wanted=wanted, restart=restart)
            case _ if placement.state is PlacementState.WAITING:
                due = placement.next_try_at
                # Never longer than it was to be: the clock may have been set back since.
                longest = longest_wait(placement.failures)
                wait = 0.0 if due is None else min(max(0.0, due - self._since), longest)
                self._vm = life.waiting(life.Limits(), now, wait, restart)
            case _:
                leftovers = found.found is Found.HALF_MADE
                self._vm = life.fresh(placement.state, life.Limits(), leftovers=leftovers, restart=restart)
                if self._initial_stop is not None:
                    events = []  # nothing is to be claimed for what is not wanted
        self._vm = replace(self._vm, pause=placement.paused, orders=placement.snapshots)
        if self._initial_stop is not None:
            stop = self._initial_stop
            events.append(life.StopWanted(stop.timeout, stop.force, stop.park))
        self.ctx.every(_ROTATE_EVERY, _Rotate())
        self.ctx.every(self._settings.pulse, _Pulse())
        for event in events:
            self.ctx.ref.tell(_Fact(event))

    async def stopped(self, reason: object) -> None:
        """Let go. The machine runs on; whoever comes next takes it over."""
        del reason
        self._free_slot()
        self._end_line()
        if self._process is not None:
            self._process.close()

    # --- messages

    async def receive(self, message: Message) -> None:
        """Turn messages into the lifecycle's events."""
        match message:
            case _Fact(event=event):
                self._feed(event)
            case _JobDone(job=job, result=result):
                self._scopes.pop(job, None)
                self._job_done(job, result)
            case _JobBroke(job=job, error=error):
                self._scopes.pop(job, None)
                if job is Job.SNAPSHOT:
                    self._snapshot_failed(_sentence(error))
                self.ctx.log.warning("job failed", placement=str(self._placement.id), job=job, error=str(error))
                self._feed(life.Broke(job, _sentence(error)))
            case _JobDropped(job=job):
                self._scopes.pop(job, None)
                if job is Job.SNAPSHOT:
                    self._snapshot_failed("the machine was ended meanwhile")
                self._feed(life.Dropped(job))
            case Stop(timeout=timeout, force=force, park=park):
                self._feed(life.StopWanted(timeout, force, park))
            case Replace(reason=reason, timeout=timeout):
                started = self._pid_file.app_started_at if self._pid_file is not None else None
                ran = None if started is None else max(0.0, self.ctx.env.now() - started)
                self._feed(life.Unhealthy(f"it did not answer its health check: {reason}", timeout, ran))
            case SetPaused(paused=paused):
                self._feed(life.PauseWanted(paused))
            case TakeSnapshot(snapshot_id=snapshot_id):
                self._feed(life.SnapshotWanted(snapshot_id))
            case Retry():
                self._feed(life.Hurry())
            case Resync(state=state):
                self._feed(life.Resynced(state))
            case _Announce():
                self._announce(again=True)
            case _Rotate():
                if self._vm.phase in _ACTIVE and not self._rotating and self._too_large():
                    self._rotating = True
                    self._aside("rotate", self._rotate)
            case _Pulse():
                self._pulse()
            case _Answered(line=line, answers=answers):
                self._pulsing = False
                if line is self._line:
                    self._answered(line, answers)
            case _Awaited(reason=reason):
                if Job.ROOT in self._vm.jobs and self._vm.phase is Phase.PREPARING:
                    self.ctx.log.info("machine waits: " + reason, placement=str(self._placement.id))
                    self._explain(PlacementState.PREPARING, reason)
            case _LineChanged(line=line):
                if line is self._line:
                    self._line_changed(line)
            case _Noted(what=what, error=error):
                if what == "rotate":
                    self._rotating = False
                if error is not None:
                    self.ctx.log.warning(
                        "work on the side failed", placement=str(self._placement.id), what=what, error=str(error)
                    )
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _job_done(self, job: Job, result: Any) -> None:
        match job:
            case Job.REPORT:
                self._feed(life.Reported(bool(result)))
                return
            case Job.ROOT:
                self._root, self._hypervisor = result
            case Job.TAP:
                self._tap_device = result
            case Job.SNAPSHOT:
                self._keep_snapshot(self._vm.orders[0])
            case Job.LAUNCH:
                launched: Launched = result
                self._process, self._pid_file, self._intent = launched.process, launched.pid_file, launched.intent
                self._vm = replace(self._vm, limits=self._limits())
                self.ctx.log.info(
                    "machine started",
                    placement=str(self._placement.id),
                    hypervisor=launched.intent.hypervisor,
                    version=launched.intent.vmm_version,
                    pid=launched.process.pid,
                )
            case _:
                pass
        self._feed(life.Done(job))

    def _feed(self, event: life.Event) -> None:
        before = self._vm.phase
        self._vm, effects = life.step(self._vm, event, self.ctx.env.monotonic())
        phase = self._vm.phase
        if phase is not before:
            self._since = self.ctx.env.now()
            self.ctx.log.info(
                "machine is " + phase,
                placement=str(self._placement.id),
                reason=self._vm.ending.reason if self._vm.ending else None,
            )
            if phase is Phase.RUNNING:
                self._restore = None
                self._note_app_start()
            elif phase is Phase.WAITING:
                self._let_go()
        if phase not in (Phase.SPAWNING, Phase.BOOTING) and Job.LAUNCH not in self._vm.jobs:
            self._free_slot()
        for effect in effects:
            self._carry_out(effect)
        self._arm()
        self._announce()

    def _let_go(self) -> None:
        """Nothing of the monitor that ended is of use to the next one."""
        self._end_line()
        if self._process is not None:
            self._process.close()
        self._process, self._pid_file, self._adopted = None, None, False

    def _note_app_start(self) -> None:
        if self._pid_file is None or self._pid_file.app_started_at is not None:
            return
        crash.point(CrashPoint.APP_STARTED)
        try:
            self._pid_file = self._pid_file.update(self._run, app_started_at=self.ctx.env.now())
            crash.point(CrashPoint.APP_NOTED)
        except OSError as error:
            # Only a later adoption would be slower for it: it then looks through the console.
            self.ctx.log.warning("PID file not written", placement=str(self._placement.id), error=str(error))

    def _arm(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        if self._vm.deadline is not None:
            wait = max(0.0, self._vm.deadline - self.ctx.env.monotonic())
            self._tick = self.ctx.after(wait, _Fact(life.Tick()))

    # --- effects

    def _carry_out(self, effect: life.Effect) -> None:
        match effect:
            case life.Start(job=job):
                self._start(job, self._work(job))
            case life.Ask(attempt=attempt):
                self._start(Job.ASK, partial(self._ask_guest, attempt))
            case life.Capture(snapshot=snapshot):
                self._start(Job.SNAPSHOT, partial(self._capture, snapshot))
            case life.Report():
                self._start(Job.REPORT, partial(self._report, effect))
            case life.Complain(state=state, reason=reason):
                self._complain(state, reason)
            case life.Cancel(job=job):
                scope = self._scopes.get(job)
                if scope is not None:
                    scope.cancel()
            case life.Watch():
                self._watch()
            case life.Signal(kill=kill):
                if self._process is not None:
                    self._process.send(signal.SIGKILL if kill else signal.SIGTERM)
            case life.Disown():
                self.ctx.log.warning("the database refused an observation", placement=str(self._placement.id))
                self._tell_host(Disowned(self._placement.id))
            case life.Finish():
                self._announce()
                self.ctx.stop()

    def _start(self, job: Job, work: Callable[[], Awaitable[Any]]) -> None:
        """Run a job so that it always comes back, cancelled or not."""
        scope = self._scopes[job] = trio.CancelScope()

        async def run() -> Message:
            with scope:
                return _JobDone(job, await work())
            return _JobDropped(job)

        self.ctx.effect(
            run, name=job, deadline=None, then=lambda message: message, failed=lambda error: _JobBroke(job, error)
        )

    def _aside(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        """Run work that the lifecycle does not wait for; its failure is logged."""
        self.ctx.effect(
            work,
            name=what,
            deadline=60.0,
            then=lambda _: _Noted(what),
            failed=lambda error: _Noted(what, error),
        )

    def _work(self, job: Job) -> Callable[[], Awaitable[Any]]:
        match job:
            case Job.ROOT:
                return self._fetch_root
            case Job.DISK:
                return partial(self._operations.make_disk, self._restore)
            case Job.TAP:
                return partial(self._tap.ask, TapUp(), timeout=_TAP)
            case Job.LAUNCH:
                return self._launch
            case Job.PAUSE:
                return self._need_line().pause
            case Job.RESUME:
                return self._need_line().resume
            case Job.PARK:
                return self._park
            case Job.DROP_DISK:
                return self._operations.drop_disk
            case Job.DROP_TAP:
                return partial(self._tap.ask, TapDown(), timeout=_TAP)
            case Job.DROP_MACHINE:
                return self._operations.drop_machine
            case Job.FORGET:
                return self._forget
            case _:
                raise AssertionError(f"{job} is not started this way")

    async def _fetch_root(self) -> tuple[RootImage, Hypervisor]:
        hypervisor = await self._operations.choose()
        ref, placement = self.ctx.ref, self._placement
        root = await await_root(
            self.ctx.system,
            self.ctx.env,
            placement.image_digest,
            placement.image_source,
            lambda reason: ref.tell(_Awaited(reason)),
        )
        return root, hypervisor

    async def _launch(self) -> Launched:
        assert self._root is not None
        assert self._tap_device is not None
        assert self._hypervisor is not None
        asked = self.ctx.env.monotonic()
        slots = self._settings.slots(self._hypervisor.acceleration)
        await slots.acquire()
        self._boot_slot = slots
        if (waited := self.ctx.env.monotonic() - asked) >= 0.001:
            self.ctx.log.info(
                "other guests booted first", placement=str(self._placement.id), waited_ms=round(waited * 1000, 1)
            )
        return await self._operations.start(
            Launch(
                hypervisor=self._hypervisor,
                root=self._root,
                tap=self._tap_device,
                nonce=self.ctx.env.entropy(8).hex(),
                env=self.ctx.env,
                restore=self._restore,
            )
        )

    async def _park(self) -> None:
        if self._intent is not None:
            self._intent = await self._operations.park(self._intent)
            crash.point(CrashPoint.PARKED)

    async def _forget(self) -> None:
        async with self._moving:
            await self._operations.forget()

    async def _ask_guest(self, attempt: int) -> None:
        # When keyboard or button were not heard, the init is told itself.
        told = attempt > 0 and self._line is not None and await self._line.ask_to_stop()
        if self._hypervisor is not None and not told:
            await self._hypervisor.request_shutdown(self._run, attempt)
        crash.point(CrashPoint.STOP_ASKED)

    async def _report(self, report: life.Report) -> bool:
        """Tell the database until it is told: while it is away the machine runs on and this waits."""
        seen = observation(
            report,
            now=self.ctx.env.now(),
            hypervisor=self._hypervisor.name if self._hypervisor is not None else None,
            pid=self._process.pid if self._process is not None else None,
            boot=self._settings.boot(),
        )
        return await observe(self._store, self._placement.id, report.expected, seen, self.ctx.env, self.ctx.log)

    def _complain(self, state: PlacementState, reason: str) -> None:
        """Tell people what is wrong while a state lasts, or with "" that all is well again."""
        self.ctx.log.warning("machine: " + (reason or "all is well again"), placement=str(self._placement.id))
        self._explain(state, reason)

    def _explain(self, state: PlacementState, reason: str) -> None:
        """Tell people why a state lasts. Not worth more than one try."""
        self._aside(
            "complaint",
            partial(self._store.observe, self._placement.id, frozenset({state}), Observation(state, reason)),
        )

    # --- guest and monitor

    def _begin_line(self) -> None:
        intent, pid_file = self._intent, self._pid_file
        if intent is None or self._hypervisor is None:
            return
        self._end_line()
        line = self._line = GuestLine(
            self._hypervisor,
            self._run,
            self._placement.id,
            self._settings.agents,
            self.ctx.env,
            agent=intent.agent,
            heard_before=pid_file is not None and pid_file.agent,
            changed=lambda: self.ctx.ref.tell(_LineChanged(line)),
        )
        self._line_effect = self.ctx.effect(
            line.run, name="line", deadline=None, failed=lambda error: _Noted("line", error)
        )

    def _end_line(self) -> None:
        if self._line_effect is not None:
            self._line_effect.cancel()
        self._line, self._line_effect, self._doubt = None, None, ""

    def _need_line(self) -> GuestLine:
        if self._line is None:
            raise Failed("its monitor is not known any more")
        return self._line

    def _line_changed(self, line: GuestLine) -> None:
        if line.note_connected() and self._pid_file is not None:
            try:
                self._pid_file = self._pid_file.update(self._run, agent=True)
            except OSError as error:
                self.ctx.log.warning("PID file not written", placement=str(self._placement.id), error=str(error))

    def _pulse(self) -> None:
        line, vm = self._line, self._vm
        held = vm.pause or vm.still is not False or vm.jobs & MOTION
        if line is None or vm.phase is not Phase.RUNNING or held or self._pulsing:
            return
        self._pulsing = True
        self.ctx.effect(
            line.pulse,
            name="pulse",
            deadline=60.0,
            then=lambda answers: _Answered(line, answers),
            failed=lambda _: _Answered(line, Answers(monitor=False)),
        )

    def _answered(self, line: GuestLine, answers: Answers) -> None:
        if self._vm.phase is not Phase.RUNNING or self._vm.still is not False:
            return  # asked in the middle of being held still
        line.count(answers)
        doubt, lost = line.liveness.doubt, line.liveness.lost
        if doubt != self._doubt:
            self._doubt = doubt
            self._complain(PlacementState.RUNNING, doubt)
        if lost:
            started = self._pid_file.app_started_at if self._pid_file is not None else None
            ran = None if started is None else max(0.0, self.ctx.env.now() - started)
            self._feed(life.Unhealthy(lost, 0.0, ran))
        self._announce()

    # --- snapshots

    async def _capture(self, snapshot: UUID) -> None:
        await self._need_line().capture(snapshot, self._operations)

    def _keep_snapshot(self, snapshot: UUID) -> None:
        assert self._intent is not None
        self._follow_up(f"keep {snapshot}", partial(self._keeper.keep, snapshot, self._intent))

    def _snapshot_failed(self, reason: str) -> None:
        snapshot = self._vm.orders[0]
        self._follow_up(f"failed {snapshot}", partial(self._keeper.fail, snapshot, reason))

    def _follow_up(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self.ctx.effect(work, name=name, deadline=None, failed=lambda error: _Noted(name, error))

    # --- watching

    def _watch(self) -> None:
        process = self._process
        assert process is not None
        self._begin_line()
        self.ctx.effect(
            partial(self._await_end, process),
            name="watch",
            deadline=None,
            then=_Fact,
            failed=lambda error: _Noted("watch", error),
        )
        if not self._vm.started:
            self.ctx.effect(
                partial(self._await_app, process),
                name="console",
                deadline=None,
                then=lambda started: _Fact(life.AppStarted()) if started else _Noted("console"),
                failed=lambda error: _Noted("console", error),
            )

    async def _await_end(self, process: VmProcess) -> life.Exited:
        status = await process.wait()
        crash.point(CrashPoint.MONITOR_ENDED)
        evidence = await self._evidence(status, True)
        return life.Exited(evidence)

    async def _await_app(self, process: VmProcess) -> bool:
        """Read the console from its beginning until the guest says that the app runs; False when it ended first."""
        parser = ConsoleParser(self._intent.nonce if self._intent is not None else "-")
        follower = self._operations.reader()
        while True:
            over = not process.running
            data = follower.read()
            if any(line.verb == "started" for line in parser.feed(data)):
                return True
            if not data:
                if over:
                    return False
                await trio.sleep(_BOOT_POLL)
            else:
                await trio.lowlevel.checkpoint()

    async def _evidence(self, status: int | None, seen: bool) -> Evidence:
        """Return what console, log and clock say about the end. ``seen``: it ended just now."""
        started_at = self._pid_file.app_started_at if self._pid_file is not None else None
        ran = max(0.0, self.ctx.env.now() - started_at) if started_at is not None and seen else None
        nonce = self._intent.nonce if self._intent is not None else "-"
        async with self._moving:
            return await self._operations.evidence(nonce, started=started_at is not None, status=status, ran=ran)

    def _too_large(self) -> bool:
        """Three system calls, so not worth a thread: nearly always the answer is no."""
        own = (stored(self._data / name) for name in (LOG, FIGURES))
        return size(self._console) > self._settings.console_limit or max(own) > _LOG_LIMIT

    async def _rotate(self) -> None:
        async with self._moving:
            if await trio.to_thread.run_sync(rotate, self._console, self._settings.console_limit):
                self.ctx.log.info("console rotated", placement=str(self._placement.id))
            for name in (LOG, FIGURES):
                await trio.to_thread.run_sync(shed, self._data / name, _LOG_LIMIT)

    # --- the rest

    def _limits(self) -> life.Limits:
        acceleration = self._hypervisor.acceleration if self._hypervisor is not None else Acceleration.KVM
        return replace(self._settings.limits(acceleration), own=self._placement.stop_timeout)

    def _free_slot(self) -> None:
        if self._boot_slot is not None:
            self._boot_slot.release()
            self._boot_slot = None

    def _view(self) -> VmView:
        intent = self._intent
        alive = self._process is not None and self._process.running
        return VmView(
            placement_id=self._placement.id,
            instance_id=self._placement.instance_id,
            generation=self._placement.generation,
            phase=self._vm.phase,
            hypervisor=intent.hypervisor if intent is not None else None,
            pid=self._process.pid if alive and self._process is not None else None,
            adopted=self._adopted,
            console=self._console,
            since=self._since,
            started_at=self._pid_file.app_started_at if self._pid_file is not None else None,
            memory=self._placement.resources.memory,
            heard_at=self._line.heard_at if self._line is not None else None,
            doubt=self._doubt,
        )

    def _announce(self, *, again: bool = False) -> None:
        view = self._view()
        if again or view != self._shown:
            self._shown = view
            self._tell_host(VmChanged(view))

    def _tell_host(self, message: Message) -> None:
        try:
            self._host.tell(message)
        except ActorError as error:
            self.ctx.log.warning("the host did not take a message", error=str(error))
            if self._vm.phase is not Phase.REMOVED:
                self.ctx.after(1.0, _Announce())


def actor_name(placement: Placement) -> str:
    """Return the name of a placement's virtual machine."""
    return f"vm/{short_id(placement.id)}"


def _sentence(error: Exception) -> str:
    """Return what to tell people: a problem's own words, anything else with its type."""
    if isinstance(error, Problem):
        return str(error)
    return f"{type(error).__name__}: {error}"
