"""Connections to a monitor's unix socket."""

from __future__ import annotations

import errno
import os
import stat
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

    Raises `Failed` when nobody does, or when the path is too long for a unix socket. ``path`` may be a link of ours
    into a jail. What is there has to be a socket itself: a monitor that was taken over by its guest could put a link in
    its place, and have us talk with somebody out of its reach.
    """
    check_length(path)
    wait = _FIRST
    with trio.move_on_after(deadline):
        while True:
            try:
                held = _hold(path)
                try:
                    return trio.SocketStream(await _connect(held))
                finally:
                    os.close(held)
            except OSError as error:
                if error.errno not in _NOT_YET:
                    raise Failed(f"{name} can't be reached at {path}: {error.strerror}") from error
            await trio.sleep(wait)
            wait = min(_LARGEST, wait * 1.25)
    raise Failed(f"{name} does not listen on {path} after {deadline:g} s")


async def _connect(held: int) -> trio.socket.SocketType:
    socket = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await socket.connect(f"/proc/self/fd/{held}")
    except BaseException:
        socket.close()
        raise
    return socket


def _hold(path: Path) -> int:
    """Return a descriptor that stands for a socket, so that nothing else can take its place. Raises `OSError`."""
    descriptor = os.open(path.readlink() if path.is_symlink() else path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), str(path))
    return descriptor
