"""One host, one real VM: what a user does in the first hour, on real parts, and what is left afterwards."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from actors.model.ids import short_id
from actors.vm.guest import KEPT
from tests.e2e import process as machine
from tests.e2e.process import HostProcess, answers, fetch, running, until

#: What glibc must not use where AVX registers are not saved.
AVX = ("AVX", "AVX2", "AVX512F", "AVX512VL", "AVX512BW", "AVX_Fast_Unaligned_Load")


class Watcher:
    """Fetches an address over and over, each time on a new connection, and counts what failed."""

    def __init__(self, url: str) -> None:
        self.url, self.good, self.bad = url, 0, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            if answers(self.url, 20):
                self.good += 1
            else:
                self.bad += 1

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(60)


def vm_pid(host: HostProcess, instance: dict[str, Any]) -> int:
    (placement,) = host.get(f"/api/v1/instances/{instance['id']}/placements")["items"][-1:]
    assert isinstance(placement["pid"], int)
    return placement["pid"]


def whole_life(host: HostProcess, *extra: str, patience: float = 60) -> None:
    """Deploy, answer, survive a crash of the host process, stop gracefully, go without a trace.

    ``extra`` are more arguments for ``deploy``; ``patience`` is in seconds, for the app's first answer.
    """
    host.start()
    with cleared(host):
        free = host.get("/api/v1/resources")["available"]
        (node,) = host.get("/api/v1/nodes")["items"]
        assert host.config.tag in machine.nft()
        image = str(host.assets / "hello.tar")
        instance = host.cli("deploy", image, "--memory", "128MiB", "--name", "hello", "--json", *extra)
        assert instance["state"] == "running"
        v6, v4 = f"http://[{instance['ipv6']}]:8080", f"http://{instance['ipv4']}:8080"
        for url in (v6, v4):
            assert "hello" in until(lambda url=url: answers(url) and fetch(url), url, patience).lower()  # type: ignore[misc]

        used = host.get("/api/v1/resources")["available"]
        assert used["vcpu"] == free["vcpu"] - 1
        assert used["memory"] <= free["memory"] - 128

        pid = vm_pid(host, instance)
        with Watcher(v4) as watcher:
            until(lambda: watcher.good > 3, "the watcher")
            host.kill()
            until(lambda seen=watcher.good: watcher.good > seen + 10, "answers without the host process")
            host.start()
            adopted = until(
                lambda: (i := host.get(f"/api/v1/instances/{instance['id']}"))["state"] == "running" and i, "adoption"
            )
            until(lambda seen=watcher.good: watcher.good > seen + 10, "answers after adoption")
        assert watcher.bad == 0
        assert (adopted["ipv6"], adopted["ipv4"]) == (instance["ipv6"], instance["ipv4"])
        assert vm_pid(host, adopted) == pid
        assert host.cli("logs", "hello").stdout

        placement = host.get(f"/api/v1/instances/{instance['id']}/placements")["items"][-1]
        short = short_id(UUID(placement["id"]))
        assert f"zw{short}" in machine.links()

        stopped = host.cli("stop", "hello", "--json")
        assert stopped["state"] == "stopped"
        assert "killed" not in (stopped["reason"] or "")
        assert not Path(f"/proc/{pid}").exists() or pid not in machine.processes_with(short)
        assert f"zw{short}" not in machine.links()
        assert not answers(v4)
        gone = host.cli("rm", "hello", "--json")
        assert gone["state"] == "terminated"
        # What monitors take beyond what is held for them is looked at now and then.
        after = until(lambda: (found := host.get("/api/v1/resources"))["available"] == free and found, "all is free")
        assert [pool["leased"] for pool in after["nodes"][0]["addresses"]] == [0, 0]
        assert host.terminate() == 0
    # Nothing of the VM is left, and nothing of the host but its own data.
    assert machine.processes_with(str(host.data)) == []
    assert machine.processes_with(short) == []
    assert machine.cgroups_of(short) == []
    # The console stays for `zeitwork logs`; disk, intent, configuration and sockets do not.
    left = {file.name for file in host.data.glob(f"placements/{placement['id']}/*")}
    assert "console.log" in left
    assert left <= KEPT
    assert not host.run.exists()
    # Other hosts may be on this machine: theirs is not compared.
    assert f"zw{short}" not in machine.links()
    for name in (f"zw{short}", node["ipv4_pool"], node["ipv6_prefix"]):
        assert name not in machine.routes()
    assert host.config.tag not in machine.nft()


@contextmanager
def cleared(host: HostProcess) -> Iterator[None]:
    """Clean up after a host that the test itself starts, kills and starts again."""
    try:
        yield
    finally:
        if host.process is not None and host.process.poll() is None:
            try:
                for item in host.get("/api/v1/instances")["items"]:
                    host.cli("rm", item["id"], "--yes", "--force", check=False)
            finally:
                host.terminate()


def test_whole_life_on_qemu(assets: Path, data_dir: Path) -> None:
    whole_life(HostProcess(data_dir, assets, ["--hypervisor", "qemu"]))


def test_whole_life_on_firecracker(assets: Path, data_dir: Path) -> None:
    firecracker = os.environ.get("ZEITWORK_TEST_FIRECRACKER")
    if not firecracker:
        pytest.skip("ZEITWORK_TEST_FIRECRACKER names no firecracker binary")
    if not os.access("/dev/kvm", os.W_OK):
        pytest.skip("/dev/kvm is missing or not writable")
    arguments = ["--hypervisor", "firecracker", "--firecracker", firecracker]
    extra: list[str] = []
    if kernel := os.environ.get("ZEITWORK_TEST_KERNEL"):
        arguments += ["--kernel", kernel]
        # That kernel is for KVM that emulates guest kernels. It does not save AVX registers, which a glibc that finds
        # AVX uses, and it takes a minute to inflate a compressed root filesystem.
        extra = ["-e", f"GLIBC_TUNABLES=glibc.cpu.hwcaps={','.join(f'-{name}' for name in AVX)}"]
    whole_life(HostProcess(data_dir, assets, arguments), *extra, patience=240)


def test_stop_vms_takes_them_down_and_the_next_run_brings_them_back(assets: Path, data_dir: Path) -> None:
    host = HostProcess(data_dir, assets, ["--hypervisor", "qemu", "--stop-vms"])
    with running(host):
        instance = host.cli("deploy", str(assets / "hello.tar"), "--memory", "128MiB", "--name", "web", "--json")
        pid = vm_pid(host, instance)
        assert host.terminate() == 0
        assert pid not in machine.processes_with("qemu")
        host.start()
        again = until(
            lambda: (i := host.get(f"/api/v1/instances/{instance['id']}"))["state"] == "running" and i, "its return"
        )
        assert again["ipv4"] == instance["ipv4"]
        until(lambda: answers(f"http://{again['ipv4']}:8080"), "an answer")


def state_of(host: HostProcess, instance: str) -> str:
    """An instance's state, or "" while that can't be read."""
    try:
        return str(host.get(f"/api/v1/instances/{instance}")["state"])
    except OSError:
        return ""


def test_the_embedded_database_may_die_under_a_running_vm(host: HostProcess, assets: Path) -> None:
    instance = host.cli("deploy", str(assets / "hello.tar"), "--memory", "128MiB", "--json")
    url = f"http://{instance['ipv4']}:8080"
    until(lambda: answers(url), "an answer")
    (pid_file,) = host.data.glob("postgres/*/postmaster.pid")
    os.kill(int(pid_file.read_text().split()[0]), 9)
    assert answers(url, 30)
    # Health may be asked for before anybody has noticed: what is read says that the database is back.
    until(lambda: state_of(host, instance["id"]) == "running", "a reading once the database is back")
    until(host.healthy, "health after the database came back")
    assert answers(url, 30)
