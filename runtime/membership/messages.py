"""What hosts say to each other about who is there. Who says it, the link knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from runtime.membership.claim import Claim


@dataclass(frozen=True, slots=True)
class Life:
    """Which life of the sender says it, and its incarnation then."""

    generation: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered with an `Ack` of the same number."""

    life: Life
    number: int
    rumours: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """The host that was probed under that number answers, or has answered the sender, who was asked to try."""

    life: Life
    number: int
    rumours: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Nack:
    """The sender has got your request to try, and no answer from that host so far."""

    life: Life
    number: int


@dataclass(frozen=True, slots=True)
class PingRequest:
    """Please ping ``target`` and tell what comes of it, under ``number``; a `Nack` after ``within`` seconds."""

    life: Life
    number: int
    target: UUID
    address: str
    within: float
    rumours: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Gossip:
    """News."""

    life: Life
    rumours: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Sync:
    """A part of all that the sender knows. ``more`` parts follow, or not; ``answer``: it wants to know the same."""

    life: Life
    claims: tuple[Claim, ...]
    more: bool = False
    answer: bool = False


Said: TypeAlias = Ping | Ack | Nack | PingRequest | Gossip | Sync
