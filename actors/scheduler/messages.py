"""What the scheduler understands."""

from __future__ import annotations

from dataclasses import dataclass

from runtime import Message


@dataclass(frozen=True, slots=True)
class Evaluate(Message):
    """Look at desired state now. Sent by notifications and by a slow timer; many of them cost one evaluation."""

    cause: str = "timer"


@dataclass(frozen=True, slots=True)
class Evaluated(Message):
    """An evaluation ended: so many placed, so many that have to wait."""

    placed: int
    postponed: int


@dataclass(frozen=True, slots=True)
class EvaluationFailed(Message):
    """An evaluation could not be done; it is tried again with back-off."""

    error: Exception
