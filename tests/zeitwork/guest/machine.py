"""Real guests for tests: drives, a throwaway network, and a QEMU or Firecracker process with its console."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import re
import secrets
import selectors
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import TracebackType

import pytest
from pyroute2 import NetNS

from actors.model.errors import Unavailable
from actors.model.network import GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, Lease, guest_mac
from actors.model.paths import HostPaths
from actors.vm.agent.wire import PORT, SERIAL
from tests.zeitwork.guest.agent_host import PATIENCE, AgentClient
from zeitwork.guest.kernel import GuestKernel, fetch_kernel, load_guest

LEASE = Lease(v6=IPv6Address("fd7a:77::2"), v4=IPv4Address("172.31.0.2"))
#: What a restored machine gets in place of it; routed to the same TAP.
OTHER = Lease(v6=IPv6Address("fd7a:77::3"), v4=IPv4Address("172.31.0.3"))
CMDLINE = "console=ttyS0 reboot=k panic=1 quiet loglevel=1 random.trust_cpu=on"
TAP = "zwtest0"
NODAD = 0x02
FETCH = """
import sys, time, urllib.error, urllib.request
for attempt in range(300):
    try:
        print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode(), end="")
        break
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ConnectionRefusedError):
            raise
        time.sleep(0.1)
else:
    sys.exit("connection refused")
"""
BOOT = 180.0  # seconds: emulated machines on a busy runner


def cached_kernel() -> GuestKernel:
    """The distribution's guest kernel, fetched once and kept between runs. Skips the test where apt can't bring it."""
    cache = Path(os.environ.get("ZEITWORK_TEST_CACHE", "/var/tmp/zeitwork-test-cache"))
    cache.mkdir(parents=True, exist_ok=True)
    paths = HostPaths(cache, cache)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return load_guest(paths)
        except Unavailable:
            pass
        try:
            return fetch_kernel(paths.guest)
        except Unavailable as error:
            pytest.skip(f"no guest kernel: {error}")


def root_tree(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """A root directory with a static busybox and ``files``; those that start with #! are executable."""
    for name in ("bin", "etc", "tmp", "www"):
        (folder / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "bin/busybox")
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True, timeout=10)
    for applet in applets.stdout.split():
        if applet != "busybox":
            (folder / "bin" / applet).symlink_to("busybox")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(data)
        path.chmod(0o755 if data.startswith(b"#!") else 0o644)
    return folder


def squashfs(tree: Path, target: Path) -> Path:
    """Uncompressed, because a guest kernel that is itself emulated inflates a few MiB in twenty seconds."""
    command = ["mksquashfs", tree, target, "-noappend", "-quiet", "-no-progress"]
    subprocess.run([*command, "-noI", "-noD", "-noF", "-noX"], check=True, timeout=60, stdout=subprocess.DEVNULL)
    return target


