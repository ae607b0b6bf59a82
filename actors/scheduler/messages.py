"""What the scheduler understands."""

from __future__ import annotations

from dataclasses import dataclass

from actors.scheduler.evaluation import Result
from runtime import Message


@dataclass(frozen=True, slots=True)
class Evaluate(Message):
    """Look at desired state now. Sent by notifications and by a slow timer; many of them cost one evaluation."""

    cause: str = "timer"


@dataclass(frozen=True, slots=True)
class Evaluated(Message):
    """An evaluation ended."""

    result: Result


@dataclass(frozen=True, slots=True)
class EvaluationFailed(Message):
    """An evaluation could not be done; it is tried again with back-off."""

    error: Exception
