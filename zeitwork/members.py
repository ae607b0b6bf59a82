"""What this host's membership knows of all hosts, in the terms of those who use it. None of it needs the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from actors.registrar.sightings import Seen, Sighting
from actors.resource_monitor.bulletin import Bulletin, decode
from actors.resource_monitor.herald import Herald

if TYPE_CHECKING:
    # A host that is alone has no membership, and does not wait for its import.
    from runtime.membership import Member
    from zeitwork.cluster import Linked


def seen(member: Member) -> Seen:
    """Return a member's state as the registrar names it."""
    return Seen[member.state.name]


def sightings_of(members: Iterable[Member], now: float) -> dict[UUID, Sighting]:
    """Return what is said of each other host; ``now`` is by the clock of ``Member.since`` (monotonic seconds)."""
    return {
        one.host: Sighting(one.host, one.generation, seen(one), one.refused, max(0.0, now - one.since))
        for one in members
    }


@dataclass(frozen=True, slots=True)
class Known:
    """A host as this one knows it: in ``state`` for ``age`` seconds. ``bulletin`` is None where it has told nothing.

    ``refused``: its machine answers that nobody listens there. ``own``: this host.
    """

    node_id: UUID
    generation: int
    state: Seen
    age: float
    refused: bool
    address: str | None
    bulletin: Bulletin | None
    own: bool = False


@dataclass(frozen=True, slots=True)
class Overview:
    """All hosts that are known, by id. ``joined``: other hosts were found, or there are none yet.

    ``health``: how badly this host itself does at being a member, from 0 (well) to 8.
    """

    known: tuple[Known, ...]
    linked: bool
    joined: bool
    health: int

    def by_id(self) -> dict[UUID, Known]:
        """Return each host by its id; none when this host has no links."""
        return {one.node_id: one for one in self.known} if self.linked else {}

    def count(self) -> dict[Seen, int]:
        """Return how many hosts are in each state."""
        found = dict.fromkeys(Seen, 0)
        for one in self.known:
            found[one.state] += 1
        return found


class Members:
    """Of the host ``own`` in that start of its process; ``now`` is the monotonic clock."""

    def __init__(
        self, own: UUID, generation: int, now: Callable[[], float], *, hostname: str = "", version: str = ""
    ) -> None:
        #: What this host reaches through its links, None without any.
        self.linked: Linked | None = None
        self._own = own
        self._generation = generation
        self._now = now
        self._began = now()
        #: Tells the other hosts how this one is.
        self.herald = Herald(hostname, version, self._tell, self._count)

    def sightings(self) -> dict[UUID, Sighting]:
        """Return what is said of each other host; of none without links."""
        linked = self.linked
        return {} if linked is None else sightings_of(linked.members(), self._now())

    def overview(self) -> Overview:
        """Return all that is known now; without links that is this host."""
        linked, now = self.linked, self._now()
        roll = None if linked is None else linked.roll()
        own = Known(
            node_id=self._own,
            generation=self._generation,
            state=Seen.ALIVE,
            age=max(0.0, now - self._began),
            refused=False,
            address=None if linked is None else str(linked.address),
            bulletin=self.herald.latest,
            own=True,
        )
        if roll is None:
            return Overview((own,), linked is not None, True, 0)
        others = (
            Known(
                node_id=one.host,
                generation=one.generation,
                state=seen(one),
                age=max(0.0, now - one.since),
                refused=one.refused,
                address=one.address or None,
                bulletin=decode(one.meta),
            )
            for one in roll.others
        )
        return Overview(tuple(sorted((own, *others), key=lambda one: one.node_id)), True, roll.joined, roll.health)

    def _tell(self, meta: bytes) -> bool:
        linked = self.linked
        return linked is not None and linked.announce(meta)

    def _count(self) -> int:
        linked = self.linked
        return 1 if linked is None else 1 + len(linked.members())
