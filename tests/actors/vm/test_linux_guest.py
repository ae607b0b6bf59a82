"""Real Linux with our init on both hypervisors: metadata seen from inside, the agent's channel, restored twins."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from actors.model.errors import Failed
from actors.model.network import guest_mac
from actors.model.paths import HostPaths
from actors.vm import jail as jails
from actors.vm.agent.wire import PREAMBLE, VERSION, Decoder, Frame, Kind
from actors.vm.cgroup import Cgroup
from actors.vm.config_drive import GuestConfig, encode
from actors.vm.firecracker import Firecracker
from actors.vm.guest import CMDLINE
from actors.vm.launch import launch
from actors.vm.machine import Acceleration, Drive, Hypervisor, JailSpec, MachineSpec, Nic
from actors.vm.process import VmProcess
from actors.vm.qemu import Qemu
from tests.actors.vm.taps import gateway, mac_of, tap
from tests.actors.vm.waiting import until
from tests.zeitwork.guest.machine import LEASE, cached_kernel, ext4, root_tree, squashfs
from zeitwork.guest.kernel import GuestKernel, load_guest

#: Seconds for a guest whose kernel may be emulated on a busy machine.
SLOW = 240.0
NAMES = ("FIRECRACKER", "JAILER", "KERNEL")
BINARY, JAILER, KERNEL = (os.environ.get(f"ZEITWORK_TEST_{name}", "") for name in NAMES)
MISSING = [tool for tool in ("mksquashfs", "mke2fs", "debugfs") if shutil.which(tool) is None]

pytestmark = [
    pytest.mark.timeout(900),  # each of several waits may take `SLOW`
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for TAPs"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(not Path("/bin/busybox").exists(), reason="busybox-static is not installed"),
]

#: Asks who it is, again and again, and writes the answer to its disk when it is a new one. The service keeps
#: connections, so what would wait for their end is given up.
ASK = r"""#!/bin/sh
say() { printf '%s\r\n' "$@" Host:x '' | timeout 4 nc 169.254.169.254 80; }
first() { until line=$(say "$@" | head -n 1) && [ "$line" ]; do sleep 1; done; echo "$line"; }
token() { say 'PUT /latest/api/token HTTP/1.1' 'X-metadata-token-ttl-seconds: 60' | tail -n 1; }
echo "[old way] $(first 'GET /zeitwork HTTP/1.1')"
echo "[wrong token] $(first 'GET /zeitwork HTTP/1.1' 'X-metadata-token: none')"
while :; do
    me=$(say 'GET /zeitwork HTTP/1.1' 'Accept: application/json' "X-metadata-token: $(token)" | tail -n 1)
    case "$me" in
    "$before") ;;
    {*) before=$me; echo "$me" >/me; sync; echo "[me] $me" ;;
    esac
    sleep 1
