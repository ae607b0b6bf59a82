"""New ids: UUIDv7, so that ids sort by the time they were made."""

from __future__ import annotations

import os
import time
from uuid import UUID

from actors.model.ids import uuid7


def new_id() -> UUID:
    """Return a UUIDv7 of now."""
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))
