"""What the leader's dispatcher has done in this process, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Totals since the process started; made outside of the actor, so that they outlast its terms of office.

    ``outstanding`` is what hosts had yet to carry out when it last looked, 0 once a term is over; ``wrong`` are answers
    that did not belong to their commands. Commands that were sent again are sent as often.
    """

    outstanding: int = 0
    sent: int = 0
    taken: int = 0
    refused: int = 0
    unreachable: int = 0
    wrong: int = 0
