"""Runs other programs: explicit arguments, a deadline on each, their output line by line."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

#: Where system programs are, also for a user whose PATH lacks the sbin directories.
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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
        self, argv: Sequence[str], *, timeout: float, cwd: Path | None = None, line: Callable[[str], None] | None = None
    ) -> Ran:
        """Run a program to its end, at most ``timeout`` seconds. ``line`` gets each line of output as it comes."""


class SystemTools:
    """The programs of this machine."""

    def which(self, command: str) -> Path | None:
        """Return where a program is, or None."""
        found = shutil.which(command, path=f"{os.environ.get('PATH', '')}:{SEARCH}")
        return Path(found) if found else None

    def run(
        self, argv: Sequence[str], *, timeout: float, cwd: Path | None = None, line: Callable[[str], None] | None = None
    ) -> Ran:
        """Run a program to its end, at most ``timeout`` seconds. ``line`` gets each line of output as it comes."""
        environ = {
            **os.environ,
            "PATH": f"{os.environ.get('PATH', '')}:{SEARCH}",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            "NEEDRESTART_SUSPEND": "1",
        }
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=environ,
                text=True,
                errors="replace",
            )
        except OSError as error:
            return Ran(127, f"{argv[0]}: {error.strerror}")
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout, give_up)
        timer.daemon = True
        timer.start()
        said: list[str] = []
        try:
            assert process.stdout is not None
            for text in process.stdout:
                said.append(text)
                if line is not None and text.strip():
                    line(text.rstrip())
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            timer.cancel()
            if process.stdout is not None:
                process.stdout.close()
        if late.is_set():
            said.append(f"{argv[0]} did not end within {timeout:.0f} s\n")
            status = 124
        return Ran(status, "".join(said))
