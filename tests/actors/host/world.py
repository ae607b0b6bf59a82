"""A host process in a network namespace of its own, with the directories, store and guests that it works on."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pyroute2 import NetNS
from pyroute2.netns import setns

from actors.model.ids import short_id, uuid7
from actors.model.paths import HostPaths
from actors.vm.cgroup import Cgroup, groups_below
from actors.vm.console import ROTATE_AT
from actors.vm.guest import KEPT
from actors.vm.process import read_stat
from tests.actors.host.file_store import FileStore
from tests.actors.host.host_process import Config
from tests.actors.host.minimal import Voice
from tests.actors.host.zygote import HostFork
from tests.zeitwork.guest.machine import FETCH, cached_kernel, root_tree, squashfs
from zeitwork.guest import initramfs

MONITOR = Path(__file__).with_name("monitor.sh")
#: Seconds until nothing comes any more; on a busy machine less is no sign of that, whatever it takes on an idle one.
PATIENCE = 90.0
#: The same where a whole Linux is emulated, which boots in seconds or, beside others, in minutes.
BOOT_PATIENCE = 240.0
SERVE = "#!/bin/sh\necho serving\nexec httpd -f -p 80 -h /www\n"
SHORT = "#!/bin/sh\necho cannot reach the database\nexit 3\n"
WHO = """#!/bin/sh
echo "Content-Type: text/plain"
echo
echo "host=$(cat /proc/sys/kernel/hostname)"
echo "boot=$(cat /proc/sys/kernel/random/boot_id)"
echo "random=$(cat /proc/sys/kernel/random/uuid)"
echo "clock=$(date +%s)"
"""
FLOOD = "#!/bin/sh\nexec yes an app that has very much to say and says it all the time\n"
STUBBORN = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n"


@cache
def root_image() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="zwr-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    files = {
        "www/index.html": "hello from the guest\n",
        "www/cgi-bin/who": WHO,
        "serve": SERVE,
        "short": SHORT,
        "stubborn": STUBBORN,
        "flood": FLOOD,
    }
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
        self.process: HostFork | None = None
        self.patience = BOOT_PATIENCE if hypervisor in ("firecracker", "qemu") else PATIENCE
        self.start_deadline = BOOT_PATIENCE
        self.console_limit = ROTATE_AT
        #: Mount points that the host process does not see.
        self.hidden: list[str] = []
        self._mounted: list[Path] = []
        self.pulse = 10.0
        self.voice = Voice(self.paths.placements) if hypervisor == "minimal" else None

    # --- the process

    def start(self, crash_point: str = "") -> None:
        """Start the host process; ``crash_point`` (``NAME[:N]``) is where it is to be killed."""
        config = Config(
            base=str(self.base),
            tag=self.tag,
            cluster=self.cluster,
            hypervisor=self.hypervisor,
            binary=self.binary,
            kernel=str(self.kernel),
            initrd=str(self.initrd),
            rootfs=str(self.base / "root") if self.hypervisor in ("shell", "minimal") else str(root_image()),
            start_deadline=self.start_deadline,
            console_limit=self.console_limit,
            pulse=self.pulse,
        )
        file = self.base / "config.json"
        file.write_text(json.dumps(asdict(config)))
        self.process = HostFork(file, self.netns, crash_point, self.log, self.hidden)
        assert self.hear() == {"up": True}

    @property
    def log(self) -> Path:
        return self.base / "host.log"

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/var/run/netns/{self.netns}", *argv]

    def say(self, line: str) -> None:
        assert self.process is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-6000:]
        return json.loads(line)

    def view(self) -> dict[str, Any]:
        self.say("view")
        return self.hear()

    def wake(self) -> None:
        """Have the host read its placements. It may do so by itself, and be killed over it at its crash point."""
        with contextlib.suppress(BrokenPipeError):
            self.say("wake")

    def kill(self) -> None:
        """kill -9, as an operator in distress or the kernel would."""
        assert self.process is not None
        self.process.kill()
        self._forget()

    def wait_crash(self, seconds: float = PATIENCE) -> None:
        """Wait until the host process is killed at the point that it was started with."""
        assert self.process is not None
        try:
            status = self.process.wait(max(seconds, self.patience))
        except subprocess.TimeoutExpired:
            pytest.fail(f"the crash point was not reached\n{self.log.read_text()[-8000:]}")
        assert status == -signal.SIGKILL, self.log.read_text()[-8000:]
        self._forget()
        self.rest()

    def rest(self) -> None:
        """Wait until a monitor that a killed host has just spawned is in its cgroup, and its helpers have ended."""
        parent, roots = f"zeitwork-{self.tag}", Cgroup.of("x").roots

        def at_rest() -> bool:
            groups = [Cgroup(f"{parent}/{name}", roots) for name in groups_below(parent, roots)]
            return set(self.processes()) <= {pid for group in groups for pid in group.members()}

        self.settle(at_rest)

    def end(self) -> None:
        """An orderly end: machines stay."""
        self.say("end")
        assert self.hear() == {"ended": True}
        self._forget()

    def _forget(self) -> None:
        assert self.process is not None
        self.process.wait(PATIENCE)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process = None

    # --- placements

    def place(self, **row: Any) -> UUID:
        identifier = uuid7(int(time.time() * 1000), os.urandom(10))
        row.setdefault("argv", ["/serve"])
        row.setdefault("stop_timeout", PATIENCE)  # whoever obeys is not to be killed for being slow
        return self.store.add(identifier, **row)

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        end = time.monotonic() + max(seconds, self.patience)
        while not (value := condition()):
            if time.monotonic() > end or (self.process is not None and self.process.poll() is not None):
                pytest.fail(f"no {what}\n{self.log.read_text()[-8000:]}")
            time.sleep(0.02)
        return value

    def settle(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Wait for a condition; the host process may end meanwhile."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log.read_text()[-8000:]
            time.sleep(0.02)

    def wait_state(self, placement: UUID, state: str, seconds: float = PATIENCE) -> dict[str, Any]:
        self.wait(lambda: self.store.row(placement)["state"] == state, f"{state} of {placement}", seconds)
        return self.store.row(placement)

    def fetch(self, host: str, path: str = "index.html") -> str:
        command = self.inside(sys.executable, "-I", "-c", FETCH, f"http://{host}/{path}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        if done.returncode:
            pytest.fail(f"{host} does not serve: {done.stderr[-2000:]}\n{self.log.read_text()[-8000:]}")
        return done.stdout

    def echo(self, host: str, data: bytes, port: int = 7, tries: int = 60) -> bytes:
        """Return what the bare guest answers to a datagram, sent again every second."""
        with ThreadPoolExecutor(1) as pool:  # a thread has a network namespace of its own
            return pool.submit(self._echo, host, data, port, tries).result(tries + PATIENCE)

    def _echo(self, host: str, data: bytes, port: int, tries: int) -> bytes:
        setns(self.netns)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.settimeout(1)
            for _ in range(tries):
                own.sendto(data, (host, port))
                with contextlib.suppress(TimeoutError):
                    return own.recv(2048)
        raise AssertionError(f"{host} does not answer")

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
        found += [str(path) for path in content(data) if path.name not in KEPT]
        with NetNS(self.netns) as netns:
            if netns.link_lookup(ifname=f"zw{short_id(placement)}"):
                found.append("tap")
        rules = subprocess.run(self.inside("nft", "list", "ruleset"), capture_output=True, text=True, check=True).stdout
        if f"zw{short_id(placement)}" in rules:
            found.append("rules")
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [f"mount {line.split()[4]}" for line in mounts if str(data) in line]
        found += [str(path) for path in content(self.paths.data / "templates") if path.name.startswith(".")]
        found += [f"process {pid}" for pid in self.processes()]
        return found

    def processes(self) -> list[int]:
        """Every process in this world's network but the host's own. Zombies have ended."""
        own = Path(f"/var/run/netns/{self.netns}").stat().st_ino
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                pid = int(process.name)
                stat = read_stat(pid)
                here = (process / "ns/net").stat().st_ino == own
                if here and not (stat is None or stat[0] in "ZXx" or (self.process and self.process.pid == pid)):
                    found.append(pid)
        return found

    def monitors(self, placement: UUID) -> list[int]:
        """The processes in a placement's cgroup that have not ended."""
        members = Cgroup.of(f"zeitwork-{self.tag}/{short_id(placement)}").members()
        return sorted(pid for pid in members if (stat := read_stat(pid)) is not None and stat[0] not in "ZXx")

    def monitor(self, placement: UUID) -> int:
        """Wait until a placement's monitor, and nothing else, runs in this network: helpers of the host come and go."""

        def alone() -> list[int]:
            there = self.processes()
            return there if len(there) == 1 and there == self.monitors(placement) else []

        [pid] = self.wait(alone, "monitor alone")
        return int(pid)

    def kill_monitors(self, placement: UUID) -> None:
        """Kill what is in a placement's cgroup until nothing is: a shell's children end while they are looked at."""

        def killed() -> bool:
            there = self.monitors(placement)
            for pid in there:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not there

        self.settle(killed)

    # --- what the machine may be like

    def small(self, directory: Path, **limits: int) -> None:
        """Put a file system of its own on a directory, or change the limits of the one that is there.

        ``size`` in bytes, ``nr_inodes`` counts files and directories, its own root among them.
        """
        directory.mkdir(parents=True, exist_ok=True)
        options = ",".join(f"{name}={value}" for name, value in limits.items())
        if directory in self._mounted:
            options = f"remount,{options}"
        else:
            self._mounted.append(directory)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"{options},mode=0755", "tmpfs", str(directory)], check=True)

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        if self.voice is not None:
            self.voice.close()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
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
        for directory in reversed(self._mounted):
            subprocess.run(["umount", "-l", str(directory)], check=False)


def content(directory: Path) -> list[Path]:
    """What is in a directory, which may go while it is looked at."""
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def world(hypervisor: str) -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces and cgroups")
    base = Path(tempfile.mkdtemp(prefix="zwh-"))
    name = f"zwh{secrets.token_hex(5)}"
    try:
        if hypervisor in ("firecracker", "minimal"):
            binary = os.environ.get("ZEITWORK_TEST_FIRECRACKER", "")
            if not binary or not os.access("/dev/kvm", os.W_OK):
                pytest.skip("ZEITWORK_TEST_FIRECRACKER is not set, or /dev/kvm is not writable")
            if hypervisor == "minimal":
                if "ZEITWORK_TEST_MINIMAL_GUEST" not in os.environ:
                    pytest.skip("ZEITWORK_TEST_MINIMAL_GUEST is not set")
                kernel = initrd = Path(os.environ["ZEITWORK_TEST_MINIMAL_GUEST"])
                (base / "root").write_bytes(bytes(4096))
                (base / "root").chmod(0o444)
            elif own := os.environ.get("ZEITWORK_TEST_KERNEL"):
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