def ext4(target: Path, mebibytes: int = 32) -> Path:
    with open(target, "wb") as file:
        file.truncate(mebibytes << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", target], check=True, timeout=60)
    return target


@dataclass(frozen=True)
class Drives:
    root: Path
    upper: Path
    config: Path

    @staticmethod
    def make(folder: Path, root: Path, config: bytes) -> Drives:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config").write_bytes(config)
        return Drives(root, ext4(folder / "upper"), folder / "config")

    def ordered(self) -> list[tuple[Path, bool]]:
        return [(self.root, True), (self.upper, False), (self.config, True)]


class Network:
    """A network namespace with one TAP, set up as a host sets up a placement's."""

    def __init__(self, name: str) -> None:
        self.name = name

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/var/run/netns/{self.name}", *argv]

    def fetch(self, url: str) -> str:
        """The body at ``url``, asked for again while the guest refuses connections."""
        command = self.inside(sys.executable, "-I", "-c", FETCH, url)
        result = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout


@contextlib.contextmanager
def network() -> Iterator[Network]:
    name = f"zwt{secrets.token_hex(5)}"
    with NetNS(name, flags=os.O_CREAT | os.O_EXCL) as netns:
        try:
            netns.link("add", ifname=TAP, kind="tuntap", mode="tap")
            index = netns.link_lookup(ifname=TAP)[0]
            netns.link("set", index=index, address=GATEWAY_MAC, state="up")
            netns.addr("add", index=index, address=str(GATEWAY_V4), prefixlen=32)
            netns.addr("add", index=index, address=str(GATEWAY_V6), prefixlen=64, flags=NODAD)
            for lease in (LEASE, OTHER):
                netns.route("add", dst=f"{lease.v4}/32", oif=index)
                netns.route("add", dst=f"{lease.v6}/128", oif=index)
                for address in (lease.v4, lease.v6):
                    netns.neigh("add", dst=str(address), lladdr=guest_mac(lease), ifindex=index, state=0x80)
            yield Network(name)
        finally:
            netns.remove()


class Machine:
    """A running monitor; its standard output is the guest's console. Killed when the block ends."""

    def __init__(self, argv: list[str], control: Path, channel: Path) -> None:
        self.control = control
        self.channel = channel
        self.output = b""
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        assert self.process.stdout is not None
        self._pipe = self.process.stdout
        os.set_blocking(self._pipe.fileno(), False)

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(60)
        self._pipe.close()

    @contextlib.contextmanager
    def agent(self) -> Iterator[AgentClient]:
        """A connection to the agent in the guest, which has been greeted.

        The first one after a snapshot may end without a word: the guest then learns that its connections are gone.
        """
        with contextlib.ExitStack() as stack:
            for attempt in range(20):
                connection = stack.enter_context(socket.socket(socket.AF_UNIX))
                connection.settimeout(3 + attempt)
                connection.connect(str(self.channel))
                try:
                    self._reach_agent(connection)
                    client = AgentClient(connection)
                    client.hello()
                except (TimeoutError, EOFError, ConnectionError):
                    connection.close()
                    time.sleep(0.1)
                    continue
                connection.settimeout(PATIENCE)
                yield client
                return
            pytest.fail(f"the agent does not answer:\n{self.console[-4000:]}")

    def _reach_agent(self, connection: socket.socket) -> None:
        pass

    @property
    def console(self) -> str:
        """What the guest wrote so far; the kernel's own lines end in CR LF."""
        return self.output.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, pattern: str, seconds: float = BOOT) -> re.Match[str]:
        """Read the console until ``pattern`` (multi-line) is in it."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.console, re.MULTILINE)) is None:
            if not self._read(end):
                pytest.fail(f"no {pattern!r} on the console:\n{self.console[-4000:]}")
        return found

    def wait_exit(self, seconds: float = BOOT) -> int:
        """Read the console to its end and return the monitor's exit status."""
        end = time.monotonic() + seconds
        while self._read(end):
            pass
        if time.monotonic() >= end:
            pytest.fail(f"the machine did not end:\n{self.console[-4000:]}")
        return self.process.wait(60)

    def reports(self) -> list[str]:
        """The init's lines, without the nonce."""
        return re.findall(r"^\[zeitwork \S+\] (.*)$", self.console, re.MULTILINE)

    def _read(self, end: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            if not selector.select(max(0.0, end - time.monotonic())):
                return False
        data = os.read(self._pipe.fileno(), 65536)
        self.output += data
        return bool(data)


class Qemu(Machine):
    def __init__(
        self,
        folder: Path,
        kernel: GuestKernel,
        drives: Drives | None,
        net: Network | None = None,
        memory: int = 192,
        restore: bool = False,
    ) -> None:
        """Boot, or load what `save` wrote to ``folder`` and stay paused."""
        control = folder / "qmp"
        self._state = folder / "state"
        argv = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", str(memory), "-smp", "1"]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]
        argv += ["-qmp", f"unix:{control},server=on,wait=off"]
        argv += ["-kernel", str(kernel.vmlinux), "-initrd", str(kernel.initrd), "-append", CMDLINE]
        for index, (path, read_only) in enumerate(drives.ordered() if drives is not None else []):
            options = f"id=d{index},if=none,format=raw,file={path},readonly={'on' if read_only else 'off'}"
            argv += ["-drive", options, "-device", f"virtio-blk-pci,drive=d{index}"]
        card = f"virtio-net-pci,netdev=n,romfile=,mac={guest_mac(LEASE)}"
        backend = "user,id=n" if net is None else f"tap,id=n,ifname={TAP},script=no,downscript=no"
        if drives is not None:
            argv += ["-netdev", backend, "-device", card]
        channel = folder / "agent"
        argv += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={channel},server=on,wait=off"]
        argv += ["-device", f"virtserialport,chardev=agent,name={SERIAL}"]
        argv += ["-S", "-incoming", f"exec:cat {self._state}"] if restore else []
        super().__init__(argv if net is None else net.inside(*argv), control, channel)

    def save(self) -> None:
        """Pause, and write the machine's state and memory."""
        self.command("stop")
        # The program that writes the file may not be done when the machine is.
        part = self._state.with_suffix(".part")
        self.command("migrate", uri=f"exec:cat > {part} && mv {part} {self._state}")
        self._wait_migrated()
        end = time.monotonic() + PATIENCE
        while not self._state.exists():
            assert time.monotonic() < end, self.console
            time.sleep(0.01)

    def resume(self) -> None:
        self._wait_migrated()
        self.command("cont")

    def _wait_migrated(self) -> None:
        end = time.monotonic() + PATIENCE
        while (status := self.command("query-migrate").get("status")) != "completed":
            assert status != "failed", self.console
            assert time.monotonic() < end
            time.sleep(0.05)

    def command(self, name: str, **arguments: object) -> dict[str, object]:
        answer = {}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            while connection.connect_ex(str(self.control)) != 0:
                assert self.process.poll() is None, self.console
                time.sleep(0.02)
            with connection.makefile("rw") as stream:
                for request in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}):
                    stream.write(json.dumps(request) + "\n")
                    stream.flush()
                    while "return" not in (answer := json.loads(stream.readline())):
                        assert "error" not in answer, answer
        result: dict[str, object] = answer["return"]
        return result

    def power_button(self) -> None:
        self.command("system_powerdown")

    def ctrl_alt_del(self) -> None:
        keys = [{"type": "qcode", "data": key} for key in ("ctrl", "alt", "delete")]
        self.command("send-key", keys=keys)