done
"""


#: Counts, and writes each number to its disk. Asked to end, it ends between two numbers: each is written and said.
COUNT = """#!/bin/sh
trap over=1 TERM
until [ "$over" ]; do n=$((n + 1)); echo $n >/me; sync; echo "[me] $n"; sleep 1; done
"""


def identity(hostname: str) -> dict[str, str]:
    return {"hostname": hostname, "instance": str(uuid4()), "image": "sha256:" + "0" * 64}


@dataclass
class Bench:
    """Where machines of this module are made, and their common parts."""

    folder: Path
    hypervisor: Hypervisor
    base: MachineSpec
    stack: ExitStack

    @asynccontextmanager
    async def running(self, spec: MachineSpec) -> AsyncIterator[VmProcess]:
        process, _ = await launch(self.hypervisor, spec)
        try:
            yield process
        finally:
            await process.kill()
            process.close()

    async def save(self, spec: MachineSpec) -> None:
        """Run a machine until its app says something, and save it to ``snapshot``, its disk as ``disk``."""
        target = self.folder / "snapshot"
        target.mkdir(mode=0o700)
        async with self.running(spec):
            await until(lambda: said(spec, "me"), SLOW)
            await self.hypervisor.pause(spec.run)
            await self.hypervisor.save(spec.run, target)
            shutil.copy(spec.drives[1].path, self.folder / "disk")

    def restored(self, hostname: str) -> MachineSpec:
        return self.spec(hostname, self.folder / "disk", self.folder / "snapshot")

    async def hello(self, spec: MachineSpec) -> None:
        """Talk with the agent as a host does at first, on one connection: it must be there and stay."""
        with trio.fail_after(SLOW):
            async with await self.hypervisor.agent(spec.run, SLOW) as stream:
                token = os.urandom(16)
                frame = Frame(Kind.HELLO, payload=token + VERSION.to_bytes(2, "little"))
                await stream.send_all((PREAMBLE if self.hypervisor.lasting_channel else b"") + frame.encode())
                decoder = Decoder()
                while True:
                    data = await stream.receive_some(4096)
                    assert data
                    if any(answer.payload[:16] == token for answer in decoder.feed(data)):
                        return

    def spec(self, hostname: str, upper: Path | None = None, restore: Path | None = None) -> MachineSpec:
        folder = self.folder / hostname
        folder.mkdir()
        if upper is not None:
            shutil.copy(upper, folder / "upper")
        else:
            ext4(folder / "upper")
        config = GuestConfig(
            nonce="testnonce",
            instance="0190",
            hostname=hostname,
            mac=guest_mac(LEASE),
            v4=LEASE.v4,
            v6=LEASE.v6,
            argv=("/app",),
            env={"PATH": "/bin"},
            epoch=1_900_000_000.0,
        )
        (folder / "config").write_bytes(encode(config))
        name = self.stack.enter_context(tap())
        self.stack.enter_context(gateway(name))
        spec = replace(
            self.base,
            id=uuid4(),
            drives=(
                *self.base.drives,
                Drive("upper", folder / "upper", False),
                Drive("config", folder / "config", True),
            ),
            nic=Nic(name, guest_mac(LEASE)),
            console=folder / "console.log",
            log=folder / "vmm.log",
            run=folder / "run",
            cgroup=f"zeitwork-t{self.folder.name[-6:]}/{hostname}",
            identity=identity(hostname),
            jail=JailSpec(folder / "jail", jails.UID_BASE + 90) if JAILER and jails.possible() else None,
            restore=restore,
        )
        self.stack.callback(lambda: Cgroup.of(spec.cgroup).remove())
        self.stack.callback(lambda: jails.remove(folder / "jail"))
        return spec


def said(spec: MachineSpec, what: str) -> list[str]:
    """Whole lines of the console that begin with ``[what]``, without that."""
    text = spec.console.read_text(errors="replace").replace("\r\n", "\n")
    return re.findall(rf"^\[{re.escape(what)}\] (.+)\n", text, re.MULTILINE)


def make_bench(stack: ExitStack, hypervisor: Hypervisor, kernel: GuestKernel, script: str) -> Bench:
    folder = Path(tempfile.mkdtemp(prefix="zwl-", dir="/var/tmp"))
    stack.callback(shutil.rmtree, folder)
    root = squashfs(root_tree(folder / "tree", {"app": script}), folder / "root")
    root.chmod(0o444)
    base = MachineSpec(
        id=uuid4(),
        vcpu=1,
        memory=128,
        kernel=kernel.vmlinux,
        initrd=kernel.initrd,
        cmdline=CMDLINE,
        drives=(Drive("root", root, True),),
        nic=None,
        console=folder,
        log=folder,
        run=folder,
        cgroup="",
    )
    return Bench(folder, hypervisor, base, stack)


@pytest.fixture(scope="module")
def fast() -> Iterator[Bench]:
    """Firecracker, in a jail if that is possible."""
    if not (BINARY and KERNEL and os.access("/dev/kvm", os.R_OK | os.W_OK)):
        pytest.skip("needs ZEITWORK_TEST_FIRECRACKER, ZEITWORK_TEST_KERNEL and a writable /dev/kvm")
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kernel = load_guest(HostPaths(data, data), kernel=Path(KERNEL))
        yield make_bench(stack, Firecracker(Path(BINARY), jailer=Path(JAILER) if JAILER else None), kernel, ASK)


@pytest.fixture(scope="module")
def first(fast: Bench) -> MachineSpec:
    """The machine that was saved."""
    spec = fast.spec("first")
    trio.run(fast.save, spec)
    return spec


def test_metadata_is_read_from_inside_with_a_session_token_only(first: MachineSpec) -> None:
    assert json.loads(said(first, "me")[0]) == first.identity
    for refused in ("old way", "wrong token"):
        assert said(first, refused)[0].split()[1] == "401"


async def stop(bench: Bench, spec: MachineSpec, process: VmProcess) -> None:
    await bench.hypervisor.request_shutdown(spec.run, 0)
    with trio.fail_after(SLOW):
        assert await process.wait() == 0
    assert b"halting" in spec.console.read_bytes()


async def kept(spec: MachineSpec) -> str:
    """What the app wrote on its disk."""
    command = ["debugfs", "-R", "cat /root/me", str(spec.drives[1].path)]
    return (await trio.run_process(command, capture_stdout=True, capture_stderr=True)).stdout.decode()


async def test_two_restores_at_once_know_who_they_are_and_keep_to_their_own(fast: Bench, first: MachineSpec) -> None:
    twins = [fast.restored("one"), fast.restored("other")]
    async with fast.running(twins[0]) as one, fast.running(twins[1]) as other:
        for spec in twins:
            # The new answer, in the old guest, over its old card on a new TAP.
            await fast.hello(spec)
            await until(lambda spec=spec: said(spec, "me"), SLOW)  # type: ignore[misc]
            assert json.loads(said(spec, "me")[-1]) == spec.identity
            assert spec.nic is not None
            assert await trio.to_thread.run_sync(mac_of, spec.nic.tap, LEASE.v4) == guest_mac(LEASE)
        for spec, process in zip(twins, (one, other), strict=True):
            await stop(fast, spec, process)
    for spec in (*twins, first):
        assert json.loads(await kept(spec)) == spec.identity


async def test_a_port_that_nobody_listens_on_is_told_from_a_guest_that_is_silent(
    fast: Bench, first: MachineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    del first  # it was saved
    spec = fast.restored("alone")
    async with fast.running(spec):
        await fast.hello(spec)
        monkeypatch.setattr("actors.vm.firecracker.PORT", 21)
        with pytest.raises(Failed, match="nobody listens in the guest"):
            await fast.hypervisor.agent(spec.run, SLOW)
        monkeypatch.undo()
        await fast.hypervisor.pause(spec.run)
        with pytest.raises(Failed, match="did not take a connection to its agent within 1.5 s"):
            await fast.hypervisor.agent(spec.run, 1.5)
        await fast.hypervisor.resume(spec.run)
        await fast.hello(spec)


async def test_twins_on_qemu_go_on_from_where_they_were_saved() -> None:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    with ExitStack() as stack:
        kernel = await trio.to_thread.run_sync(cached_kernel)
        slow = make_bench(stack, Qemu(Path(qemu), Acceleration.TCG), kernel, COUNT)
        origin = slow.spec("origin")
        await slow.save(origin)
        left = int(said(origin, "me")[-1])
        twins = [slow.restored("one"), slow.restored("other")]
        async with slow.running(twins[0]) as one, slow.running(twins[1]) as other:
            for spec in twins:
                await until(lambda spec=spec: said(spec, "me"), SLOW)  # type: ignore[misc]
                # A line that was written when it was paused is in two parts, in two files.
                assert left <= int(said(spec, "me")[0]) <= left + 2
                assert b"booted" not in spec.console.read_bytes()
                assert spec.nic is not None
                assert await trio.to_thread.run_sync(mac_of, spec.nic.tap, LEASE.v4) == guest_mac(LEASE)
                await slow.hello(spec)
            await stop(slow, twins[0], one)
            before = int(said(twins[1], "me")[-1])
            await until(lambda: int(said(twins[1], "me")[-1]) > before, SLOW)
            await stop(slow, twins[1], other)
        for spec in twins:
            assert await kept(spec) == said(spec, "me")[-1] + "\n"
