"""Jails: what is in them, that they work across file systems, and that nothing of them stays. Real jailer."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from actors.model.errors import Failed
from actors.model.network import Lease
from actors.vm import jail as jails
from actors.vm.cgroup import Cgroup
from actors.vm.firecracker import Firecracker
from actors.vm.jail import Jail, vm_uid
from actors.vm.launch import launch
from actors.vm.machine import Drive, JailSpec, MachineSpec, Nic
from actors.vm.process import adopt
from actors.vm.sockets import connect
from tests.actors.vm.waiting import until

UID = jails.UID_BASE + 77


@pytest.fixture
def folder() -> Iterator[Path]:
    """On a disk: /dev/kvm can't be opened where devices are forbidden, as they often are on tmpfs."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes jails")
    path = Path(tempfile.mkdtemp(prefix="zwj-", dir="/var/tmp"))
    yield path
    jails.remove(path / "jail")
    shutil.rmtree(path)


@pytest.fixture
def memory() -> Iterator[Path]:
    """Another file system."""
    path = Path(tempfile.mkdtemp(prefix="zwj-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def spec(folder: Path, memory: Path) -> Iterator[MachineSpec]:
    run = memory / "run"
    run.mkdir()
    (run / "config").write_bytes(b"secret".ljust(512))
    (run / "config").chmod(0o600)
    (memory / "root").write_bytes(bytes(4096))
    (memory / "root").chmod(0o444)
    (folder / "upper").write_bytes(bytes(8192))
    made = MachineSpec(
        id=uuid4(),
        vcpu=1,
        memory=64,
        kernel=Path(os.environ.get("ZEITWORK_TEST_MINIMAL_GUEST", "/nowhere/kernel")),
        initrd=None,
        cmdline="console=ttyS0",
        drives=(
            Drive("root", memory / "root", True),
            Drive("upper", folder / "upper", False),
            Drive("config", run / "config", True),
        ),
        nic=None,
        console=folder / "console.log",
        log=folder / "vmm.log",
        run=run,
        cgroup=f"zeitwork-t{folder.name[-6:]}/machine",
        jail=JailSpec(folder / "jail", UID),
    )
    yield made
    Cgroup.of(made.cgroup).remove()


@pytest.fixture
def jailed() -> Firecracker:
    binary, jailer = (os.environ.get(f"ZEITWORK_TEST_{name}") for name in ("FIRECRACKER", "JAILER"))
    if not binary or not jailer or "ZEITWORK_TEST_MINIMAL_GUEST" not in os.environ:
        pytest.skip("ZEITWORK_TEST_FIRECRACKER, _JAILER or _MINIMAL_GUEST is not set")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm is missing or not writable")
    if not jails.possible():
        pytest.skip("the jailer can't work in a chroot: / is no mount point here")
    return Firecracker(Path(binary), jailer=Path(jailer))


def mounts(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]


def confined(pid: int) -> None:
    """A user of its own, no rights, a system call filter on every thread, and only its jail to see."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        assert re.search(rf"^Uid:\s+{UID}\s+{UID}\s+{UID}\s+{UID}$", status, re.M)
        assert re.search(rf"^Gid:\s+{UID}\s+{UID}\s", status, re.M)
        assert re.search(r"^CapEff:\s+0+$", status, re.M)
        assert re.search(r"^Seccomp:\s+2$", status, re.M)
    root = Path(f"/proc/{pid}/root")
    assert (root / "kernel").exists()
    assert not (root / "etc").exists()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=90)


def owner(tap: str) -> int:
    return int(Path(f"/sys/class/net/{tap}/owner").read_text())


async def test_a_jailed_machine_boots_can_be_adopted_stops_and_leaves_nothing(
    jailed: Firecracker, spec: MachineSpec, folder: Path
) -> None:
    # A jail of the same name was left: its device nodes alone would end the jailer.
    assert spec.jail is not None
    for _ in range(2):
        process, pid_file = await launch(jailed, spec)
        try:
            assert pid_file.booted
            confined(process.pid)
            root = Jail(spec, spec.jail, jailed.binary).root
            assert (root / "dev/kvm").is_char_device()
            # Names in its files begin at its root, where it works.
            assert os.readlink(f"/proc/{process.pid}/cwd") == os.readlink(f"/proc/{process.pid}/root")  # noqa: PTH115
            assert (spec.run / "agent.sock").is_socket()
            assert process.pid in Cgroup.of(spec.cgroup).members()
            adopted = adopt(pid_file.identity, spec.cgroup)
            assert adopted is not None
            adopted.close()
            assert not mounts(folder)  # everything is open by now
            await until(lambda: b"READY" in spec.console.read_bytes())
            assert b"Firecracker" not in spec.console.read_bytes()
            # A control object that knows nothing of jails does: this is what an adopted machine gets.
            await Firecracker(Path("firecracker")).request_shutdown(spec.run, 0)
            with trio.fail_after(120):
                assert await process.wait() == 0
        finally:
            await process.kill()
            process.close()
        spec.console.write_bytes(b"")
    jails.remove(spec.jail.base)
    jails.remove(spec.jail.base)
    assert not spec.jail.base.exists()
    assert (folder / "upper").exists()


async def test_a_monitor_cannot_have_us_talk_with_somebody_else() -> None:
    """It may replace its own sockets, and we may reach what it can't."""
    short = Path(tempfile.mkdtemp(prefix="zwj-"))
    try:
        for name in ("run", "root"):
            (short / name).mkdir()
        (short / "run/api.sock").symlink_to(short / "root/api.sock")
        with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as own:
            other.bind(str(short / "other"))
            other.listen()
            (short / "root/api.sock").symlink_to(short / "other")
            with pytest.raises(Failed, match="can't be reached at .*: Socket operation on non-socket"):
                await connect(short / "run/api.sock", 90, "firecracker")
            (short / "root/api.sock").unlink()
            own.bind(str(short / "root/api.sock"))
            own.listen()
            await (await connect(short / "run/api.sock", 90, "firecracker")).aclose()
    finally:
        shutil.rmtree(short)


async def test_words_of_a_jailed_monitor_arrive(jailed: Firecracker, spec: MachineSpec, folder: Path) -> None:
    bad = folder / "kernel"
    bad.write_bytes(b"no kernel")
    bad.chmod(0o644)
    with pytest.raises(Failed, match="Kernel Loader|Invalid Elf|magic"):
        await launch(jailed, replace(spec, kernel=bad))
    assert not Cgroup.of(spec.cgroup).members()
    assert not mounts(folder)
    with pytest.raises(Failed, match="/nowhere/upper"):
        await launch(jailed, replace(spec, drives=(Drive("upper", Path("/nowhere/upper"), False),)))
    not_a_jailer = Firecracker(jailed.binary, jailer=Path("/nowhere/jailer"))
    with pytest.raises(Failed, match="/nowhere/jailer"):
        await launch(not_a_jailer, spec)


async def test_the_tap_belongs_to_the_machines_user(jailed: Firecracker, spec: MachineSpec) -> None:
    name = f"zwj{secrets.token_hex(4)}"
    ip("tuntap", "add", name, "mode", "tap")
    try:
        process, _ = await launch(jailed, replace(spec, nic=Nic(name, "06:00:ac:1f:00:02")))
        try:
            assert owner(name) == UID
        finally:
            await process.kill()
            process.close()
    finally:
        ip("link", "delete", name)


def test_files_are_shared_given_or_copied(spec: MachineSpec, folder: Path, memory: Path) -> None:
    assert spec.jail is not None
    closed = folder / "kernel"
    closed.write_bytes(b"kernel")
    closed.chmod(0o600)
    spec.log.touch()
    jail = Jail(replace(spec, kernel=closed), spec.jail, Path("/usr/bin/firecracker"))
    jail.build(("api.sock", "agent.sock"), ())
    root = jail.root
    assert (root / "kernel").stat().st_mode & 0o777 == 0o444  # a copy: the mode of somebody's file is not ours
    assert closed.stat().st_mode & 0o777 == 0o600
    assert (root / "upper.drive").samefile(folder / "upper")
    assert (root / "upper.drive").stat().st_uid == UID
    assert (root / "root.drive").samefile(memory / "root")
    assert (memory / "root").stat().st_uid == 0
    assert (root / "config.drive").samefile(spec.run / "config")
    assert (root / "vmm.log").samefile(spec.log)
    assert os.readlink(spec.run / "api.sock") == str(root / "api.sock")  # noqa: PTH115
    assert len(mounts(folder)) == 2  # those on the other file system
    # Left like this by a kill, it goes whole; what was mounted in it stays where it was.
    jails.remove(spec.jail.base)
    assert not spec.jail.base.exists()
    assert not mounts(folder)
    assert (spec.run / "config").exists()


def test_every_address_has_its_user() -> None:
    leases = [Lease(None, IPv4Address(text)) for text in ("10.200.0.2", "10.200.0.3", "10.201.0.2")]
    uids = {vm_uid(jails.UID_BASE, lease) for lease in leases}
    assert len(uids) == 3
    assert all(jails.UID_BASE <= uid < jails.UID_BASE + (1 << 24) < 1 << 31 for uid in uids)


def test_a_chroot_allows_no_jail(tmp_path: Path) -> None:
    info = tmp_path / "mountinfo"
    info.write_text("21 1 254:0 / / rw - ext4 /dev/vda rw\n22 21 0:5 / /proc rw - proc proc rw\n")
    assert jails.possible(info)
    info.write_text("22 21 0:5 / /proc rw - proc proc rw\n23 21 0:6 / /sys rw - sysfs sysfs rw\n")
    assert not jails.possible(info)
