"""Firecracker without us: a TAP, a process, three requests and a start. What nobody can do without."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from actors.model.network import Lease, guest_mac
from actors.tap import links
from actors.tap.wanted import tap_name, wanted_facts
from bench._minimal import binary, kernel_file

#: Addresses that RFC 2544 keeps for benchmarks.
_FIRST = IPv4Address("198.18.0.1")
_MEMORY = 64


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds: the TAP with its addresses and routes, the process until it listens, the requests, the start."""

    tap: float
    process: float
    configure: float
    start: float

    @property
    def all(self) -> float:
        """The sum."""
        return self.tap + self.process + self.configure + self.start


class Machine:
    """One bare Firecracker in a directory of its own; ``number`` gives its address."""

    def __init__(self, directory: Path, number: int) -> None:
        self.directory = directory
        self.placement: UUID = uuid4()
        self.lease = Lease(v6=None, v4=_FIRST + number)
        self.pid = 0
        self._api = directory / "api.sock"
        self._connection: socket.socket | None = None

    def start(self) -> Times:
        """Make it and start its guest."""
        marks = [time.perf_counter()]
        self._make_tap()
        marks.append(time.perf_counter())
        self._spawn()
        marks.append(time.perf_counter())
        boot = {"kernel_image_path": str(kernel_file()), "boot_args": f"console=ttyS0 ip={self.lease.v4}"}
        self._call("PUT", "/boot-source", boot)
        self._call("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": _MEMORY})
        card = {"iface_id": "eth0", "host_dev_name": tap_name(self.placement), "guest_mac": guest_mac(self.lease)}
        self._call("PUT", "/network-interfaces/eth0", card)
        marks.append(time.perf_counter())
        self._call("PUT", "/actions", {"action_type": "InstanceStart"})
        marks.append(time.perf_counter())
        steps = [(after - before) * 1000 for before, after in pairwise(marks)]
        return Times(*steps)

    def stop(self) -> float:
        """Ask the guest to end and take everything away; return the milliseconds."""
        began = time.perf_counter()
        self._call("PUT", "/actions", {"action_type": "SendCtrlAltDel"})
        self._reap()
        links.remove_tap(tap_name(self.placement))
        return (time.perf_counter() - began) * 1000

    def save(self) -> None:
        """Write its state, for `restore`."""
        self._call("PATCH", "/vm", {"state": "Paused"})
        files = {"snapshot_path": str(self.directory / "state"), "mem_file_path": str(self.directory / "memory")}
        self._call("PUT", "/snapshot/create", {"snapshot_type": "Full", **files})
        self.kill()

    def restore(self) -> float:
        """Go on from what `save` wrote in a new process; return the milliseconds. Its TAP is still there."""
        began = time.perf_counter()
        self._spawn()
        memory = {"backend_type": "File", "backend_path": str(self.directory / "memory")}
        state = {"snapshot_path": str(self.directory / "state"), "mem_backend": memory, "resume_vm": True}
        self._call("PUT", "/snapshot/load", state)
        return (time.perf_counter() - began) * 1000

    def kill(self) -> None:
        """End its process; the TAP stays."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._reap()

    def clear(self) -> None:
        """Leave nothing."""
        self.kill()
        links.remove_tap(tap_name(self.placement))

    def _make_tap(self) -> None:
        links.ensure_tap(tap_name(self.placement), wanted_facts("bench", self.placement, self.lease))

    def _spawn(self) -> None:
        self._api.unlink(missing_ok=True)
        console = str(self.directory / "console")
        self.pid = os.posix_spawn(
            str(binary()),
            [str(binary()), "--api-sock", str(self._api)],
            {},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, console, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsigmask=(),
        )
        end = time.monotonic() + 60
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(self._api))
            except OSError:
                connection.close()
                if time.monotonic() > end:
                    raise TimeoutError("firecracker does not listen") from None
                time.sleep(0.0005)
                continue
            connection.settimeout(60)
            self._connection = connection
            return

    def _call(self, method: str, path: str, body: dict[str, Any]) -> None:
        assert self._connection is not None
        content = json.dumps(body)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = self._connection.recv(4096)
            if not data:
                raise RuntimeError(f"firecracker closed the connection during {method} {path}")
            answer += data
        if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 204")):
            raise RuntimeError(f"{method} {path}: {answer.decode(errors='replace')}")

    def _reap(self) -> None:
        os.waitpid(self.pid, 0)
        self.pid = 0
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """Yield so many machines, not started; at the end nothing is left of them."""
    directory = Path(tempfile.mkdtemp(prefix="zwb-"))
    made = []
    for number in range(count):
        own = directory / str(number)
        own.mkdir()
        made.append(Machine(own, number))
    try:
        yield made
    finally:
        for machine in made:
            with suppress(Exception):
                machine.clear()
        shutil.rmtree(directory, ignore_errors=True)
