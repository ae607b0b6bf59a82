"""Machines that can't be started: the reason is clear, and the caller's clean-up leaves nothing. Real monitors."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from actors.model.errors import Failed
from actors.vm import firecracker, jail
from actors.vm.cgroup import Cgroup
from actors.vm.firecracker import Firecracker
from actors.vm.launch import launch
from actors.vm.machine import Drive, MachineSpec, Nic
from actors.vm.microvm import Call
from actors.vm.qemu import Qemu
from actors.vm.work import drop_machine
from tests.actors.vm.taps import ip
from tests.actors.vm.test_restore import MAC, Lab, lab_of

WAYS = ["unjailed", "jailed", "qemu"]


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="zwq-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def lab(request: pytest.FixtureRequest, folder: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        made = lab_of(request.param, folder, stack)
        if request.param == "qemu":  # what it is given to boot is what these tests are about
            made.hypervisor = Qemu(made.hypervisor.binary, made.hypervisor.acceleration)
        yield made


async def refused(lab: Lab, spec: MachineSpec, words: str, hypervisor: Firecracker | Qemu | None = None) -> None:
    """Start a machine that can't be, see why, and that what its caller then does is all there is to do."""
    with pytest.raises(Failed, match=words):
        await launch(hypervisor or lab.hypervisor, spec)
    assert not Cgroup.of(spec.cgroup).members()
    data = spec.console.parent
    drop_machine(spec.run, data, spec.cgroup)
    assert not spec.run.exists()
    assert not (data / jail.JAIL).exists()
    assert not any((root / spec.cgroup).exists() for root in Cgroup.of(spec.cgroup).roots)
    assert str(lab.folder) not in await trio.Path("/proc/self/mountinfo").read_text()


def damaged(folder: Path, content: bytes) -> Path:
    path = folder / "damaged"
    path.write_bytes(content)
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("lab", WAYS, indirect=True)
@pytest.mark.parametrize("content", [b"", b"no kernel" * 1000, b"\x7fELF" + bytes(4096)])
async def test_a_kernel_that_is_none(lab: Lab, content: bytes) -> None:
    spec = replace(lab.spec(network=False), kernel=damaged(lab.folder, content))
    await refused(lab, spec, "(?i)kernel|elf|magic|damaged")


@pytest.mark.parametrize("lab", WAYS, indirect=True)
async def test_files_that_are_missing(lab: Lab) -> None:
    spec = lab.spec(network=False)
    await refused(lab, replace(spec, kernel=Path("/nowhere/kernel")), "/nowhere/kernel|kernel file cannot be opened")
    missing = (Drive("root", Path("/nowhere/root"), True),)
    await refused(lab, replace(spec, kernel=lab.kernel, drives=missing), "No such file")
    if lab.hypervisor.name == "firecracker":
        await refused(lab, replace(spec, initrd=Path("/nowhere/initrd")), "(?i)/nowhere/initrd|initrd.*No such file")


@pytest.mark.parametrize("lab", WAYS, indirect=True)
async def test_a_tap_that_is_another_device_or_missing(lab: Lab) -> None:
    spec = lab.spec(network=False)
    await refused(lab, replace(spec, nic=Nic("zw-not-there", MAC)), "there is no network device zw-not-there")
    name = f"zwq{os.urandom(4).hex()}"
    ip("link", "add", name, "type", "bridge")
    try:
        await refused(lab, replace(spec, nic=Nic(name, MAC)), f"{name} is no TAP but another network device")
    finally:
        ip("link", "delete", name)


@pytest.mark.parametrize("lab", ["unjailed", "jailed"], indirect=True)
async def test_a_tap_that_another_machine_has(lab: Lab) -> None:
    first, second = lab.spec(), lab.spec(network=False)
    assert first.nic is not None
    async with lab.running(first) as process:
        await refused(lab, replace(second, nic=first.nic), "(?i)busy")
        assert process.running
        assert first.nic is not None
    async with lab.running(replace(second, nic=first.nic)):
        pass


