"""A host process in a network namespace of its own, with the directories, store and guests that it works on."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pyroute2 import NetNS

from actors.model.ids import short_id, uuid7
from actors.model.paths import HostPaths
from actors.vm.cgroup import Cgroup, groups_below
from tests.actors.host.file_store import FileStore
from tests.actors.host.host_process import Config
from tests.zeitwork.guest.machine import FETCH, cached_kernel, root_tree, squashfs
from zeitwork.guest import initramfs

ROOT = Path(__file__).parents[3]
MONITOR = Path(__file__).with_name("monitor.sh")
SERVE = "#!/bin/sh\necho serving\nexec httpd -f -p 80 -h /www\n"
SHORT = "#!/bin/sh\necho cannot reach the database\nexit 3\n"
STUBBORN = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n"


@cache
def root_image() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="zwr-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    files = {"www/index.html": "hello from the guest\n", "serve": SERVE, "short": SHORT, "stubborn": STUBBORN}
    image = squashfs(root_tree(folder / "tree", files), folder / "root.squashfs")
    shutil.rmtree(folder / "tree")
    return image


class World:
    def __init__(self, base: Path, hypervisor: str, binary: str, kernel: Path, initrd: Path, name: str) -> None:
        self.base = base
        self.netns = name
        self.tag = secrets.token_hex(4)
        self.cluster = "cluster-a"
        self.hypervisor, self.binary, self.kernel, self.initrd = hypervisor, binary, kernel, initrd
        self.store = FileStore(base / "store")
        self.paths = HostPaths(base / "data", base / "run")
        self.paths.data.mkdir()
        self.paths.run.mkdir()
        self.process: subprocess.Popen[str] | None = None
        self.start_deadline = 60.0

    # --- the process

    def start(self) -> None:
        config = Config(
            base=str(self.base),
            tag=self.tag,
            cluster=self.cluster,
            hypervisor=self.hypervisor,
            binary=self.binary,
            kernel=str(self.kernel),
            initrd=str(self.initrd),
            rootfs=str(root_image()) if self.hypervisor != "shell" else str(self.base / "root"),
            start_deadline=self.start_deadline,
        )
        file = self.base / "config.json"
        file.write_text(json.dumps(asdict(config)))
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [*self.inside(sys.executable), "-m", "tests.actors.host.host_process", str(file)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.hear() == {"up": True}

    @property
    def log(self) -> Path:
        return self.base / "host.log"

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/var/run/netns/{self.netns}", *argv]

    def say(self, line: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-6000:]
        return json.loads(line)

    def view(self) -> dict[str, Any]:
        self.say("view")
        return self.hear()

    def wake(self) -> None:
        self.say("wake")

    def kill(self) -> None:
        """kill -9, as an operator in distress or the kernel would."""
        assert self.process is not None
        self.process.kill()
        self._forget()

    def end(self) -> None:
        """An orderly end: machines stay."""
        self.say("end")
        assert self.hear() == {"ended": True}
        self._forget()

    def _forget(self) -> None:
        assert self.process is not None
        self.process.wait(30)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process = None

    # --- placements

    def place(self, **row: Any) -> UUID:
        identifier = uuid7(int(time.time() * 1000), os.urandom(10))
        row.setdefault("argv", ["/serve"])
        return self.store.add(identifier, **row)

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end or (self.process is not None and self.process.poll() is not None):
                pytest.fail(f"no {what}\n{self.log.read_text()[-8000:]}")
            time.sleep(0.02)
        return value

    def wait_state(self, placement: UUID, state: str, seconds: float = 90.0) -> dict[str, Any]:
        self.wait(lambda: self.store.row(placement)["state"] == state, f"{state} of {placement}", seconds)
        return self.store.row(placement)

    def fetch(self, host: str) -> str:
        command = self.inside(sys.executable, "-I", "-c", FETCH, f"http://{host}/index.html")
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout

    def vmm_pid(self, placement: UUID) -> int:
        return int(json.loads((self.paths.vm_run(placement) / "vmm.json").read_text())["identity"]["pid"])

    # --- what is left

    def remains(self, placement: UUID) -> list[str]:
        """Everything of a placement that is still on the machine, its console's end aside."""
        found = []
        roots = Cgroup.of("x").roots
        found += [f"cgroup {name}" for name in groups_below(f"zeitwork-{self.tag}", roots)]
        if self.paths.vm_run(placement).exists():
            found.append(str(self.paths.vm_run(placement)))
        data = self.paths.placement(placement)
        found += [str(path) for path in data.glob("*") if path.name != "console.log"] if data.exists() else []
        with NetNS(self.netns) as netns:
            if netns.link_lookup(ifname=f"zw{short_id(placement)}"):
                found.append("tap")
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(self.base).encode() in process.read_bytes() and b"host_process" not in process.read_bytes():
                    found.append(f"process {process.parent.name}")
        return found

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        roots = Cgroup.of("x").roots
        for name in groups_below(f"zeitwork-{self.tag}", roots):
            group = Cgroup.of(f"zeitwork-{self.tag}/{name}")
            # Again and again: a monitor just spawned is still entering one hierarchy after the other.
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                for pid in group.members():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(OSError):
                    group.remove()
                    break


@contextlib.contextmanager
def world(hypervisor: str) -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces and cgroups")
    base = Path(tempfile.mkdtemp(prefix="zwh-"))
    name = f"zwh{secrets.token_hex(5)}"
    try:
        if hypervisor == "firecracker":
            binary = os.environ.get("ZEITWORK_TEST_FIRECRACKER", "")
            if not binary or not os.access("/dev/kvm", os.W_OK):
                pytest.skip("ZEITWORK_TEST_FIRECRACKER is not set, or /dev/kvm is not writable")
            if own := os.environ.get("ZEITWORK_TEST_KERNEL"):
                kernel, initrd = Path(own), base / "initrd"
                initrd.write_bytes(initramfs.build(None))
            else:
                guest = cached_kernel()
                kernel, initrd = guest.vmlinux, guest.initrd
        elif hypervisor == "shell":
            binary, kernel, initrd = str(MONITOR), MONITOR, MONITOR
        else:
            found = shutil.which("qemu-system-x86_64")
            if found is None:
                pytest.skip("qemu-system-x86_64 is not installed")
            guest = cached_kernel()
            binary, kernel, initrd = found, guest.vmlinux, guest.initrd
        with NetNS(name, flags=os.O_CREAT | os.O_EXCL) as netns:
            made = World(base, hypervisor, binary, kernel, initrd, name)
            try:
                yield made
            finally:
                made.close()
                netns.remove()
    finally:
        shutil.rmtree(base, ignore_errors=True)
