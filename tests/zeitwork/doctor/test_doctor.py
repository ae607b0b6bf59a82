"""Doctor on pretend machines: each trouble is named with its mend, and a check that breaks or hangs is one too."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.zeitwork.setup.world import World
from zeitwork.cli import main
from zeitwork.config import Config
from zeitwork.doctor import machine, network, storage, virtual
from zeitwork.doctor.check import Check, Patient, ok
from zeitwork.doctor.run import LOOKS, run_doctor
from zeitwork.setup import firecracker as pinned
from zeitwork.setup.manifest import Entry, Manifest
from zeitwork.setup.tools import Ran, SystemTools


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def patient(world: World, **config) -> Patient:
    settings = Config(data_dir=world.options().paths.data, run_dir=world.options().paths.run, **config)
    return Patient(settings, world.options(), world)


def only(checks: list[Check]) -> Check:
    (check,) = checks
    return check


def test_every_check_runs_on_this_machine_and_changes_nothing(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path / "data", run_dir=tmp_path / "run", http="127.0.0.1:0")
    checks = run_doctor(config, deadline=90)
    names = {check.name for check in checks}
    assert {"user", "python", "mke2fs", "kvm", "guest kernel", "data directory", "tap devices", "port"} <= names
    assert not [check for check in checks if "could not be checked" in check.detail]
    assert all(check.fix for check in checks if check.status == "fail")
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_breaks_is_told(world: World) -> None:
    def broken(_patient: Patient) -> list[Check]:
        raise PermissionError(13, "Permission denied", "/proc/secret")

    def sound(_patient: Patient) -> list[Check]:
        return ok("sound", "yes")

    first, second = run_doctor(options=world.options(), tools=world, looks=(broken, sound))
    assert (first.name, first.status) == ("broken", "fail")
    assert "/proc/secret" in first.detail
    assert second == Check("sound", "ok", "yes")


def test_a_check_that_hangs_holds_up_nobody(world: World) -> None:
    release = threading.Event()

    def hangs(_patient: Patient) -> list[Check]:
        release.wait(60)
        return []

    try:
        (check,) = run_doctor(options=world.options(), tools=world, looks=(hangs,), deadline=0.05)
        assert check.status == "fail"
        assert "could not be checked within" in check.detail
    finally:
        release.set()


def test_missing_programs_and_those_that_do_not_run(world: World) -> None:
    checks = {check.name: check for check in machine.programs(patient(world))}
    assert checks["nft"].status == "fail"
    assert "nftables" in (checks["nft"].fix or "")

    class Broken(SystemTools):
        def which(self, command):
            return Path("/usr/sbin") / command

        def run(self, argv, *, timeout, cwd=None, line=None):
            return Ran(127, "nft: error while loading shared libraries: libnftables.so.1")

    check = machine.programs(replace(patient(world), tools=Broken()))[0]
    assert check.status == "fail"
    assert "shared libraries" in check.detail


def test_accounts(world: World) -> None:
    assert [check.status for check in machine.accounts(patient(world))] == ["fail", "fail"]
    world.run(["groupadd", "--system", "zeitwork"], timeout=1)
    world.run(["useradd", "--system", "zeitwork-postgres"], timeout=1)
    assert [check.status for check in machine.accounts(patient(world))] == ["ok", "ok"]


def test_a_setup_that_was_cut_short(world: World) -> None:
    assert only(machine.setup_state(patient(world))).status == "ok"
    world.options().home.mkdir(parents=True)
    Manifest(world.options().manifest).intend(Entry("group", "zeitwork"))
    check = only(machine.setup_state(patient(world)))
    assert (check.status, check.fix) == ("warn", "zeitwork setup")


def test_kvm(world: World) -> None:
    (world.root / "proc/cpuinfo").write_text("flags\t: fpu vmx\n")
    check = only(virtual.kvm(patient(world)))
    assert check.status == "warn"
    assert "modprobe" in (check.fix or "")
    world.layout.kvm.touch()
    assert only(virtual.kvm(patient(world))).status == "ok"
    (world.root / "proc/cpuinfo").write_text("flags\t: fpu\n")
    assert "emulates guest kernels" in only(virtual.kvm(patient(world))).detail


def test_firecracker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(virtual.firecracker(patient(world))).status == "ok"  # not needed without KVM
    world.layout.kvm.touch()
    assert only(virtual.firecracker(patient(world))).status == "warn"
    target = world.options().firecracker
    target.parent.mkdir(parents=True)
    target.write_text("hostile")
    target.chmod(0o755)
    assert only(virtual.firecracker(patient(world))).status == "fail"
    monkeypatch.setattr(pinned, "MEMBER_SHA256", pinned.sha256(target))
    assert only(virtual.firecracker(patient(world))).status == "ok"


def test_the_jailer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(virtual.jailer(patient(world))).status == "ok"  # not needed without KVM
    world.layout.kvm.touch()
    assert only(virtual.jailer(patient(world))).status == "warn"
    target = world.options().jailer
    target.parent.mkdir(parents=True)
    target.write_text("hostile")
    target.chmod(0o755)
    assert only(virtual.jailer(patient(world))).status == "fail"
    monkeypatch.setattr(pinned, "JAILER_SHA256", pinned.sha256(target))
    assert only(virtual.jailer(patient(world))).status in ("ok", "warn")  # tests may be on a nodev file system


def test_the_guest(world: World) -> None:
    checks = {check.name: check for check in virtual.guest(patient(world))}
    assert checks["guest kernel"].status == "fail"
    assert checks["hello app"].status == "warn"
    folder = world.options().paths.guest / "linux-image-6.1.0-1-cloud-amd64_6.1"
    folder.mkdir(parents=True)
    (folder / "vmlinux").touch()
    manifest = {
        "package": "linux-image-6.1.0-1-cloud-amd64",
        "version": "6.1.1-1",
        "sha256": "0",
        "kernel": f"{folder.name}/vmlinux",
        "kernel_sha256": "0",
        "modules": f"{folder.name}/modules",
    }
    (world.options().paths.guest / "manifest.json").write_text(json.dumps(manifest))
    assert virtual.guest(patient(world))[0].status == "fail"  # its modules are missing
    (folder / "modules").mkdir()
    assert virtual.guest(patient(world))[0] == Check("guest kernel", "ok", "6.1.0-1-cloud-amd64 (6.1.1-1)")
    given = replace(patient(world), options=replace(world.options(), kernel=Path("/nowhere/vmlinux")))
    assert "/nowhere/vmlinux can't be read" in virtual.guest(given)[0].detail


def test_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = type("Usage", (), {"total": 10 << 30, "free": 100 << 20})
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _path: sizes)
    check = only(storage.data(patient(world)))
    assert check.status == "fail"
    assert "100 of 10240 MiB free" in check.detail


def test_a_data_directory_that_is_no_directory(world: World) -> None:
    world.options().paths.data.write_text("")
    assert only(storage.data(patient(world))).status == "fail"


def test_who_holds_the_data_is_the_kernels_word(world: World) -> None:
    data = world.options().paths.data
    data.mkdir(parents=True)
    (data / "lock").write_text("1\n")  # a number in a file proves nothing
    assert "not running" in only(storage.process(patient(world))).detail
    with (data / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        check = only(storage.process(patient(world)))
    assert f"running (PID {os.getpid()})" in check.detail
    assert "without its socket" in check.detail


def test_a_database_that_does_not_answer(world: World, tmp_path: Path) -> None:
    check = only(storage.database(patient(world, database_url=f"host={tmp_path} user=x dbname=x")))
    assert check.status == "fail"
    assert str(tmp_path) in check.detail


def test_no_tap_devices(world: World) -> None:
    assert only(network.tun(patient(world))).status == "ok"
    world.layout.tun.unlink()
    assert only(network.tun(patient(world))).status == "fail"


def test_forwarding(world: World) -> None:
    check = only(network.forward(patient(world)))
    assert check.status == "warn"
    assert "net.ipv4.ip_forward" in check.detail
    for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        world.layout.sysctl(key).write_text("1\n")
    assert "after the next boot" in only(network.forward(patient(world))).detail
    world.layout.sysctl_file.write_text("net/ipv4/ip_forward = 1\n")
    assert only(network.forward(patient(world))).status == "ok"


def test_ipv6_switched_off(world: World) -> None:
    assert only(network.ipv6(patient(world))).status == "ok"
    world.layout.sysctl("net/ipv6/conf/all/disable_ipv6").write_text("1\n")
    check = only(network.ipv6(patient(world)))
    assert check.status == "warn"
    assert check.fix == "sysctl -w net.ipv6.conf.all.disable_ipv6=0"


def test_a_taken_port_names_its_owner(world: World) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        check = only(network.port(patient(world, http=f"127.0.0.1:{port}")))
        assert check.status == "fail"
        assert f"PID {os.getpid()}" in check.detail
        # The host's own port is no trouble.
        data = world.options().paths.data
        data.mkdir(parents=True)
        with (data / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert only(network.port(patient(world, http=f"127.0.0.1:{port}"))).status == "ok"
    assert only(network.port(patient(world, http=f"127.0.0.1:{port}"))).status == "ok"


def test_the_command_fails_when_a_check_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeitwork.doctor.run.DEADLINE", 90.0)
    blocked = tmp_path / "file"
    blocked.write_text("")
    arguments = ["doctor", "--data-dir", str(blocked / "data"), "--http", "127.0.0.1:0"]
    assert main([*arguments, "--json"]) == 1
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["data directory"]["status"] == "fail"
    assert main(arguments) == 1
    assert "What mends it" in capsys.readouterr().out


def test_no_check_needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("runs as root, to drop to another user")
    code = (
        "import os\n"
        "from zeitwork.doctor.run import run_doctor\n"
        "os.setgid(65534)\n"
        "os.setuid(65534)\n"
        "for check in run_doctor(deadline=90): print(check.name, '|', check.detail)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert len(done.stdout.splitlines()) >= len(LOOKS) - 2
    assert "could not be checked" not in done.stdout
