"""Runs other programs: explicit arguments, a deadline on each, their output line by line."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

#: Where system programs are, also for a user whose PATH lacks the sbin directories.
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Seconds between looks at what a program said, and from SIGTERM to SIGKILL.
_LOOK_EVERY, _PATIENCE = 0.2, 10.0


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended: exit ``status`` (124 at the deadline, 127 when absent) and both streams as ``output``."""

    status: int
    output: str

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.status == 0

    @property
    def last_words(self) -> str:
        """Return the end of what it said, short enough for an error."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E:", "ERROR", "error"))]
        return "; ".join((errors or lines)[-3:])[-600:] or f"exit status {self.status}"


class Tools(Protocol):
    """How setup and doctor reach other programs."""

    def which(self, command: str) -> Path | None:
        """Return where a program is, or None."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        cwd: Path | None = None,
        line: Callable[[str], None] | None = None,
        finish: bool = False,
    ) -> Ran:
        """Run a program to its end, at most ``timeout`` seconds. ``line`` gets each line of output as it comes.

        ``finish`` is for a program that must not be broken off: Ctrl-C waits for its end, and should this process be
        killed, the program goes on.
        """


class SystemTools:
    """The programs of this machine."""

    def which(self, command: str) -> Path | None:
        """Return where a program is, or None."""
        found = shutil.which(command, path=f"{os.environ.get('PATH', '')}:{SEARCH}")
        return Path(found) if found else None

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        cwd: Path | None = None,
        line: Callable[[str], None] | None = None,
        finish: bool = False,
    ) -> Ran:
        """Run a program to its end, at most ``timeout`` seconds. See `Tools.run`."""
        environ = {
            **os.environ,
            "PATH": f"{os.environ.get('PATH', '')}:{SEARCH}",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            "NEEDRESTART_SUSPEND": "1",
        }
        # A file, not a pipe: a program that writes into a pipe dies with its reader.
        with tempfile.TemporaryFile() as output:
            try:
                process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=environ,
                    start_new_session=finish,
                )
            except OSError as error:
                return Ran(127, f"{argv[0]}: {error.strerror}")
            follower = _Follower(output.fileno(), line)
            try:
                status = _wait(process, timeout, follower)
            except BaseException:
                if finish:
                    _wait(process, timeout, follower)
                else:
                    _end(process)
                raise
            said = follower.read()
        if status is None:
            return Ran(124, f"{said}{argv[0]} did not end within {timeout:.0f} s\n")
        return Ran(status, said)


class _Follower:
    """Hands on the lines of a file that another process writes."""

    def __init__(self, descriptor: int, line: Callable[[str], None] | None) -> None:
        self._descriptor = descriptor
        self._line = line
        self._content = bytearray()
        self._told = 0

    def read(self) -> str:
        """Read what is new, hand on its whole lines, and return all that was said so far."""
        while chunk := os.pread(self._descriptor, 65536, len(self._content)):
            self._content += chunk
        if self._line is not None:
            whole = self._content.rfind(b"\n") + 1
            for text in self._content[self._told : whole].decode(errors="replace").splitlines():
                if text.strip():
                    self._line(text.rstrip())
            self._told = max(self._told, whole)
        return self._content.decode(errors="replace")


def _wait(process: subprocess.Popen[bytes], timeout: float, follower: _Follower) -> int | None:
    """Return a program's exit status; None when it had to be ended because its time was over."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return process.wait(timeout=_LOOK_EVERY)
        except subprocess.TimeoutExpired:
            follower.read()
        if time.monotonic() > deadline:
            _end(process)
            return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
