"""What other hosts say of a host, in the registrar's terms: evidence that does not come through the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID


class Seen(StrEnum):
    """What the others make of a host: it answers, may be dead, is dead, or has said that it leaves."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is said of one life of a host, for ``age`` seconds now.

    ``refused``: somebody who tried was told that nobody listens, so its machine runs and its process does not.
    """

    node_id: UUID
    generation: int
    state: Seen
    refused: bool = False
    age: float = 0.0


#: Tells what is said of all other hosts at the moment. Neither waits nor raises.
Sightings = Callable[[], Mapping[UUID, Sighting]]

_NOTHING: Mapping[UUID, Sighting] = MappingProxyType({})


def nothing() -> Mapping[UUID, Sighting]:
    """Return that nothing is said of anybody, as on a host without links."""
    return _NOTHING
