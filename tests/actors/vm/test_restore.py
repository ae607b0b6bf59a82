"""Saved and restored machines: real Firecracker, jailed or not, with the minimal guest, and real QEMU."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from actors.model.errors import Failed
from actors.vm import jail as jails
from actors.vm.cgroup import Cgroup
from actors.vm.files import stored
from actors.vm.firecracker import Firecracker
from actors.vm.launch import launch
from actors.vm.machine import Acceleration, Drive, JailSpec, MachineSpec, Nic
from actors.vm.process import PidFile, VmProcess
from actors.vm.qemu import Qemu
from actors.vm.saved import MEMORY, STATE
from tests.actors.vm.taps import mac_of, tap
from tests.actors.vm.waiting import until

ADDRESS, MAC = IPv4Address("172.31.0.2"), "06:00:ac:1f:00:02"
UID = jails.UID_BASE + 80


@dataclass
class Lab:
    """Machines of one test, each in a directory of its own; all are ended and gone afterwards."""

    folder: Path
    hypervisor: Any
    jailed: bool
    stack: ExitStack
    kernel: Path
    made: int = 0

    def spec(self, *, restore: Path | None = None, memory: int = 64, network: bool = True) -> MachineSpec:
        self.made += 1
        base = self.folder / str(self.made)
        base.mkdir()
        (base / "upper").write_bytes(bytes(8192))
        name = self.stack.enter_context(tap()) if network else None
        made = MachineSpec(
            id=uuid4(),
            vcpu=1,
            memory=memory,
            kernel=self.kernel,
            initrd=None,
            cmdline=f"console=ttyS0 ip={ADDRESS} tick",
            drives=(Drive("upper", base / "upper", False),),
            nic=None if name is None else Nic(name, MAC),
            console=base / "console.log",
            log=base / "vmm.log",
            run=base / "run",
            cgroup=f"zeitwork-t{self.folder.name[-6:]}/{self.made}",
            jail=JailSpec(base / "jail", UID + self.made) if self.jailed else None,
            restore=restore,
            agent=False,
        )
        self.stack.callback(lambda: Cgroup.of(made.cgroup).remove())
        if self.jailed:
            self.stack.callback(lambda: jails.remove(base / "jail"))
        return made

    def target(self, name: str = "snapshot") -> Path:
        path = self.folder / name
        path.mkdir(mode=0o700)
        return path

    @asynccontextmanager
    async def running(self, spec: MachineSpec) -> AsyncIterator[VmProcess]:
        process, _ = await launch(self.hypervisor, spec)
        try:
            yield process
        finally:
            await process.kill()
            process.close()

    async def snapshot(self, spec: MachineSpec) -> Path:
        """Of a machine that has come up and is over afterwards."""
        async with self.running(spec):
            await self.up(spec)
            await self.hypervisor.pause(spec.run)
            target = self.target()
            await self.hypervisor.save(spec.run, target)
        return target

    async def up(self, spec: MachineSpec) -> None:
        if self.hypervisor.name == "firecracker":
            await until(lambda: b"READY" in spec.console.read_bytes())
        else:
            await trio.sleep(0.5)  # the firmware says nothing

    def root(self, spec: MachineSpec) -> Path:
        return (spec.run / "api.sock").readlink().parent


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="zws-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def memory() -> Iterator[Path]:
    """Another file system."""
    path = Path(tempfile.mkdtemp(prefix="zws-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


def lab_of(name: str, folder: Path, stack: ExitStack) -> Lab:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes TAPs, jails and cgroups")
    if name == "qemu":
        qemu = shutil.which("qemu-system-x86_64")
        if qemu is None:
            pytest.skip("qemu-system-x86_64 is not installed")
        return Lab(folder, _without_kernel(Qemu(Path(qemu), Acceleration.TCG)), False, stack, Path("/none"))
    binary, jailer, guest = (
        os.environ.get(f"ZEITWORK_TEST_{name}") for name in ("FIRECRACKER", "JAILER", "MINIMAL_GUEST")
    )
    if not binary or not guest or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("needs ZEITWORK_TEST_FIRECRACKER, ZEITWORK_TEST_MINIMAL_GUEST and a writable /dev/kvm")
    jailed = name == "jailed"
    if jailed and (not jailer or not jails.possible()):
        pytest.skip("needs ZEITWORK_TEST_JAILER, and / to be a mount point")
    return Lab(
        folder, Firecracker(Path(binary), jailer=Path(jailer or "") if jailed else None), jailed, stack, Path(guest)
    )


def _without_kernel(qemu: Qemu) -> Any:
    """Firmware that finds nothing to boot is guest enough: it has memory, devices and a state."""

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


@pytest.fixture(params=["unjailed", "jailed", "qemu"])
def lab(request: pytest.FixtureRequest, folder: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield lab_of(request.param, folder, stack)


@pytest.fixture(params=["unjailed", "jailed"])
def firecracker(request: pytest.FixtureRequest, folder: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield lab_of(request.param, folder, stack)


@pytest.fixture
def qemu(folder: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield lab_of("qemu", folder, stack)


def opened(process: VmProcess, path: Path) -> bool:
    """Whether a monitor has a file open. What else it has open may be closed meanwhile."""

    def same(file: Path) -> bool:
        try:
            return file.samefile(path)
        except OSError:
            return False

    return any(same(file) for file in Path(f"/proc/{process.pid}/fd").iterdir())


def ticks(spec: MachineSpec) -> list[int]:
    """Return the numbers of whole lines: the last one may have been read, or saved, in the middle of its digits."""
    return [int(number) for number in re.findall(r"\btick (\d+)\r?\n", spec.console.read_text(errors="replace"))]


async def test_two_restores_of_one_snapshot_run_at_once_beside_what_they_come_from(lab: Lab) -> None:
    first = lab.spec()
    async with lab.running(first) as process:
        await lab.up(first)
        if lab.hypervisor.name == "firecracker":
            await until(lambda: bool(ticks(first)))
        await lab.hypervisor.pause(first.run)
        target = lab.target()
        await lab.hypervisor.save(first.run, target)
        assert await lab.hypervisor.paused(first.run)
        if lab.jailed:
            assert not [path for path in lab.root(first).iterdir() if path.name.startswith("saved.")]
        files = {path.name: path.stat() for path in target.iterdir()}
        assert files.keys() == ({STATE} if lab.hypervisor.name == "qemu" else {STATE, MEMORY})
        assert {(stat.st_mode & 0o777, stat.st_uid, stat.st_nlink) for stat in files.values()} == {(0o444, 0, 1)}
        before = {name: (target / name).read_bytes() for name in files}
        left = ticks(first)
        await lab.hypervisor.resume(first.run)
        twins = [lab.spec(restore=target), lab.spec(restore=target)]
        async with lab.running(twins[0]) as one, lab.running(twins[1]) as other:
            for spec, monitor in ((first, process), (twins[0], one), (twins[1], other)):
                assert not await lab.hypervisor.paused(spec.run)
                assert opened(monitor, spec.drives[0].path)
                assert PidFile.read(spec.run) is not None
                if lab.hypervisor.name == "firecracker":
                    # Each has its own cable, and goes on from where all of them were.
                    assert spec.nic is not None
                    assert await trio.to_thread.run_sync(mac_of, spec.nic.tap, ADDRESS) == MAC
                    await until(lambda spec=spec: max(ticks(spec), default=0) > max(left))
                    assert min(ticks(spec)) >= (1 if spec is first else max(left) + 1)
            if lab.jailed:
                # What was needed to start is not kept: a snapshot can be removed while machines live on it.
                assert not (lab.root(twins[0]) / jails.RESTORE).exists()
            # One of them can be paused, and saved in its turn, without the others.
            await lab.hypervisor.pause(twins[0].run)
            await lab.hypervisor.save(twins[0].run, lab.target("second"))
            await lab.hypervisor.resume(twins[0].run)
            assert not await lab.hypervisor.paused(twins[1].run)
            assert {name: (target / name).read_bytes() for name in files} == before
        third = lab.spec(restore=lab.folder / "second")
        async with lab.running(third):
            assert not await lab.hypervisor.paused(third.run)


async def test_only_a_paused_guest_is_saved_and_a_refusal_leaves_it_running(lab: Lab) -> None:
    spec = lab.spec()
    async with lab.running(spec):
        await lab.up(spec)
        with pytest.raises(Failed, match=r"only a paused guest can be saved|save/restore unavailable while running"):
            await lab.hypervisor.save(spec.run, lab.target())
        assert not await lab.hypervisor.paused(spec.run)
        await lab.hypervisor.pause(spec.run)
        with pytest.raises(Failed, match="can't be written in .*/none: No such file"):
            await lab.hypervisor.save(spec.run, lab.folder / "none")
        with pytest.raises(Failed, match="can't be written in .*/snapshot: File exists"):
            await lab.hypervisor.save(spec.run, lab.folder / "snapshot")
        await lab.hypervisor.save(spec.run, lab.target("good"))
        await lab.hypervisor.resume(spec.run)
        assert not await lab.hypervisor.paused(spec.run)
    with pytest.raises(Failed, match="does not listen"):
        await lab.hypervisor.save(spec.run, lab.target("over"))


async def test_a_machine_goes_on_after_a_cancelled_save(lab: Lab) -> None:
    spec = lab.spec(memory=256, network=False)
    async with lab.running(spec) as process:
        await lab.up(spec)
        await lab.hypervisor.pause(spec.run)
        target = lab.target()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lab.hypervisor.save, spec.run, target)
            await until(lambda: sum(path.stat().st_size for path in target.iterdir()))
            nursery.cancel_scope.cancel()
        shutil.rmtree(target)
        if lab.jailed:
            assert not [path for path in lab.root(spec).iterdir() if path.name.startswith("saved.")]
        await lab.hypervisor.resume(spec.run)
        assert not await lab.hypervisor.paused(spec.run)
        await lab.hypervisor.pause(spec.run)
        await lab.hypervisor.save(spec.run, lab.target())
        assert process.running
    again = lab.spec(memory=256, restore=target, network=False)
    async with lab.running(again):
        assert not await lab.hypervisor.paused(again.run)


async def test_a_jail_on_another_file_system_than_the_snapshot(firecracker: Lab, memory: Path) -> None:
    lab, target = firecracker, memory / "snapshot"
    target.mkdir()
    spec = lab.spec(network=False)
    async with lab.running(spec):
        await until(lambda: bool(ticks(spec)))
        await lab.hypervisor.pause(spec.run)
        await lab.hypervisor.save(spec.run, target)
        if lab.jailed:
            assert not [path for path in lab.root(spec).iterdir() if path.name.startswith("saved.")]
    assert (target / MEMORY).stat().st_size == 64 << 20
    assert stored(target / MEMORY) < 16 << 20
    left = max(ticks(spec))
    twin = lab.spec(restore=target, network=False)
    async with lab.running(twin):
        # Not always the next one: what was written when the guest was paused is in two parts, in two files.
        await until(lambda: bool(ticks(twin)))
        assert min(ticks(twin)) > left
    assert str(lab.folder) not in await trio.Path("/proc/self/mountinfo").read_text()


Damage = Callable[[Path], object]


def cut(name: str) -> Damage:
    return lambda directory: rewrite(directory / name, lambda data: data[: len(data) // 2])


def garbled(name: str) -> Damage:
    return lambda directory: rewrite(directory / name, lambda data: data[:100] + b"?" * 100 + data[200:])


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(change(data))
    path.chmod(0o444)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda directory: (directory / MEMORY).unlink(), r"not whole: .*vm\.memory is missing"),
        (lambda directory: (directory / STATE).unlink(), r"not whole: .*vm\.state is missing"),
        (cut(MEMORY), "Failed to load guest memory: .*file length"),
        (cut(STATE), "CRC64 validation failed"),
        (garbled(STATE), "CRC64 validation failed"),
        (lambda directory: rewrite(directory / STATE, lambda _: b""), "Snapshot file is smaller than"),
    ],
)
async def test_a_damaged_snapshot_is_refused_in_firecrackers_words(
    firecracker: Lab, damage: Damage, words: str
) -> None:
    lab = firecracker
    target = await lab.snapshot(lab.spec(network=False))
    damage(target)
    spec = lab.spec(restore=target, network=False)
    with pytest.raises(Failed) as caught:
        await launch(lab.hypervisor, spec)
    # Firecracker ends while one of its threads says why, which on a busy machine does not always come to that.
    silent = "Received Error" not in caught.value.detail and "Loading snapshot failed" in caught.value.detail
    assert silent or re.search(words, caught.value.detail), caught.value.detail
    assert not Cgroup.of(spec.cgroup).members()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda directory: (directory / STATE).unlink(), r"not whole: .*vm\.state is missing"),
        (cut(STATE), "load of migration failed"),
        (lambda directory: rewrite(directory / STATE, lambda _: b""), "Not a migration stream"),
        (lambda directory: rewrite(directory / STATE, lambda data: b"?" * len(data)), "Not a migration stream"),
    ],
)
async def test_a_damaged_snapshot_is_refused_in_qemus_words(qemu: Lab, damage: Damage, words: str) -> None:
    target = await qemu.snapshot(qemu.spec(network=False))
    damage(target)
    spec = qemu.spec(restore=target, network=False)
    with pytest.raises(Failed, match=words):
        await launch(qemu.hypervisor, spec)
    assert not Cgroup.of(spec.cgroup).members()


async def test_a_snapshot_of_another_machine_is_refused(qemu: Lab) -> None:
    target = await qemu.snapshot(qemu.spec(network=False))
    with pytest.raises(Failed, match=r"(?s)load of migration failed"):
        await launch(qemu.hypervisor, qemu.spec(restore=target, network=False, memory=128))


async def test_a_restore_that_failed_can_be_tried_again(firecracker: Lab) -> None:
    lab = firecracker
    target = await lab.snapshot(lab.spec())
    spec = lab.spec(restore=target)
    with pytest.raises(Failed, match="there is no network device zw-not-there"):
        await launch(lab.hypervisor, replace(spec, nic=Nic("zw-not-there", MAC)))
    assert not Cgroup.of(spec.cgroup).members()
    async with lab.running(spec):
        assert not await lab.hypervisor.paused(spec.run)
