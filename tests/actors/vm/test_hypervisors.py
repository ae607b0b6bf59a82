"""Both hypervisors as programs and protocols: real Firecracker with the minimal guest, real QEMU."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from actors.model.errors import Failed, Problem, Unavailable
from actors.vm.cgroup import Cgroup
from actors.vm.firecracker import Firecracker
from actors.vm.launch import launch
from actors.vm.machine import Acceleration, Drive, Hypervisor, MachineSpec, Nic
from actors.vm.process import PidFile, VmProcess
from actors.vm.qemu import Qemu
from actors.vm.qmp import Qmp
from tests.actors.vm.waiting import until


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because the names of unix sockets are."""
    path = Path(tempfile.mkdtemp(prefix="zwv-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def spec(folder: Path) -> Iterator[MachineSpec]:
    made = MachineSpec(
        id=uuid4(),
        vcpu=1,
        memory=64,
        kernel=Path(os.environ.get("ZEITWORK_TEST_MINIMAL_GUEST", "/nowhere/kernel")),
        initrd=None,
        cmdline="console=ttyS0",
        drives=(),
        nic=None,
        console=folder / "console.log",
        log=folder / "vmm.log",
        run=folder / "run",
        cgroup=f"zeitwork-t{folder.name[-6:]}/machine",
    )
    yield made
    Cgroup.of(made.cgroup).remove()


@pytest.fixture
def real_firecracker() -> Firecracker:
    binary = os.environ.get("ZEITWORK_TEST_FIRECRACKER")
    if not binary or "ZEITWORK_TEST_MINIMAL_GUEST" not in os.environ:
        pytest.skip("ZEITWORK_TEST_FIRECRACKER or ZEITWORK_TEST_MINIMAL_GUEST is not set")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm is missing or not writable")
    return Firecracker(Path(binary))


@pytest.fixture
def real_qemu() -> Qemu:
    binary = shutil.which("qemu-system-x86_64")
    if binary is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    return Qemu(Path(binary), Acceleration.TCG)


FULL = MachineSpec(
    id=uuid4(),
    vcpu=2,
    memory=256,
    kernel=Path("/boot/vmlinux"),
    initrd=Path("/boot/initrd"),
    cmdline="console=ttyS0 quiet",
    drives=(Drive("root", Path("/r,oot"), True), Drive("upper", Path("/upper"), False)),
    nic=Nic("zwabc", "06:00:ac:1f:00:02"),
    console=Path("/c"),
    log=Path("/l"),
    run=Path("/run/x"),
    cgroup="zeitwork/x",
    identity={"instance": "i"},
)


def test_qemus_command_line() -> None:
    argv = Qemu(Path("/q"), Acceleration.TCG).command(FULL).argv
    text = " ".join(argv)
    for words in (
        "-nodefaults -no-user-config -display none -no-reboot",
        "-M q35 -m 256M -smp 2",
        "-accel tcg,tb-size=32",
        "file,id=console,path=/c,append=on",
        "tap,id=eth0,ifname=zwabc,script=no,downscript=no",
        "virtio-net-pci,netdev=eth0,mac=06:00:ac:1f:00:02",
        "virtio-rng-pci",
    ):
        assert words in text
    drives = [json.loads(argv[index + 1]) for index, word in enumerate(argv) if word == "-blockdev"]
    assert [(drive["file"]["filename"], drive["read-only"]) for drive in drives] == [
        ("/r,oot", True),
        ("/upper", False),
    ]
    assert "kvm" in Qemu(Path("/q"), Acceleration.KVM).command(FULL).argv


def _limited(group: str) -> bool:
    """Whether memory is limited, where this machine has a controller for it."""
    roots = Cgroup.of(group).roots
    files = [root / group / name for root in roots for name in ("memory.limit_in_bytes", "memory.max")]
    values = [file.read_text().strip() for file in files if file.exists()]
    return all(value != "max" and int(value) < 1 << 40 for value in values)


async def end(process: VmProcess) -> None:
    await process.kill()
    process.close()


async def test_firecracker_boots_and_stops_on_request(real_firecracker: Firecracker, spec: MachineSpec) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", await real_firecracker.version())
    process, pid_file = await launch(real_firecracker, spec)
    try:
        assert pid_file.booted
        assert PidFile.read(spec.run) == pid_file
        await until(lambda: b"READY" in spec.console.read_bytes())
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == 2048
        assert _limited(spec.cgroup)
        assert b"Firecracker" not in spec.console.read_bytes()  # its own words go to its log
        await real_firecracker.request_shutdown(spec.run, 0)
        with trio.fail_after(120):
            assert await process.wait() == 0
        assert b"ctrl-alt-del" in spec.console.read_bytes()
        with pytest.raises(Failed):
            await real_firecracker.request_shutdown(spec.run, 1)
    finally:
        await end(process)


@pytest.mark.parametrize("name", ["firecracker", "qemu"])
async def test_a_refusal_comes_in_the_monitors_own_words_and_leaves_no_process(
    name: str, spec: MachineSpec, request: pytest.FixtureRequest
) -> None:
    hypervisor: Hypervisor = request.getfixturevalue(f"real_{name}")
    spec = replace(spec, kernel=Path("/nowhere/vmlinux"))
    with pytest.raises(Failed) as caught:
        await launch(hypervisor, spec)
    assert "/nowhere/vmlinux" in str(caught.value) or "kernel file cannot be opened" in str(caught.value)
    assert not Cgroup.of(spec.cgroup).members()


async def test_firecracker_names_the_device_that_it_does_not_get(
    real_firecracker: Firecracker, spec: MachineSpec
) -> None:
    spec = replace(spec, drives=(Drive("root", Path("/nowhere/root"), True),))
    with pytest.raises(Failed, match="refused PUT /drives/root: .*No such file"):
        await launch(real_firecracker, spec)
    assert not Cgroup.of(spec.cgroup).members()


@pytest.mark.parametrize("name", ["firecracker", "qemu"])
async def test_a_cancelled_launch_leaves_no_process(
    name: str, spec: MachineSpec, request: pytest.FixtureRequest
) -> None:
    hypervisor: Hypervisor = request.getfixturevalue(f"real_{name}")

    class Slow:
        """The same, but its boot is where the cancellation comes."""

        def __getattr__(self, attribute: str) -> Any:
            return getattr(hypervisor, attribute)

        async def boot(self, spec: MachineSpec) -> None:
            reached.set()
            await trio.sleep_forever()

    reached = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(launch, Slow(), spec)
        with trio.fail_after(120):
            await reached.wait()
        pid_file = PidFile.read(spec.run)
        assert pid_file is not None
        assert not pid_file.booted
        nursery.cancel_scope.cancel()
    await until(lambda: not Cgroup.of(spec.cgroup).members())


async def test_qemu_answers_refuses_and_obeys(real_qemu: Qemu, spec: MachineSpec) -> None:
    """A disk that can't be booted from is enough for the protocol: the firmware then waits for ever."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", await real_qemu.version())
    kernel = spec.run.parent / "kernel"
    kernel.write_bytes(_boot_sector())
    spec = replace(spec, kernel=kernel)
    process, _ = await launch(_without_kernel(real_qemu), spec)
    try:
        async with await Qmp.connect(spec.run / "qmp.sock", 90) as qmp:
            status = await qmp.execute("query-status", 90)
            assert status["status"] == "running"
            with pytest.raises(Failed, match="refused no-such-command"):
                await qmp.execute("no-such-command", 90)
        await real_qemu.request_shutdown(spec.run, 0)
        await real_qemu.request_shutdown(spec.run, 1)
        assert process.running
        async with await Qmp.connect(spec.run / "qmp.sock", 90) as qmp:
            await qmp.execute("quit", 90)
        with trio.fail_after(120):
            assert await process.wait() == 0
    finally:
        await end(process)


def _boot_sector() -> bytes:
    return bytes(512)


def _without_kernel(qemu: Qemu) -> Any:
    class WithoutKernel:
        def __getattr__(self, attribute: str) -> Any:
            return getattr(qemu, attribute)

        def command(self, spec: MachineSpec) -> Any:
            command = qemu.command(spec)
            argv = list(command.argv)
            at = argv.index("-kernel")
            del argv[at : at + 4]
            return replace(command, argv=tuple(argv))

    return WithoutKernel()


async def test_qemu_says_what_it_does_not_like(real_qemu: Qemu, spec: MachineSpec) -> None:
    spec = replace(spec, drives=(Drive("root", Path("/nowhere/root"), True),))
    with pytest.raises(Failed, match="/nowhere/root"):
        await launch(real_qemu, spec)


async def test_a_program_that_is_missing_or_something_else_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file") as caught:
        await Firecracker(Path("/nowhere/firecracker")).version()
    assert caught.value.fix == "run zeitwork setup"
    with pytest.raises(Unavailable):
        await Firecracker(Path("/bin/false")).version()


async def test_a_socket_path_that_is_too_long_is_explained(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="too long for a unix socket"):
        await Firecracker(Path("/bin/false")).request_shutdown(tmp_path / ("x" * 120), 0)


async def test_a_firecracker_pauses_and_goes_on_however_often_it_is_told(
    real_firecracker: Firecracker, spec: MachineSpec
) -> None:
    spec = replace(spec, cmdline="console=ttyS0 tick")
    process, _ = await launch(real_firecracker, spec)
    try:
        assert not await real_firecracker.paused(spec.run)
        await real_firecracker.resume(spec.run)  # it runs already
        await until(lambda: b"tick" in spec.console.read_bytes())
        for _ in range(2):
            await real_firecracker.pause(spec.run)
            assert await real_firecracker.paused(spec.run)
        before = spec.console.read_bytes()
        await trio.sleep(1.2)
        assert spec.console.read_bytes() == before
        for _ in range(2):
            await real_firecracker.resume(spec.run)
            assert not await real_firecracker.paused(spec.run)
        await until(lambda: spec.console.read_bytes() != before)
    finally:
        await end(process)
    for call in (real_firecracker.pause, real_firecracker.resume, real_firecracker.paused):
        with pytest.raises(Failed, match="firecracker does not listen"):
            await call(spec.run)


async def test_a_qemu_pauses_and_goes_on_however_often_it_is_told(real_qemu: Qemu, spec: MachineSpec) -> None:
    spec.run.parent.joinpath("kernel").write_bytes(_boot_sector())
    process, _ = await launch(_without_kernel(real_qemu), replace(spec, kernel=spec.run.parent / "kernel"))
    try:
        assert not await real_qemu.paused(spec.run)
        await real_qemu.resume(spec.run)
        for _ in range(2):
            await real_qemu.pause(spec.run)
            assert await real_qemu.paused(spec.run)
        for _ in range(2):
            await real_qemu.resume(spec.run)
            assert not await real_qemu.paused(spec.run)
    finally:
        await end(process)
    with pytest.raises(Failed, match="qemu does not listen"):
        await real_qemu.pause(spec.run)


async def test_a_guest_without_an_agent_takes_no_connection_and_this_is_said(
    real_firecracker: Firecracker, spec: MachineSpec
) -> None:
    with pytest.raises(Failed, match=r"firecracker does not listen on .*agent\.sock"):
        await real_firecracker.agent(spec.run, 0.1)
    process, _ = await launch(real_firecracker, spec)
    try:
        with pytest.raises(Failed, match="did not take a connection to its agent within 1.5 s"):
            await real_firecracker.agent(spec.run, 1.5)
        assert process.running
    finally:
        await end(process)
    assert not real_firecracker.lasting_channel


@pytest.mark.parametrize("name", ["firecracker", "qemu"])
async def test_a_run_directory_too_deep_for_sockets_is_refused_before_there_is_a_process(
    name: str, spec: MachineSpec, request: pytest.FixtureRequest
) -> None:
    hypervisor: Hypervisor = request.getfixturevalue(f"real_{name}")
    # The longest of the names is one too many, shorter ones would do.
    deep = spec.run / ("x" * (107 - len(str(spec.run)) - len("/agent.sock")))
    with pytest.raises(Failed, match=r"agent.sock is too long for a unix socket") as caught:
        await launch(hypervisor, replace(spec, run=deep))
    assert caught.value.field == "run_dir"
    assert PidFile.read(deep) is None
    assert not Cgroup.of(spec.cgroup).members()
