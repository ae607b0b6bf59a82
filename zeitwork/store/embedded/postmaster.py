"""Which server, if any, runs on a data directory: looked up in /proc, because a PID file proves nothing.

The data directory belongs to the server's unprivileged user, so nothing in it is trusted with a signal of root's.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

#: Seconds until what was killed is gone. Nothing else can be done about it than to wait.
GONE_PATIENCE = 20.0
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class PidFile:
    """What a server wrote into its ``postmaster.pid``. ``status`` is ``starting``, ``ready``, ``stopping`` …"""

    pid: int
    status: str


def read_pid_file(data: Path) -> PidFile | None:
    """Return what ``postmaster.pid`` says, None when there is none or it is torn."""
    try:
        # The file's owner is not us: a link or a pipe in its place must neither mislead nor block.
        handle = os.open(data / "postmaster.pid", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            lines = os.read(handle, 4096).decode("utf-8", "replace").splitlines()
        finally:
            os.close(handle)
        return PidFile(int(lines[0]), lines[7].strip() if len(lines) > 7 else "starting")
    except (OSError, ValueError, IndexError):
        return None


def servers(data: Path, uid: int) -> list[int]:
    """Return the PIDs of every process of this user that works in ``data``, the postmaster first.

    A server changes into its data directory, so this finds postmasters and orphaned backends alike, whatever the
    PID file says, and never a process that merely has a recycled PID.
    """
    try:
        wanted = data.stat()
    except FileNotFoundError:
        return []
    found = []
    for entry in os.scandir(_PROC):
        if not entry.name.isdigit():
            continue
        try:
            if entry.stat().st_uid != uid:
                continue
            cwd = (_PROC / entry.name / "cwd").stat()
        except OSError:
            continue  # it ended while we looked, or it is not ours to see
        if (cwd.st_dev, cwd.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(int(entry.name))
    return sorted(found, key=lambda pid: (_parent(pid) in found, pid))


def stop_leftover(data: Path, uid: int, *, patience: float) -> int:
    """Stop every server process that works in ``data``; return how many there were.

    Fast shutdown first (the server ends its sessions and writes a checkpoint), then immediate, then SIGKILL, with
    ``patience`` seconds for each; what was killed has longer to be gone. Blocks: call it in a thread.
    """
    count = 0
    for step in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        pids = servers(data, uid)
        count = max(count, len(pids))
        if not pids:
            return count
        handles = [handle for pid in pids if (handle := _open(pid, data, uid)) is not None]
        try:
            # Backends end with their postmaster; signalled together a fast shutdown would look like a crash to it.
            targets = handles if step is signal.SIGKILL else handles[:1]
            for handle in targets:
                _send(handle, step)
            _wait(handles, patience)
        finally:
            for handle in handles:
                os.close(handle)
    _settle(data, uid, max(patience, GONE_PATIENCE))
    return count


def remove_stale_files(data: Path, socket_directory: Path, port: int) -> None:
    """Remove what a server that is gone left behind. Only after `servers` found none.

    Postgres itself would refuse to start when the PID in such a file was recycled by another process of its user.
    """
    for path in (
        data / "postmaster.pid",
        socket_directory / f".s.PGSQL.{port}",
        socket_directory / f".s.PGSQL.{port}.lock",
    ):
        path.unlink(missing_ok=True)


def _parent(pid: int) -> int:
    try:
        # The second field, the name, is in parentheses and may hold anything; the fields after it are plain.
        return int(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _open(pid: int, data: Path, uid: int) -> int | None:
    """Return a pidfd of a process that is still the one that was found."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if pid in servers(data, uid):
        return handle
    os.close(handle)
    return None


def _send(handle: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return  # it has ended, which is what was wanted


def _wait(handles: list[int], seconds: float) -> None:
    """Wait until all processes have ended, at most ``seconds``."""
    deadline = time.monotonic() + seconds
    for handle in handles:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(max(0.0, deadline - time.monotonic()) * 1000)


def _settle(data: Path, uid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while servers(data, uid) and time.monotonic() < deadline:
        time.sleep(0.02)
