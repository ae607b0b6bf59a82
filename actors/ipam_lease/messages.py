"""What the ipam-lease actor understands."""

from __future__ import annotations

from dataclasses import dataclass

from actors.ipam_lease.store import PoolUsage
from runtime import Message, Request


@dataclass(frozen=True, slots=True)
class Usage(Request[tuple[PoolUsage, ...]]):
    """Answer how full this host's address pools are, now. Fails with `Unavailable` while the database is away."""


@dataclass(frozen=True, slots=True)
class Expire(Message):
    """Let addresses whose rest is over be used again."""


@dataclass(frozen=True, slots=True)
class Expired(Message):
    """So many addresses may be used again."""

    count: int


@dataclass(frozen=True, slots=True)
class ExpireFailed(Message):
    """The database could not be asked; tried again at the next tick."""

    error: Exception
