"""Places in the code where a test ends this process as kill -9 would, between two steps that ought to belong together.

A facility of the tests: nothing but a call of `arm` in the process itself makes a point do anything, and nothing in the
product calls it. No configuration, environment variable or request reaches it. While none is armed a point costs one
comparison.
"""

from __future__ import annotations

import os
import signal

_armed: str | None = None
_left = 0


def arm(name: str, at: int = 1) -> None:
    """Have this process killed when it reaches the point ``name`` for the ``at``-th time. For tests only."""
    global _armed, _left
    if at < 1:
        raise ValueError("a point is reached for the first time at 1")
    _armed, _left = name, at


def disarm() -> None:
    """Let every point pass again."""
    global _armed
    _armed = None


def point(name: str) -> None:
    """Die here if a test wants that. Any thread; nothing is cleaned up, flushed or told, as in a real kill."""
    if _armed is not None and name == _armed:
        _reach()


def _reach() -> None:
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
