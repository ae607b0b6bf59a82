"""What is to be told on: each claim so many times, the least told first."""

from __future__ import annotations

from uuid import UUID

from runtime.membership.claim import Claim

#: Rumours that do not fit into a message before the rest is not looked at.
MISSES = 8


class Rumours:
    """At most one of each host, the newest, and at most ``most`` in all: then the most told go first."""

    __slots__ = ("_levels", "_most", "_told")

    def __init__(self, most: int) -> None:
        self._most = most
        #: By how often it was told; within a level the newest last.
        self._levels: list[dict[UUID, Claim]] = [{}]
        self._told: dict[UUID, int] = {}

    def __len__(self) -> int:
        return len(self._told)

    def put(self, claim: Claim) -> None:
        """Have a claim told, in place of any other one of its host."""
        self.drop(claim.host)
        if len(self._told) >= self._most:
            level = next(level for level in reversed(self._levels) if level)
            self.drop(next(iter(level)))
        self._levels[0][claim.host] = claim
        self._told[claim.host] = 0

    def drop(self, host: UUID) -> None:
        """Tell nothing of that host any more."""
        told = self._told.pop(host, None)
        if told is not None:
            del self._levels[told][host]

    def clear(self) -> None:
        """Tell nothing of what was to be told so far."""
        self._levels = [{}]
        self._told.clear()

    def take(self, room: int, tellings: int, besides: UUID | None = None) -> tuple[Claim, ...]:
        """Return what to tell one host, in ``room`` bytes, and count it as told. What was told often enough goes.

        ``besides``: nothing of this host, which is told of already.
        """
        chosen: list[Claim] = []
        misses = 0
        for level in self._levels:
            for host, claim in reversed(level.items()):
                if host == besides:
                    continue
                size = claim.size
                if size <= room:
                    room -= size
                    chosen.append(claim)
                else:
                    misses += 1
                    if misses >= MISSES:
                        break
            if misses >= MISSES:
                break
        # Moved in the order they have, so that the newest stay last.
        for claim in reversed(chosen):
            told = self._told[claim.host]
            del self._levels[told][claim.host]
            if told + 1 >= tellings:
                del self._told[claim.host]
                continue
            if told + 1 == len(self._levels):
                self._levels.append({})
            self._levels[told + 1][claim.host] = claim
            self._told[claim.host] = told + 1
        return tuple(chosen)
