"""What the scheduler has done in this process, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Totals since the process started; made outside of the actor, so that they outlast its terms of office.

    ``seconds`` is the sum over all evaluations that ended, failed ones too. ``last_seconds`` and ``pending`` (instances
    that wanted to be placed when it began) are of the last one.
    """

    evaluations: int = 0
    failures: int = 0
    seconds: float = 0.0
    last_seconds: float = 0.0
    pending: int = 0
    placed: int = 0
    postponed: int = 0  # reasons that were written
    refused: int = 0  # planned, and not accepted
    members: int = 0  # of groups, made or ended
    moved: int = 0
