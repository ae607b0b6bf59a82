"""The terminal that a command line was started from: raw while a guest has it, and as it was afterwards."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

#: A terminal that does not know its size.
_FALLBACK = (24, 80)


def standard_input() -> int | None:
    """Return the file descriptor of standard input, None when it is closed."""
    try:
        return None if sys.stdin is None else sys.stdin.fileno()
    except (OSError, ValueError):
        return None


def is_terminal(fd: int | None) -> bool:
    """Whether ``fd`` is a terminal."""
    return fd is not None and os.isatty(fd)


def size(fd: int) -> tuple[int, int]:
    """Return rows and columns of a terminal."""
    try:
        found = os.get_terminal_size(fd)
    except OSError:
        return _FALLBACK
    return (found.lines or _FALLBACK[0], found.columns or _FALLBACK[1])


@contextmanager
def raw(fd: int | None) -> Iterator[None]:
    """Pass every key as it is pressed, Ctrl-C too, until the block is left in whatever way; nothing when it is None."""
    if fd is None:
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        # What was typed ahead stays: TCSAFLUSH would drop it.
        tty.setraw(fd, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)
