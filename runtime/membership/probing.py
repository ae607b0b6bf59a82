"""Probes that are under way, one's own and those for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from runtime.membership.events import Peer

#: What the machine has to do at some time ("probe", "verdict", "suspicion", ...), and for which probe or host.
Due: TypeAlias = tuple[str, int | UUID | None]


@dataclass(slots=True)
class Probe:
    """Of one life of a host. ``relays`` were asked to try, ``nacks`` are those of them who got no answer yet."""

    host: UUID
    generation: int
    relays: tuple[UUID, ...] = ()
    nacks: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Relay:
    """A probe of ``target`` for ``origin``, which calls it ``number``."""

    origin: Peer
    number: int
    target: UUID
