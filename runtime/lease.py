"""The lease of leadership: who may hold it, what a hold is called, and what keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Candidate:
    """A process that wants to lead.

    ``host`` is the same for all processes of a host, ``generation`` grows with each of its starts, and ``boot`` is
    drawn anew for each: two processes never share it, whatever a restored backup makes of the generations.
    """

    host: UUID
    generation: int
    boot: UUID


@dataclass(frozen=True, slots=True)
class Term:
    """One time in office. ``epoch`` grows from each to the next, ``boot`` is its holder, ``ttl`` in seconds."""

    epoch: int
    boot: UUID
    ttl: float


@dataclass(frozen=True, slots=True)
class Granted:
    """The lease is the candidate's, for a whole ttl from the moment it asked, at least."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else has the lease, for ``left`` seconds more if it is not renewed (negative: it is to be had now)."""

    epoch: int
    host: UUID
    left: float


class Fenced(Exception):
    """A transaction of a leader that is none any more; nothing of it was written."""

    def __init__(self, term: Term, why: str) -> None:
        super().__init__(f"the leadership with epoch {term.epoch} is over: {why}")
        self.term = term


class NotLeading(Exception):
    """Asked to act for a term that is over, as far as this process itself can tell."""


class LeaseStore(Protocol):
    """What keeps the lease. Any method may raise: then nobody knows whether it was done."""

    async def acquire(self, candidate: Candidate, *, ttl: float, above: int) -> Granted | Held:
        """Take the lease if it is free; the new epoch exceeds ``above`` and every epoch any host has reported."""

    async def renew(self, term: Term) -> bool:
        """Make the lease last a whole ttl from now; False when it is not this term's any more, or has expired."""

    async def resign(self, term: Term) -> None:
        """Give the lease back. Nothing happens when it is not this term's any more."""


class EpochMemory(Protocol):
    """The highest epoch that a host has seen, kept where no restored backup of the store reaches it."""

    @property
    def highest(self) -> int:
        """What is known of it without waiting: the highest that was loaded or kept so far, else 0."""

    async def load(self) -> int:
        """Return it, 0 when there is none."""

    async def keep(self, epoch: int) -> None:
        """Keep it for good. Raises ``OSError``."""
