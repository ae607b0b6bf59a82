"""What the health actor understands."""

from __future__ import annotations

from dataclasses import dataclass

from runtime import Message

#: The actor's name on every host.
NAME = "health"


@dataclass(frozen=True, slots=True)
class Wake(Message):
    """Read again which apps are to be probed."""

    reason: str = "timer"
