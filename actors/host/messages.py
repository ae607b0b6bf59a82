"""What the host actor understands."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from actors.vm.messages import Leftover, VmView
from runtime import Message, Request

#: The actor's name on every host.
NAME = "host"


@dataclass(frozen=True, slots=True)
class Wake(Message):
    """Read this host's placements again, now. ``reason`` is for the log.

    ``quick``: only what is wanted has changed, so what may lie around here is not looked for.
    """

    reason: str = "timer"
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Attend(Request[str | None]):
    """Read this host's placements again because something else is wanted of this one, as the leader says.

    The answer is the phase of its virtual machine here until now, None when there is none. Fails with a `Conflict` for
    one that ``starts`` when nothing starts here any more.
    """

    placement_id: UUID
    starts: bool = False


@dataclass(frozen=True, slots=True)
class Unhealthy(Message):
    """The app of this placement does not answer its health check: its machine is to be ended and started again."""

    placement_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class HostView:
    """What runs on this host. ``orphans`` are placements found here that the database does not know.

    ``remains`` are those found here that it calls removed, and that are being destroyed; None before this host has
    looked for such as it was last told to.
    """

    vms: tuple[VmView, ...]
    orphans: tuple[Leftover, ...]
    reconciled_at: float | None
    error: str | None
    remains: int | None = 0


@dataclass(frozen=True, slots=True)
class Vms(Request[HostView]):
    """Ask for every virtual machine of this host."""


@dataclass(frozen=True, slots=True)
class StopAll(Request[bool]):
    """Stop every virtual machine, each within its own time; the next run of the host starts them again.

    The reply says whether all had ended within ``deadline`` seconds. Nothing new starts from here on;
    what is removed meanwhile is destroyed here, too.
    """

    deadline: float