@pytest.mark.parametrize("lab", ["qemu"], indirect=True)
async def test_a_tap_that_another_qemu_has(lab: Lab, folder: Path) -> None:
    with ExitStack() as stack:
        holder = lab_of("qemu", folder, stack)
        holder.made = 100
        first, second = holder.spec(), lab.spec(network=False)
        async with holder.running(first) as process:
            await refused(lab, replace(second, nic=first.nic, kernel=first.kernel), "(?i)busy", holder.hypervisor)
            assert process.running


def wrapper(folder: Path, script: str, name: str = "firecracker-wrapper") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("lab", ["unjailed"], indirect=True)
async def test_kvm_that_may_not_be_opened(lab: Lab) -> None:
    """A node of another mode, and no right to overlook that: seen by this monitor only."""
    tools = ("unshare", "setpriv")
    if any(shutil.which(tool) is None for tool in tools):
        pytest.skip("needs unshare and setpriv")
    node = lab.folder / "kvm"
    os.mknod(node, stat.S_IFCHR, (await trio.Path("/dev/kvm").stat()).st_rdev)
    script = (
        f"exec unshare --mount sh -c 'mount --bind {node} /dev/kvm && "
        f'exec setpriv --bounding-set=-dac_override,-dac_read_search {lab.hypervisor.binary} "$@"\' sh "$@"'
    )
    closed = Firecracker(wrapper(lab.folder, script))
    await refused(lab, lab.spec(network=False), r"(?i)KVM.*Permission denied", closed)
    node.unlink()
    node.touch()
    await refused(lab, lab.spec(network=False), r"(?i)KVM", closed)


@pytest.mark.parametrize("lab", ["jailed"], indirect=True)
async def test_a_jail_where_devices_are_forbidden(lab: Lab) -> None:
    """Its user may open the node in the jail, but nobody may there."""
    place = lab.folder / "nodev"
    place.mkdir()
    await trio.run_process(["mount", "-t", "tmpfs", "-o", "nodev", "tmpfs", str(place)])
    try:
        spec = lab.spec(network=False)
        assert spec.jail is not None
        with pytest.raises(Failed, match=r"(?i)kvm.*Permission denied"):
            await launch(lab.hypervisor, replace(spec, jail=replace(spec.jail, base=place / "jail")))
        assert not Cgroup.of(spec.cgroup).members()
        jail.remove(place / "jail")
        assert not list(place.iterdir())
    finally:
        await trio.run_process(["umount", str(place)])


@pytest.mark.parametrize("lab", ["unjailed"], indirect=True)
async def test_a_firecracker_of_another_version(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        '[ "$1" = --version ] && exec echo \'Firecracker v9.9.9-dirty\'; echo "unexpected argument $1" >&2; exit 153'
    )
    other = Firecracker(wrapper(lab.folder, script))
    assert await other.version() == "9.9.9-dirty"
    await refused(lab, lab.spec(network=False), "exited with status 153 at its start: unexpected argument --id", other)
    # One whose API lacks a field says which.
    whole = firecracker.configuration

    def newer(spec: MachineSpec) -> list[Call]:
        calls = whole(spec)
        return [replace(call, body={**call.body, "field_of_2030": 1}) for call in calls]

    monkeypatch.setattr(firecracker, "configuration", newer)
    await refused(lab, lab.spec(network=False), "refused PUT /.*unknown field `field_of_2030`")


@pytest.mark.parametrize("lab", ["jailed"], indirect=True)
async def test_a_jailer_that_fails_says_why(lab: Lab) -> None:
    jailer = wrapper(lab.folder, "echo 'jailer: no such luck' >&2; exit 3", "jailer")
    broken = replace(lab.hypervisor, jailer=jailer)
    await refused(lab, lab.spec(network=False), "exited with status 3 at its start: jailer: no such luck", broken)
    not_a_program = lab.folder / "text"
    not_a_program.write_text("text")
    broken = replace(lab.hypervisor, jailer=not_a_program)
    await refused(lab, lab.spec(network=False), "(?i)exited with status 126 .*Permission denied", broken)
