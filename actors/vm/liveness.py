"""Whether a machine that runs is still alive: its monitor answers on its socket, and its guest's init to a ping. Pure.

Counted in questions that nobody answered, not in seconds: a host that was itself suspended or overloaded asked none,
and must not blame its machines for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

#: Unanswered questions in a row after which people are told, and after which the machine is given up.
DOUBT, LOST = 2, 6


class Part(StrEnum):
    """What was asked."""

    MONITOR = "monitor"
    GUEST = "guest"


_NAMES = {Part.MONITOR: "its monitor does not answer", Part.GUEST: "its guest's init does not answer"}


@dataclass(frozen=True, slots=True)
class Liveness:
    """Unanswered questions in a row. ``guest`` is None until it has answered once: an old guest has no agent."""

    monitor: int = 0
    guest: int | None = None

    @property
    def doubt(self) -> str:
        """What people should know, "" when everything answers."""
        return self._worst(DOUBT)

    @property
    def lost(self) -> str:
        """Why the machine is given up, "" while it is not."""
        return self._worst(LOST)

    def _worst(self, limit: int) -> str:
        # The guest is reached through its monitor: when both are silent, the monitor is the reason.
        if self.monitor >= limit:
            return _NAMES[Part.MONITOR]
        if self.guest is not None and self.guest >= limit:
            return _NAMES[Part.GUEST]
        return ""


def heard(liveness: Liveness, part: Part) -> Liveness:
    """Return the state after an answer."""
    return replace(liveness, monitor=0) if part is Part.MONITOR else replace(liveness, guest=0)


def missed(liveness: Liveness, part: Part) -> Liveness:
    """Return the state after a question that nobody answered in its time."""
    if part is Part.MONITOR:
        return replace(liveness, monitor=liveness.monitor + 1)
    return liveness if liveness.guest is None else replace(liveness, guest=liveness.guest + 1)
