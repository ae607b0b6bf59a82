"""A real host process, its CLI, and what either leaves on the machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

from tests.ports import free_port
from zeitwork.config import load

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = 120) -> T:
    """Return the first true answer of ``condition``; fail with ``what`` was waited for.

    A host that can't answer for a moment, as when its database is slow, is asked again; so is a file that is not there.
    """
    end = time.monotonic() + seconds
    while True:
        trouble: Exception | None = None
        try:
            if answer := condition():
                return answer
        except (OSError, HTTPException) as error:
            trouble = error
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}" + (f" ({trouble!r})" if trouble else "")
        time.sleep(0.05)


@dataclass
class HostProcess:
    """One ``zeitwork run`` on a data directory of its own."""

    data: Path
    assets: Path
    arguments: list[str] = field(default_factory=list)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    #: What the command is run by.
    prefix: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = load({"data_dir": str(self.data), "http": f"127.0.0.1:{self.port}"})
        self.run = self.config.paths.run
        self.log = self.data.parent / f"{self.data.name}.log"

    @property
    def socket(self) -> Path:
        return self.config.api_socket

    def environment(self) -> dict[str, str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith("ZEITWORK_")}
        return keep | {"ZEITWORK_SOCKET": str(self.socket), "ZEITWORK_ASSETS_DIR": str(self.assets)}

    def start(self) -> None:
        command = [
            *self.prefix, sys.executable, "-m", "zeitwork", "run",
            "--data-dir", str(self.data), "--http", f"127.0.0.1:{self.port}", *self.arguments,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(self.healthy, f"/health; log:\n{self.tail()}")

    def healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the host ended with {self.process.returncode}:\n{self.tail()}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:] if self.log.exists() else ""

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def terminate(self) -> int:
        """End it in order and return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(150)

    def cli(self, *arguments: str, stdin: Path | None = None, check: bool = True, timeout: float = 200) -> Any:
        """Run the CLI; return its JSON with ``--json`` among the arguments, else the finished process."""
        source = stdin.open("rb") if stdin else subprocess.DEVNULL
        try:
            done = subprocess.run(
                [sys.executable, "-m", "zeitwork", *arguments],
                cwd=ROOT, env=self.environment(), stdin=source, capture_output=True, text=True, timeout=timeout,
            )  # fmt: skip
        finally:
            if not isinstance(source, int):
                source.close()
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}\nhost log:\n{self.tail()}"
            return json.loads(done.stdout) if "--json" in arguments else done
        return done

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)


def fetch(url: str, timeout: float = 5) -> str:
    """Return the body of a 200 answer."""
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        assert answer.status == 200
        body: bytes = answer.read()
    return body.decode()


def answers(url: str, timeout: float = 3) -> bool:
    """Whether an app answers. Where it has to, without another try, ``timeout`` is what a busy machine may need."""
    try:
        fetch(url, timeout)
    except (OSError, HTTPException):
        return False
    return True


@contextmanager
def running(host: HostProcess) -> Iterator[HostProcess]:
    """Start a host; at the end remove its instances, end it, and take away its directories."""
    host.start()
    try:
        yield host
    finally:
        if host.process is not None and host.process.poll() is None:
            host.process.send_signal(signal.SIGCONT)  # a test that failed may have left it stopped
            listed = host.cli("ps", "--json", check=False)
            names = [item["id"] for item in json.loads(listed.stdout)] if listed.returncode == 0 else []
            for name in names:
                with suppress(subprocess.TimeoutExpired):
                    host.cli("rm", name, "--yes", "--force", check=False, timeout=60)
            with suppress(subprocess.TimeoutExpired):
                host.terminate()
            if host.process.poll() is None:
                host.kill()


# What is on the machine


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


def processes_with(text: str) -> list[int]:
    """Return PIDs of live processes (zombies do not count) with ``text`` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if text in line and state != "Z" and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
    return found


def links() -> set[str]:
    return {item["ifname"] for item in json.loads(_output("ip", "-json", "link"))}


def routes() -> str:
    return _output("ip", "-4", "route", "show", "table", "all") + _output("ip", "-6", "route", "show", "table", "all")


def nft() -> str:
    return _output("nft", "list", "ruleset")


def cgroups_of(text: str) -> list[Path]:
    """Return cgroup directories, in any hierarchy, with ``text`` in their path."""
    return [Path(root) for root, _, _ in os.walk("/sys/fs/cgroup") if text in root]
