"""What the presence actor understands."""

from __future__ import annotations

from dataclasses import dataclass

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
