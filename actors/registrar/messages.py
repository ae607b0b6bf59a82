"""What the presence actor and the leader's watch understand."""

from __future__ import annotations

from dataclasses import dataclass

from actors.registrar.store import Beat as Sign
from runtime import Message


@dataclass(frozen=True, slots=True)
class Beat(Message):
    """Write a sign of life."""


@dataclass(frozen=True, slots=True)
class Beaten(Message):
    """A sign of life was answered; ``ours`` is False when another process has registered as this node since."""

    ours: bool


@dataclass(frozen=True, slots=True)
class BeatFailed(Message):
    """The database could not be told."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Look(Message):
    """Look at all hosts' signs of life."""


@dataclass(frozen=True, slots=True)
class Looked(Message):
    """The last sign of life of each host."""

    beats: tuple[Sign, ...]


@dataclass(frozen=True, slots=True)
class Judged(Message):
    """These hosts were written down; empty when all that were thought dead have been heard of after all.

    ``error`` is why others could not be, None when that is so of none.
    """

    hostnames: tuple[str, ...]
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class WatchFailed(Message):
    """The store could not be asked."""

    error: Exception


@dataclass(frozen=True, slots=True)
class JudgeFailed(Message):
    """Hosts that are dead could not be written down."""

    error: Exception
