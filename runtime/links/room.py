"""The room for connections that others have dialled, so that neither a stranger nor one host can take all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

from runtime.links.rules import Rules

#: Lines of the log about strangers at once; one more each second.
LINES = 60


class Room:
    """How many connections there are, how many of them have yet to greet, and of whom. ``monotonic`` in seconds."""

    def __init__(self, rules: Rules, monotonic: Callable[[], float]) -> None:
        self._rules = rules
        self._monotonic = monotonic
        #: Connections whose greeting is not over, and all.
        self.greetings = 0
        self.accepted = 0
        self._greeting: Counter[str] = Counter()
        self._of: Counter[UUID] = Counter()
        self._lines, self._at = float(LINES), monotonic()

    def enter(self, address: str) -> Place | None:
        """Take a place for one who comes from ``address``, empty where that is not known; None when there is none."""
        rules = self._rules
        # Half of it at most to those who come from one address: whoever says nothing from there keeps nobody out.
        crowded = address != "" and self._greeting[address] >= max(1, rules.greetings // 2)
        if crowded or self.greetings >= rules.greetings or self.accepted >= rules.accepted:
            return None
        return Place(self, address)

    def may_say(self) -> bool:
        """Tell whether there may be one more line about a stranger; counts it."""
        now = self._monotonic()
        self._lines, self._at = min(float(LINES), self._lines + now - self._at), now
        if self._lines < 1:
            return False
        self._lines -= 1
        return True

    def _is_full_of(self, host: UUID) -> bool:
        return self._of[host] >= self._rules.of_one


class Place:
    """One connection's. `leave` gives it back, whatever happened."""

    def __init__(self, room: Room, address: str) -> None:
        self._room = room
        self._address = address
        self._greeting = True
        #: Whose it is, once that was proved.
        self.host: UUID | None = None
        room.accepted += 1
        room.greetings += 1
        room._greeting[address] += 1

    def of(self, host: UUID) -> bool:
        """Note whose it is; False when that host has as many as one may have."""
        if self._room._is_full_of(host):
            return False
        self.host = host
        self._room._of[host] += 1
        return True

    def greeted(self) -> None:
        """Make room for others who have yet to greet. Harmless when that was done."""
        if self._greeting:
            self._greeting = False
            self._room.greetings -= 1
            _less(self._room._greeting, self._address)

    def leave(self) -> None:
        """The connection has ended."""
        self.greeted()
        self._room.accepted -= 1
        if self.host is not None:
            _less(self._room._of, self.host)


def _less(counter: Counter[Any], key: object) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