class Firecracker(Machine):
    def __init__(
        self, folder: Path, binary: str, kernel: GuestKernel, drives: Drives, net: Network, restore: bool = False
    ) -> None:
        """Boot, or load what `save` wrote to ``folder`` and stay paused."""
        control, channel = folder / "api.sock", folder / "vsock"
        configuration = {
            "boot-source": {
                "kernel_image_path": str(kernel.vmlinux),
                "initrd_path": str(kernel.initrd),
                "boot_args": f"{CMDLINE} pci=off",
            },
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
            "drives": [
                {"drive_id": f"d{index}", "path_on_host": str(path), "is_root_device": False, "is_read_only": read_only}
                for index, (path, read_only) in enumerate(drives.ordered())
            ],
            "network-interfaces": [{"iface_id": "eth0", "host_dev_name": TAP, "guest_mac": guest_mac(LEASE)}],
            "vsock": {"guest_cid": 3, "uds_path": str(channel)},
        }
        (folder / "vm.json").write_text(json.dumps(configuration))
        (folder / "log").touch()
        control.unlink(missing_ok=True)
        channel.unlink(missing_ok=True)
        argv = [binary, "--api-sock", str(control), "--log-path", str(folder / "log")]
        argv += [] if restore else ["--config-file", str(folder / "vm.json")]
        super().__init__(net.inside(*argv), control, channel)
        self._state, self._memory = str(folder / "state"), str(folder / "memory")
        if restore:
            backend = {"backend_path": self._memory, "backend_type": "File"}
            self._api("PUT", "/snapshot/load", {"snapshot_path": self._state, "mem_backend": backend})

    def ctrl_alt_del(self) -> None:
        self._api("PUT", "/actions", {"action_type": "SendCtrlAltDel"})

    def save(self) -> None:
        """Pause, and write the machine's state and memory."""
        self._api("PATCH", "/vm", {"state": "Paused"})
        files = {"snapshot_path": self._state, "mem_file_path": self._memory}
        self._api("PUT", "/snapshot/create", {"snapshot_type": "Full", **files})

    def resume(self) -> None:
        self._api("PATCH", "/vm", {"state": "Resumed"})

    def _reach_agent(self, connection: socket.socket) -> None:
        connection.sendall(f"CONNECT {PORT}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            part = connection.recv(1)
            if not part:
                raise EOFError
            answer += part
        assert answer.startswith(b"OK ")

    def _api(self, method: str, path: str, body: object) -> None:
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        with contextlib.closing(connection), socket.socket(socket.AF_UNIX) as endpoint:
            endpoint.settimeout(PATIENCE)
            end = time.monotonic() + PATIENCE
            while endpoint.connect_ex(str(self.control)) != 0:  # it may not listen yet
                assert self.process.poll() is None, self.console
                assert time.monotonic() < end, self.console
                time.sleep(0.01)
            connection.sock = endpoint
            connection.request(method, path, json.dumps(body))
            answer = connection.getresponse()
            assert answer.status == 204, answer.read()
