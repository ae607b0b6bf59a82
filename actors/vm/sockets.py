"""Connections to a monitor's unix socket."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import trio

from actors.model.errors import Failed

#: What fits in a sockaddr_un, its final NUL left out.
MAX_PATH = 107
#: First and largest wait in seconds between attempts while a fresh process does not listen yet.
_FIRST, _LARGEST = 0.001, 0.02
_NOT_YET = (errno.ENOENT, errno.ECONNREFUSED)


def check_length(path: Path) -> None:
    """Raise `Failed` when ``path`` is too long for a unix socket."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise Failed(
            f"{path} is too long for a unix socket ({MAX_PATH} bytes)", field="run_dir", fix="use a shorter run_dir"
        )


async def connect(path: Path, deadline: float, name: str) -> trio.SocketStream:
    """Connect to ``path``, waiting up to ``deadline`` seconds for somebody to listen. ``name`` is for the error.

    Raises `Failed` when nobody does, or when the path is too long for a unix socket.
    """
    check_length(path)
    wait = _FIRST
    with trio.move_on_after(deadline):
        while True:
            socket = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
            try:
                await socket.connect(str(path))
            except OSError as error:
                socket.close()
                if error.errno not in _NOT_YET:
                    raise Failed(f"{name} can't be reached at {path}: {error.strerror}") from error
            except BaseException:
                socket.close()
                raise
            else:
                return trio.SocketStream(socket)
            await trio.sleep(wait)
            wait = min(_LARGEST, wait * 2)
    raise Failed(f"{name} does not listen on {path} after {deadline:g} s")
