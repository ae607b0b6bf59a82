"""Real processes that are members of one cluster, each with real links on this machine's loopback (see `_member`)."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench._host import ROOT, cpu_of, environment, free_port
from bench._links import issue

#: Seconds within which anything happens.
PATIENCE = 90.0

#: Who has heard it, what, of whom, and when (seconds of the clock that all processes share).
Heard = tuple[int, str, int, float]


@dataclass
class _Process:
    number: int
    process: subprocess.Popen[str]
    heard: queue.SimpleQueue[Heard]
    sent: queue.SimpleQueue[int] = field(default_factory=queue.SimpleQueue)
    stood: queue.SimpleQueue[float] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            match line.split():
                case ["heard", kind, about, at]:
                    self.heard.put((self.number, kind, int(about), float(at)))
                case ["sent", count]:
                    self.sent.put(int(count))
                case ["stands", at]:
                    self.stood.put(float(at))

    def bytes_sent(self) -> int:
        """Return how many bytes it has sent so far."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.sent.get(timeout=PATIENCE)

    def cpu(self) -> float:
        """Return its seconds of CPU so far."""
        return cpu_of(self.process.pid)


class Crowd:
    """``count`` processes, numbered from 1; the first is the seed of all. ``stack`` ends them.

    Raises TimeoutError when one does not begin.
    """

    def __init__(self, directory: Path, count: int, stack: ExitStack) -> None:
        self.heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self.members: dict[int, _Process] = {}
        #: Deaths that were told of hosts that lived.
        self.false = 0
        ports = [free_port() for _ in range(count)]
        for number, port in enumerate(ports, 1):
            files = issue(directory, number)
            command = [sys.executable, "-m", "bench._member", str(number), str(port), str(ports[0])]
            process = subprocess.Popen(
                [*command, str(files.directory)],
                cwd=ROOT,
                env=environment(directory / "pycache"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            stack.callback(process.wait, 30)
            stack.callback(process.kill)
            self.members[number] = _Process(number, process, self.heard)
        try:
            # By their own words: they may know each other before this process comes to look at its clock.
            self.began = max([member.stood.get(timeout=PATIENCE) for member in self.members.values()])
        except queue.Empty:
            raise TimeoutError("a process did not begin") from None

    def all_know(self) -> float:
        """Wait until each has heard of all others; return the seconds since all stood."""
        missing = {(one, other) for one in self.members for other in self.members if one != other}
        last = self.began
        while missing:
            by, kind, about, at = self.heard.get(timeout=PATIENCE)
            if kind == "joined":
                missing.discard((by, about))
                last = max(last, at)
        return last - self.began

    def spent(self) -> tuple[int, float]:
        """Return the bytes and the seconds of CPU of all, so far."""
        return sum(one.bytes_sent() for one in self.members.values()), sum(one.cpu() for one in self.members.values())

    def lose(self, number: int, how: signal.Signals) -> float:
        """Let one die; return the seconds until all others know."""
        began = time.monotonic()
        self.take(number, how)
        missing, last = set(self.members), began
        while missing:
            by, kind, about, at = self.heard.get(timeout=PATIENCE)
            if kind == "dead" and about == number:
                missing.discard(by)
                last = max(last, at)
            elif kind == "dead" and about in self.members:
                self.false += 1
        return last - began

    def take(self, number: int, how: signal.Signals) -> None:
        """Let one die and go on."""
        self.members.pop(number).process.send_signal(how)
