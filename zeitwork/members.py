"""What this host's membership knows of the others, in the terms of those who use it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from actors.registrar.sightings import Seen, Sighting

if TYPE_CHECKING:
    # A host that is alone has no membership, and does not wait for its import.
    from runtime.membership import Member


def seen(member: Member) -> Seen:
    """Return a member's state as the registrar names it."""
    return Seen[member.state.name]


def sightings_of(members: Iterable[Member], now: float) -> dict[UUID, Sighting]:
    """Return what is said of each other host; ``now`` is by the clock of ``Member.since`` (monotonic seconds)."""
    return {
        one.host: Sighting(one.host, one.generation, seen(one), one.refused, max(0.0, now - one.since))
        for one in members
    }
