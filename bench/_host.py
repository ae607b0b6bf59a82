"""A real host process on a data directory of its own, for questions about whole processes."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from actors.model.errors import Problem
from actors.model.paths import HostPaths
from zeitwork.config import DEFAULT_DATA_DIR, load
from zeitwork.guest.kernel import load_guest
from zeitwork.store.system_user import find_user

ROOT = Path(__file__).parents[1]
T = TypeVar("T")

_POLL = 0.005
_given: set[int] = set()


def missing() -> str | None:
    """Say why no host can be measured here, None when one can."""
    if os.geteuid() != 0:
        return "needs root: it starts a host with its database, network devices and VMs"
    for program in ("qemu-system-x86_64", "mke2fs", "tar2sqfs", "nft"):
        if shutil.which(program) is None:
            return f"{program} is not installed; zeitwork setup brings it"
    if find_user() is None:
        return "the database's system user does not exist; zeitwork setup makes it"
    if assets() is None:
        return "there is no guest kernel; zeitwork setup brings it"
    return None


def assets() -> Path | None:
    """Return the directory with what setup brings: the end-to-end tests' cache or setup's own, None without one."""
    for place in (
        Path(os.environ.get("ZEITWORK_TEST_CACHE", "/var/tmp/zeitwork-test-cache")) / "assets",
        DEFAULT_DATA_DIR,
    ):
        paths = HostPaths(place, place / "run")
        with suppress(Problem, OSError):
            if paths.hello.is_file():
                load_guest(paths)
                return place
    return None


def environment(pycache: Path) -> dict[str, str]:
    """Return the environment of measured processes: byte code is kept, as an installation keeps it."""
    ours = re.compile(r"ZEITWORK_(?!TEST_)|PYTHON")
    keep = {name: value for name, value in os.environ.items() if not ours.match(name)}
    return keep | {"PYTHONPYCACHEPREFIX": str(pycache), "PYTHONPATH": str(ROOT)}


def until(condition: Callable[[], T], what: str, seconds: float = 60, every: float = _POLL) -> T:
    """Return the first true answer of ``condition``, asked ``every`` so many seconds. Raises `TimeoutError`."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(every)
    return answer


def memory_of(pid: int) -> tuple[float, float]:
    """Return a process's resident and proportional set, in MiB."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        found[name] = int(value) / 1024
    return found["Rss:"], found["Pss:"]


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has used, without its children."""
    # The kernel's number of that clock, which is exact: ticks of 10 ms hide what an idle process does in a second.
    return time.clock_gettime((~pid << 3) | 2)


def free_port() -> int:
    """Return a port that nobody has, of those that the kernel gives no connection before it is listened on."""
    chosen = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(12_000, max(chosen, 22_000))
        with socket.socket() as probe, suppress(OSError):
            if port not in _given:
                probe.bind(("127.0.0.1", port))
                _given.add(port)
                return port


@dataclass
class Host:
    """One ``zeitwork run``. ``start`` returns once ``/health`` answers 200. ``module`` is what Python runs."""

    directory: Path
    port: int
    arguments: list[str]
    process: subprocess.Popen[bytes] | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    module: str = "zeitwork"
    _read: int = 0

    @property
    def log(self) -> Path:
        """What it wrote to standard error: one JSON object a line."""
        return self.directory / "log"

    @property
    def pid(self) -> int:
        """The PID of the running process."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> float:
        """Start it; return the seconds until ``/health`` said 200."""
        place = assets()
        assert place is not None
        command = [
            sys.executable, "-m", self.module, "run", "--data-dir", str(self.directory / "data"),
            "--http", f"127.0.0.1:{self.port}", "--log-format", "json", "--stop-vms", *self.arguments,
        ]  # fmt: skip
        variables = environment(self.directory / "pycache") | {"ZEITWORK_ASSETS_DIR": str(place)}
        with self.log.open("ab") as log:
            began = time.perf_counter()
            self.process = subprocess.Popen(
                command, cwd="/", env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(self.healthy, "/health", seconds=180)
        return time.perf_counter() - began

    def healthy(self) -> bool:
        """Say whether ``/health`` answers 200. Raises `RuntimeError` when the process has ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the host ended with {self.process.returncode}: {self.log.read_text()[-2000:]}")
        try:
            return self.call("GET", "/health")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        """End it in order."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any, str]:
        """Return status, JSON and request id of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null"), answer.headers.get("X-Request-Id", "")
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON of an answer that says success. Raises `RuntimeError`."""
        status, answer, _ = self.call(method, path, body)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer}")
        return answer

    def every(self, what: str, query: str = "") -> list[dict[str, Any]]:
        """Return all items of a list, such as ``instances``, whatever its pages."""
        items: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.ask("GET", f"/api/v1/{what}?limit=500&{query}{cursor}")
            items += page["items"]
            if page.get("next_cursor") is None:
                return items
            cursor = f"&cursor={page['next_cursor']}"

    def events(self) -> list[dict[str, Any]]:
        """Return all lines of the log so far."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                if line.startswith(b"{"):
                    self.seen.append(json.loads(line))
        return self.seen

    def cli(self, *arguments: str) -> Any:
        """Run a command of the CLI and return its JSON."""
        variables = environment(self.directory / "pycache") | {
            "ZEITWORK_SOCKET": str(load({"data_dir": str(self.directory / "data")}).api_socket)
        }
        done = subprocess.run(
            [sys.executable, "-m", "zeitwork", *arguments, "--json"],
            cwd="/", env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"zeitwork {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def clear(self) -> None:
        """Remove all instances and wait until nothing is left of them."""
        for item in self.every("instances"):
            self.ask("DELETE", f"/api/v1/instances/{item['id']}?confirm=true&force=true")
        self.wait_for_none()

    def wait_for_none(self) -> None:
        """Wait until nothing is left of any instance."""
        until(lambda: not self.every("instances"), "the instances' end", seconds=180, every=0.05)


@contextmanager
def a_host(*arguments: str) -> Iterator[Host]:
    """Yield a host that is not started; at the end it, its instances and its directory go."""
    # Not below /tmp/pytest-… or a home: the database's own user must reach it.
    directory = Path(tempfile.mkdtemp(prefix="zeitwork-bench-", dir="/var/tmp"))
    directory.chmod(0o755)
    host = Host(directory, free_port(), list(arguments) or ["--hypervisor", "qemu"])
    try:
        yield host
    finally:
        with suppress(OSError, RuntimeError, TimeoutError):
            if host.process is not None and host.process.poll() is None:
                host.clear()
        try:
            host.stop()
        except subprocess.TimeoutExpired:
            assert host.process is not None
            host.process.kill()
            host.process.wait(60)
        shutil.rmtree(directory, ignore_errors=True)
