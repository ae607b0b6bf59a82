"""Measures this host again and again, and tells the database when what it can give has changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import UUID

import trio

from actors.model.errors import Problem, Unavailable
from actors.model.resources import Capacity
from actors.resource_monitor import overhead
from actors.resource_monitor.admission import Admission, Thresholds, step
from actors.resource_monitor.capacity import CapacityPolicy
from actors.resource_monitor.cpu import cpus_used
from actors.resource_monitor.herald import Herald
from actors.resource_monitor.measure import measure
from actors.resource_monitor.messages import (
    AdmissionNotRecorded,
    AdmissionRecorded,
    ConditionNotRecorded,
    ConditionRecorded,
    CpuTimes,
    Measured,
    MeasuringFailed,
    Monitor,
    NotKnown,
    OverheadNotRecorded,
    OverheadRecorded,
    Pressure,
    Recorded,
    RecordingFailed,
    Refresh,
    ResourceSnapshot,
    SampleLost,
    Snapshot,
    Survey,
    Surveyed,
    SurveyFailed,
    TakeSample,
    WasClosed,
)
from actors.resource_monitor.pressure import cpu_waiting
from actors.resource_monitor.processes import read_overheads
from actors.resource_monitor.store import CapacityStore, ConditionStore, HistoryStore, OverheadStore, Usage
from runtime import Actor, Message, Reply

#: Seconds between readings. A reading takes about a millisecond.
EVERY = 5.0
#: Seconds between samples for the history, each of what was used since the one before.
SAMPLE_EVERY = 60.0
#: Seconds between looks at what monitors take, and how many are read at each: reading one takes milliseconds.
SURVEY_EVERY, SURVEYED_AT_ONCE = 30.0, 32
#: Seconds that a reading, and the database's answer, may take.
DEADLINE = 10.0
#: A change of the share of time in which tasks wait for a CPU that is worth writing: it only tips the scales.
NOTICEABLE = 0.05
#: Requests that may wait for one reading.
MOST_WAITING = 256


#: Says which monitors run on this host now.
Monitors = Callable[[], Awaitable[Collection[Monitor]]]


def nobody_knows() -> str | None:
    """Return None: the hypervisor is not chosen yet."""
    return None


class ResourceMonitor(Actor):
    """One reading at a time; who asks meanwhile gets the next one's answer, which began after they asked.

    ``hypervisor`` says what runs guests here (``firecracker``, ``qemu``), None while that is not known. Without
    ``history`` nothing is written of what is used. ``monitors`` says which virtual machines' monitors run: with it,
    what they take beside their guests is measured and told to ``overheads``; ``peaks`` is what that store holds of an
    earlier process, in KiB for each hypervisor. ``conditions`` is told what runs guests here, once that is known, and
    how long tasks wait for a CPU. ``herald`` tells the other hosts how this one is.
    """

    def __init__(
        self,
        store: CapacityStore,
        node_id: UUID,
        policy: CapacityPolicy | None = None,
        *,
        hypervisor: Callable[[], str | None] = nobody_knows,
        thresholds: Thresholds | None = None,
        history: HistoryStore | None = None,
        monitors: Monitors | None = None,
        overheads: OverheadStore | None = None,
        peaks: Mapping[str, int] | None = None,
        conditions: ConditionStore | None = None,
        herald: Herald | None = None,
        root: Path = Path("/"),
    ) -> None:
        self._store = store
        self._node_id = node_id
        self._policy = policy or CapacityPolicy()
        self._hypervisor = hypervisor
        self._root = root
        self._measuring = False
        self._waiting: list[Reply] = []  # for the next reading
        self._served: list[Reply] = []  # by the present one
        self._recorded: Capacity | None = None
        self._recording = False
        self._failing = False
        self._thresholds = thresholds or Thresholds()
        # None until the database has said what an earlier process found: a restart must not open a closed host.
        self._admission: Admission | None = None
        self._admitted = ""  # the reason that the database holds
        self._asking = False  # or telling
        self._history = history
        self._last: ResourceSnapshot | None = None
        self._sampled: CpuTimes | None = None  # at the last sample
        self._monitors = monitors
        self._overheads = overheads
        self._learning = overhead.begin(self._policy.overhead, peaks or {})
        self._surveying = False
        self._told: object = None  # what the database was told last of overheads
        self._conditions = conditions
        self._herald = herald
        self._condition: tuple[str | None, float] | None = None  # what the database holds
        self._describing = False

    async def init(self) -> None:
        """Measure now, then regularly."""
        self.ctx.every(EVERY, Refresh())
        if self._history is not None:
            self.ctx.every(SAMPLE_EVERY, TakeSample(), jitter=0.0)
        if self._monitors is not None:
            self.ctx.every(SURVEY_EVERY, Survey())
        self.ctx.ref.tell(Refresh())

    async def receive(self, message: Message) -> None:
        """Start a reading, or deal with the end of one."""
        match message:
            case Refresh():
                self._measure()
            case Snapshot() if len(self._waiting) >= MOST_WAITING:
                self.ctx.fail(Unavailable("too many ask how busy this host is", fix="ask again later"))
            case Snapshot():
                self._waiting.append(self.ctx.reply_slot())
                self._measure()
            case Measured(snapshot=snapshot):
                self._finish(lambda slot: slot.reply(snapshot))
                self._last = snapshot
                if self._sampled is None:
                    self._sampled = snapshot.cpu_times
                self._record(snapshot.capacity)
                self._admit(snapshot.memory_pressure)
                self._describe(snapshot)
                if self._herald is not None:
                    closed = self._admission is not None and bool(self._admission.closed)
                    now = self.ctx.env.monotonic()
                    self._herald.measured(snapshot, closed=closed, hypervisor=self._hypervisor(), now=now)
            case MeasuringFailed(error=error):
                self.ctx.log.error("the machine could not be measured", error=str(error))
                known = error if isinstance(error, Problem) else Unavailable(f"this host can't be measured: {error}")
                self._finish(lambda slot: slot.fail(known))
            case Recorded(capacity=capacity):
                self._recording = self._failing = False
                self._recorded = capacity
                self.ctx.log.info("capacity recorded", vcpu=capacity.vcpu, memory_mib=capacity.memory)
            case RecordingFailed(error=error):
                self._recording = False
                if not self._failing:
                    self.ctx.log.warning("capacity not recorded", error=str(error), retry_in=EVERY)
                self._failing = True
            case ConditionRecorded(hypervisor=hypervisor, pressure=pressure):
                self._describing, self._condition = False, (hypervisor, pressure)
            case ConditionNotRecorded(error=error):
                self._describing = False
                self.ctx.log.debug("hypervisor and CPU pressure not recorded", error=str(error))
            case TakeSample():
                self._sample()
            case SampleLost(error=error):
                self.ctx.log.debug("sample not recorded", error=str(error))
            case Survey():
                self._survey()
            case Surveyed(running=running, read=read):
                self._learn(running, read)
            case OverheadRecorded():
                self._surveying = False
            case SurveyFailed(error=error) | OverheadNotRecorded(error=error):
                self._surveying, self._told = False, None
                self.ctx.log.debug("what monitors take was not read or not recorded", error=str(error))
            case WasClosed(reason=reason):
                self._asking = False
                self._admission, self._admitted = Admission(closed=reason), reason
                # What was measured meanwhile is as good as lost: look again.
                self._measure()
            case AdmissionRecorded(reason=reason):
                self._asking = False
                self._admitted = reason
                if reason:
                    self.ctx.log.warning("closed to new work", reason=reason)
                else:
                    self.ctx.log.info("open to new work again")
            case NotKnown(error=error) | AdmissionNotRecorded(error=error):
                self._asking = False
                self.ctx.log.debug("database could not be asked or told whether this host is closed", error=str(error))
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _measure(self) -> None:
        if self._measuring:
            return
        self._measuring = True
        self._served, self._waiting = self._waiting, []
        self.ctx.effect(self._read, name="measure", deadline=DEADLINE, then=Measured, failed=MeasuringFailed)

    async def _read(self) -> ResourceSnapshot:
        policy = replace(self._policy, overhead=self._learning.figures)
        read = partial(measure, self.ctx.env.now(), policy, self._hypervisor(), self._root)
        return await trio.to_thread.run_sync(read)

    def _finish(self, answer: Callable[[Reply], None]) -> None:
        self._measuring = False
        served, self._served = self._served, []
        for slot in served:
            answer(slot)
        if self._waiting:
            self._measure()

    def _record(self, capacity: Capacity) -> None:
        if self._recording or capacity == self._recorded:
            return
        self._recording = True
        self.ctx.effect(
            self._store.record_capacity, self._node_id, capacity, name="record", deadline=DEADLINE,
            then=lambda _: Recorded(capacity), failed=RecordingFailed,
        )  # fmt: skip

    def _admit(self, pressure: Pressure | None) -> None:
        """Decide whether this host takes new work, and have it written when that has changed."""
        if self._admission is not None:
            self._admission = step(self._admission, pressure, self.ctx.env.monotonic(), self._thresholds)
        if self._asking:
            return
        if self._admission is None:
            self._asking = True
            self.ctx.effect(
                self._store.closed, self._node_id, name="was it closed", deadline=DEADLINE,
                then=WasClosed, failed=NotKnown,
            )  # fmt: skip
            return
        reason = self._admission.closed
        if bool(reason) != bool(self._admitted):
            self._asking = True
            self.ctx.effect(
                self._store.record_closed, self._node_id, reason, name="record admission", deadline=DEADLINE,
                then=lambda _: AdmissionRecorded(reason), failed=AdmissionNotRecorded,
            )  # fmt: skip

    def _describe(self, snapshot: ResourceSnapshot) -> None:
        """Have written what runs guests here and how long tasks wait, when that has changed by enough."""
        if self._conditions is None or self._describing:
            return
        hypervisor = self._hypervisor()
        pressure = cpu_waiting(snapshot.cpu_pressure, snapshot.load, snapshot.cpus)
        if self._condition is not None:
            known, before = self._condition
            if known == hypervisor and abs(pressure - before) < NOTICEABLE:
                return
        self._describing = True
        self.ctx.effect(
            self._conditions.record_condition, self._node_id, hypervisor, pressure, name="record condition",
            deadline=DEADLINE, then=lambda _: ConditionRecorded(hypervisor, pressure), failed=ConditionNotRecorded,
        )  # fmt: skip

    def _sample(self) -> None:
        """Have what was used since the last sample written. The reading is seconds old at most."""
        if self._history is None or self._last is None:
            return
        last, before = self._last, self._sampled
        self._sampled = last.cpu_times
        usage = Usage(
            cpus=cpus_used(before, last.cpu_times) if before and last.cpu_times else 0.0,
            memory=last.memory_used,
            memory_total=last.memory_used + last.memory_available,
        )
        self.ctx.effect(
            self._history.record_sample, self._node_id, usage, name="record sample", deadline=DEADLINE,
            failed=SampleLost,
        )  # fmt: skip

    def _survey(self) -> None:
        """Look what the monitors take, some of them at a time."""
        if self._surveying or self._monitors is None:
            return
        self._surveying = True
        self.ctx.effect(
            partial(self._look, self._monitors, self._learning), name="survey", deadline=DEADLINE,
            then=lambda surveyed: surveyed, failed=SurveyFailed,
        )  # fmt: skip

    async def _look(self, monitors: Monitors, known: overhead.Learning) -> Surveyed:
        running = tuple(await monitors())
        chosen = overhead.choose(known, running, SURVEYED_AT_ONCE)
        return Surveyed(running, await trio.to_thread.run_sync(read_overheads, chosen, self._root))

    def _learn(self, running: Collection[Monitor], read: Mapping[Monitor, int]) -> None:
        before = self._learning
        self._learning = overhead.learn(before, running, read, self.ctx.env.monotonic())
        for hypervisor, figure in self._learning.figures.items():
            if figure != before.figures.get(hypervisor):
                self.ctx.log.info("overhead of new placements", hypervisor=hypervisor, mib=figure)
        readings, peaks = self._learning.by_placement(), self._learning.rounded_peaks()
        if self._overheads is None or (readings, peaks) == self._told:
            self._surveying = False
            return
        self._told = (readings, peaks)
        self.ctx.effect(
            partial(self._overheads.record_overhead, self._node_id, readings, peaks), name="record overhead",
            deadline=DEADLINE, then=lambda _: OverheadRecorded(), failed=OverheadNotRecorded,
        )  # fmt: skip
