"""New ids: UUIDv7, so that ids sort by the time they were made."""

from __future__ import annotations

import os
import time
from threading import Lock
from uuid import UUID

from actors.model.ids import uuid7

#: Bits of chance that an id has, and at most so many by which it is above another one of the same millisecond.
_CHANCE, _STEP = 74, 32

_lock = Lock()
#: Milliseconds and chance of the last one.
_last = (0, 0)


def new_id() -> UUID:
    """Return a UUIDv7 of now, above all that this process has made: in the same millisecond, or before a clock was set.

    Lists are sorted by their ids, and two that are made one after the other may well be of one millisecond.
    """
    global _last
    milliseconds, chance = time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10), "big") >> (80 - _CHANCE)
    with _lock:
        if milliseconds <= _last[0]:
            milliseconds, above = _last[0], _last[1] + 1 + (chance >> (_CHANCE - _STEP))
            if above >> _CHANCE:
                milliseconds += 1  # there are no more of this one
            else:
                chance = above
        _last = milliseconds, chance
    # `uuid7` leaves out the six bits where its own are.
    return uuid7(milliseconds, (chance >> 62 << 68 | chance & (1 << 62) - 1).to_bytes(10, "big"))
