"""A host process in a network namespace of its own, asked through its unix socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e.networks import Network, inside
from tests.e2e.process import HostProcess, answers, cgroups_of, processes_with


class Response(NamedTuple):
    """What a host answered."""

    status: int
    headers: dict[str, str]
    body: Any


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class RemoteHost(HostProcess):
    """One ``zeitwork run`` as on a machine of its own: ``name`` is its host name, and who it is on the network."""

    network: Network = field(default_factory=Network)
    name: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Every machine has a name; the process keeps its id through all of these.
        named = ["unshare", "--uts", "sh", "-c", f'hostname {self.name} && exec "$@"', "sh"]
        self.prefix = [*self.network.within(self.name), *named]

    @property
    def pid(self) -> int:
        """The process."""
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def request(self, method: str, path: str, body: Any = None, *, timeout: float = 60) -> Response:
        """Send one request and return the answer, whatever its status. Raises `OSError`."""
        connection = _Connection(self.socket, timeout)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, body=text, headers={"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"{self.name}: {error!r}") from error
        finally:
            connection.close()
        # A metrics page and an empty body are no JSON, and nobody here wants them.
        return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(content or "null"))

    def get(self, path: str) -> Any:
        """Return a 200 answer's body. Raises `OSError` for any other."""
        answer = self.request("GET", path)
        if answer.status != 200:
            raise OSError(f"{self.name} answers {answer.status} to {path}: {answer.body}")
        return answer.body

    def healthy(self) -> bool:
        """Whether ``/health`` is 200; fails when the process has ended."""
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}:\n{self.tail()}"
        with suppress(OSError):
            return self.request("GET", "/health", timeout=5).status == 200
        return False

    def reaches(self, url: str, timeout: float = 3) -> bool:
        """Whether an app answers to whoever asks from this host."""
        return inside(self.network.namespace(self.name), lambda: answers(url, timeout))

    def machines(self) -> list[int]:
        """PIDs of its virtual machines' monitors."""
        found = {*processes_with(str(self.data)), *processes_with(str(self.run))}
        return sorted(pid for pid in found if pid != self.pid and _program(pid).startswith(("qemu", "firecracker")))

    def taps(self) -> set[str]:
        """Names of the network devices of its virtual machines."""
        links = json.loads(self.network.run(self.name, "ip", "-json", "link"))
        return {item["ifname"] for item in links if item["ifname"].startswith("zw")}

    def suspend(self) -> list[int]:
        """Stop it with all of its virtual machines, as a machine that sleeps; return whom to wake."""
        os.kill(self.pid, signal.SIGSTOP)  # first: from here on none comes and none goes
        machines = self.machines()
        for pid in machines:
            os.kill(pid, signal.SIGSTOP)
        return [self.pid, *machines]

    def sweep(self) -> None:
        """Take away what a test that failed has left on the machine."""
        if self.alive:
            self.kill()
        for pid in {*processes_with(str(self.data)), *processes_with(str(self.run))}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for group in sorted(cgroups_of(self.config.tag), key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):
                group.rmdir()


def resume(pids: list[int]) -> None:
    """Wake what `RemoteHost.suspend` stopped."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""
