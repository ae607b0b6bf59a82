"""Reads a console from its oldest kept byte, or from its last lines, on to what is written while we read."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from actors.vm.console import Follower, rotated

_CHUNK = 64 * 1024


class ConsoleReader:
    """One pass over a console and the files it was rotated into. Its methods block: use them in a thread."""

    def __init__(self, console: Path, tail: int | None = None) -> None:
        """Open what there is. ``tail`` leaves out all but the last so many lines; without a file it is empty."""
        self._files = ExitStack()
        # Opened before anything is read: a rotation renames files, and must not make us read one of them twice.
        older = [file for path in reversed(rotated(console)) if (file := self._open(path)) is not None]
        live = self._open(console)
        if tail is not None:
            _keep_last([*older, live] if live else older, tail)
        offset = live.tell() if live else 0
        self._older = older
        self._follower = Follower(console, offset)
        self._left = max(0, os.fstat(live.fileno()).st_size - offset) if live else 0

    def read_existing(self) -> bytes:
        """Return the next part of what was there at first, b"" at its end."""
        while self._older:
            if chunk := self._older[0].read(_CHUNK):
                return chunk
            self._older.pop(0)
        # Bounded: a guest that writes faster than the client reads must not keep us here.
        if self._left <= 0:
            return b""
        chunk = self._follower.read()
        self._left = self._left - len(chunk) if chunk else 0
        return chunk

    def read_new(self) -> bytes:
        """Return the next part of what has been written since, b"" when there is nothing new."""
        return self._follower.read()

    def close(self) -> None:
        """Close the files that are only read once; `read_new` still works."""
        self._files.close()

    def _open(self, path: Path) -> BinaryIO | None:
        try:
            return self._files.enter_context(path.open("rb"))
        except FileNotFoundError:
            return None


def _keep_last(files: list[BinaryIO], lines: int) -> None:
    """Move each file (oldest first) to where the last ``lines`` lines of all begin."""
    missing = lines
    last = True
    for file in reversed(files):
        offset, missing = _back(file, missing, last)
        file.seek(offset)
        last = last and not os.fstat(file.fileno()).st_size


def _back(file: BinaryIO, lines: int, last: bool) -> tuple[int, int]:
    """Return where the last ``lines`` lines of ``file`` begin, and how many more are wanted from the file before.

    A line's end at the very end of the ``last`` file belongs to its last line.
    """
    end = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return end, 0
    position = end
    while position > 0:
        start = max(0, position - _CHUNK)
        file.seek(start)
        chunk = file.read(position - start)
        at = len(chunk) - 1 if last and position == end and chunk.endswith(b"\n") else len(chunk)
        while (at := chunk.rfind(b"\n", 0, at)) >= 0:
            lines -= 1
            if lines == 0:
                return start + at + 1, 0
        position = start
    return 0, lines
