"""What others may know of and ask from a virtual machine's actor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from actors.model.states import PlacementState
from runtime import Message


@dataclass(frozen=True, slots=True)
class VmView:
    """A virtual machine as it is now. ``phase`` is a name of `actors.vm.lifecycle.Phase`; times are Unix seconds.

    ``memory`` is its guest's, in MiB. ``heard_at`` is when its guest last answered a heartbeat, None when it has not
    since this host's process took it up; ``doubt`` is what does not answer, "" when everything does.
    """

    placement_id: UUID
    instance_id: UUID
    generation: int
    phase: str
    hypervisor: str | None
    pid: int | None
    adopted: bool
    console: Path
    since: float
    started_at: float | None = None
    memory: int = 0
    heard_at: float | None = None
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """End this virtual machine and everything it holds.

    ``timeout`` seconds for the app to end by itself, none of it with ``force``. With ``park`` the placement is put
    back to `assigned` instead of removed: the next run of the host starts it again.
    """

    timeout: float
    force: bool = False
    park: bool = False


@dataclass(frozen=True, slots=True)
class Retry(Message):
    """Start it again now instead of waiting for the time of its next try. Ignored by one that does not wait."""


@dataclass(frozen=True, slots=True)
class SetPaused(Message):
    """Hold its guest still, or let it go on. It keeps its memory, its capacity and its address."""

    paused: bool


@dataclass(frozen=True, slots=True)
class TakeSnapshot(Message):
    """Take a snapshot as soon as it runs. What came of it is told to the database."""

    snapshot_id: UUID


@dataclass(frozen=True, slots=True)
class Replace(Message):
    """End this virtual machine because its app does not answer, and start it again as its policy says.

    ``timeout`` seconds for the app to end by itself. Ignored by one that does not run.
    """

    reason: str
    timeout: float


@dataclass(frozen=True, slots=True)
class VmChanged(Message):
    """Tells the host what became of one of its virtual machines. A `removed` phase is the last word."""

    view: VmView


@dataclass(frozen=True, slots=True)
class Disowned(Message):
    """Tells the host that the database refused an observation of this placement: it should read again."""

    placement_id: UUID


@dataclass(frozen=True, slots=True)
class Resync(Message):
    """Answers `Disowned`: this is the state that the database holds now."""

    state: PlacementState


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something of a placement that this host's directories hold, whether or not the database knows it.

    ``pid`` is its running monitor's, or None. ``cluster_id`` is the cluster that it was started for, None when nothing
    here says so (it was not started yet); ``tap`` is the name of its TAP, "" for none.
    """

    placement_id: UUID
    cluster_id: str | None
    pid: int | None
    hypervisor: str | None
    tap: str
