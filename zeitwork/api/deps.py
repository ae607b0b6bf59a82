"""What the control endpoint is given: everything it touches comes in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from actors.commands.counts import Counts as CommandCounts
from actors.model.paths import HostPaths
from actors.scheduler.counts import Counts
from actors.vm.agents import Agents
from zeitwork.store.identifiers import new_id as fresh_id

if TYPE_CHECKING:
    from runtime import System
    from zeitwork.members import Members
    from zeitwork.store import Store


class Leave(Protocol):
    """How this host leaves its cluster."""

    async def __call__(self, *, force: bool) -> None:
        """Leave; raises a `Problem` when that can't be."""


@dataclass(frozen=True, slots=True)
class ApiDeps:
    """The parts behind the endpoint.

    ``console`` returns the console log's path of a placement on this host. ``upload_limit`` is the largest archive
    taken, in bytes; ``streams`` how many logs and event streams may be followed at once, and as many commands run in
    guests. ``agents`` are the ways to this host's guests, ``scheduler`` and ``dispatcher`` are what those count while
    it leads.
    """

    store: Store
    system: System
    paths: HostPaths
    node_id: UUID
    version: str
    console: Callable[[UUID], Path]
    new_id: Callable[[], UUID] = fresh_id
    upload_limit: int = 8 << 30
    streams: int = 64
    agents: Agents = field(default_factory=Agents)
    #: Where new hosts knock, None on a host that has no links.
    join_address: str | None = None
    scheduler: Counts = field(default_factory=Counts)
    dispatcher: CommandCounts = field(default_factory=CommandCounts)
    #: What gossip knows of all hosts.
    members: Members | None = None
    #: Takes this host out of its cluster, with ``force`` also when something runs here.
    leave: Leave | None = None
