"""Keeps hosts for instances that have waited for too long, so that small ones do not pass a large one for ever.

Who is first in turn and does not fit gets the host that needs least to be freed for it. Nobody behind it gets anything
there, so that need only shrinks while it waits, whichever host it is for: in the end it fits.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.scheduler.fleet import Room

#: Of so many hosts one may be kept (pinned instances aside), and so many at most: what is free there serves nobody now.
_SHARE, _MOST = 8, 32


class Reservations:
    """Those of one evaluation."""

    def __init__(self, hosts: int) -> None:
        self._left = max(1, min(_MOST, hosts // _SHARE))
        self._impossible: set[tuple[int, int, int]] = set()

    def one_of(self, rooms: Sequence[Room], vcpu: int, memory: int) -> Room | None:
        """Keep the one of ``rooms`` that needs least to be freed for this shape and could ever fit it."""
        # The rooms of a class are one list as long as the evaluation lasts.
        key = (id(rooms), vcpu, memory)
        if not self._left or key in self._impossible:
            return None
        able = (room for room in rooms if not room.reserved and room.could_fit(vcpu, memory))
        chosen = min(able, key=lambda room: (room.lacking(vcpu, memory), room.id), default=None)
        if chosen is None:
            self._impossible.add(key)
        else:
            self._left -= 1
            chosen.reserved = True
        return chosen

    def this(self, room: Room, vcpu: int, memory: int) -> None:
        """Keep this host for an instance that can go nowhere else, if it could ever fit there."""
        if room.could_fit(vcpu, memory):
            room.reserved = True
