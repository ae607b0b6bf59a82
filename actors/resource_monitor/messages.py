"""What the resource monitor understands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from actors.model.resources import Capacity
from runtime import Message, Request

#: The actor's name on every host.
NAME = "resource-monitor"


@dataclass(frozen=True, slots=True)
class Pressure:
    """How much of the last 10 and 60 seconds tasks waited for a resource, in percent (PSI "some" and "full")."""

    some_avg10: float
    some_avg60: float
    full_avg10: float
    full_avg60: float


@dataclass(frozen=True, slots=True)
class HugePages:
    """One size of huge pages: ``size`` in KiB, ``total`` and ``free`` in pages."""

    size: int
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Ticks since boot over all CPUs together: in which one worked (for a guest too), and all. ``cpus`` online."""

    busy: int
    total: int
    cpus: int


@dataclass(frozen=True, slots=True)
class Monitor:
    """The process that runs one placement's guest. ``memory`` is the guest's, in MiB."""

    placement_id: UUID
    pid: int
    memory: int
    hypervisor: str


@dataclass(frozen=True, slots=True)
class ResourceSnapshot:
    """What this host has and how busy it is. Memory in MiB, ``cpus`` the CPUs this process may use, with fractions.

    ``load`` is the 1 minute load average. A pressure is None where the kernel does not tell.
    """

    at: float  # unix seconds
    capacity: Capacity
    cpus: float
    load: float
    memory_used: int
    memory_available: int
    cpu_pressure: Pressure | None
    memory_pressure: Pressure | None
    io_pressure: Pressure | None
    hugepages: tuple[HugePages, ...]
    cpu_times: CpuTimes | None = None


@dataclass(frozen=True, slots=True)
class Snapshot(Request[ResourceSnapshot]):
    """Read everything now and answer with it."""


@dataclass(frozen=True, slots=True)
class Refresh(Message):
    """Read again: sent by the timer, and by whoever knows that something changed."""


@dataclass(frozen=True, slots=True)
class Measured(Message):
    """A reading ended."""

    snapshot: ResourceSnapshot


@dataclass(frozen=True, slots=True)
class MeasuringFailed(Message):
    """The machine could not be read."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Recorded(Message):
    """The database holds this capacity now."""

    capacity: Capacity


@dataclass(frozen=True, slots=True)
class RecordingFailed(Message):
    """The database did not take the capacity; it is offered again at the next reading."""

    error: Exception


@dataclass(frozen=True, slots=True)
class WasClosed(Message):
    """What the database says of this host: why it takes no new work, empty when it does."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotKnown(Message):
    """The database could not say whether this host is closed; it is asked again after the next reading."""

    error: Exception


@dataclass(frozen=True, slots=True)
class AdmissionRecorded(Message):
    """The database holds this now: why the host is closed, empty when it is open."""

    reason: str


@dataclass(frozen=True, slots=True)
class AdmissionNotRecorded(Message):
    """The database did not take it; it is offered again at the next reading."""

    error: Exception


@dataclass(frozen=True, slots=True)
class TakeSample(Message):
    """Write what is used now into the history."""


@dataclass(frozen=True, slots=True)
class SampleLost(Message):
    """The database did not take a sample: the history has a gap."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Survey(Message):
    """Look what monitors take beside their guests' memory: sent by the timer."""


@dataclass(frozen=True, slots=True)
class Surveyed(Message):
    """A look ended: which monitors run, and the KiB of those that were read."""

    running: tuple[Monitor, ...]
    read: Mapping[Monitor, int]


@dataclass(frozen=True, slots=True)
class SurveyFailed(Message):
    """Nobody could say which monitors run, or they could not be read; the next look tries again."""

    error: Exception


@dataclass(frozen=True, slots=True)
class OverheadRecorded(Message):
    """The database holds what monitors were seen to take."""


@dataclass(frozen=True, slots=True)
class OverheadNotRecorded(Message):
    """The database did not take it; the next look offers what is known then."""

    error: Exception


@dataclass(frozen=True, slots=True)
class ConditionRecorded(Message):
    """The database holds what runs guests here, and how long tasks wait for a CPU."""

    hypervisor: str | None
    pressure: float


@dataclass(frozen=True, slots=True)
class ConditionNotRecorded(Message):
    """The database did not take it; the next reading offers what is known then."""

    error: Exception
