"""What a user does with a guest that runs: commands and shells, a pause, snapshots, and copies that go on from them."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import ROOT, HostProcess, answers, fetch, running, until
from zeitwork.guest import initramfs


def instance(host: HostProcess, name: str) -> Any:
    return next(item for item in host.cli("ps", "--json") if item["name"] == name)


def url(host: HostProcess, name: str) -> str:
    found = instance(host, name)
    return f"http://{found['ipv4']}:{found['default_port']}/"


def says_hello(host: HostProcess, name: str) -> bool:
    """Wait for the app to answer: one that has just started may not listen yet."""
    until(lambda: answers(url(host, name)), f"answer of {name}")
    return "hello" in fetch(url(host, name), 60).lower()


def shell(host: HostProcess, name: str, lines: list[str], seconds: float = 90) -> str:
    """Type lines into ``zeitwork exec -t``, each once the one before was answered, and return all that was seen."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "zeitwork", "exec", "-it", name]
    with subprocess.Popen(
        command, cwd=ROOT, env=host.environment(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            seen = b""
            end = time.monotonic() + seconds
            for line in lines:
                before = len(seen)
                os.write(ours, line.encode() + b"\n")
                while b"answer=" not in seen[before + len(line) :] and line != "exit 3":
                    assert time.monotonic() < end, seen.decode(errors="replace")
                    if select.select([ours], [], [], 1)[0]:
                        seen += os.read(ours, 65536)
            assert process.wait(90) == 3
        finally:
            process.kill()  # else its end would be waited for
            os.close(ours)
    return seen.decode(errors="replace")


@pytest.fixture(params=["qemu", "firecracker"])
def any_host(request: pytest.FixtureRequest, assets: Path, data_dir: Path) -> Any:
    arguments = ["--hypervisor", request.param]
    if request.param == "firecracker":
        binary, kernel = os.environ.get("ZEITWORK_TEST_FIRECRACKER"), os.environ.get("ZEITWORK_TEST_KERNEL")
        if not binary or not os.access("/dev/kvm", os.W_OK):
            pytest.skip("ZEITWORK_TEST_FIRECRACKER is not set, or /dev/kvm is not writable")
        arguments += ["--firecracker", binary]
        if kernel:
            data_dir.mkdir(parents=True)
            (data_dir / "test-initrd").write_bytes(initramfs.build(None))
            arguments += ["--kernel", kernel, "--initrd", str(data_dir / "test-initrd")]
    with running(HostProcess(data_dir, assets, arguments)) as host:
        yield host


def test_commands_a_shell_a_pause_and_copies(any_host: HostProcess, assets: Path) -> None:
    host = any_host
    host.cli("deploy", str(assets / "hello.tar"), "--name", "web", "--memory", "128MiB")
    assert says_hello(host, "web")

    # Commands, their output, status and user; what can't be run is explained.
    done = host.cli("exec", "--json", "web", "--", "/bin/sh", "-c", "echo out; echo err >&2; id -u", check=False)
    answer = json.loads(done.stdout)
    assert (answer["exit_status"], answer["stderr"]) == (0, "err\n")
    assert answer["stdout"].splitlines()[0] == "out"
    assert host.cli("exec", "web", "--", "/bin/sh", "-c", "exit 7", check=False).returncode == 7
    missing = host.cli("exec", "web", "--", "/no/such", check=False)
    assert missing.returncode == 127
    assert "command not found" in missing.stderr
    root = host.cli("exec", "--user", "0", "web", "--", "/bin/sh", "-c", "id -u; cat", check=False)
    assert root.stdout == "0\n"
    assert "unix socket" in host.cli("exec", "--url", f"http://127.0.0.1:{host.port}", "web", "ls", check=False).stderr

    # A shell with a terminal, which knows its size.
    seen = shell(host, "web", ["stty size; echo ans''wer=$((6*7))", "exit 3"])
    assert "answer=42" in seen

    # What the guest says of itself, and what its monitor wrote.
    figures = host.get(f"/api/v1/instances/{instance(host, 'web')['id']}/metrics")
    assert figures["processes"] > 1
    assert 0 < figures["memory_available_bytes"] < figures["memory_total_bytes"] <= 128 << 20
    host.cli("logs", "web", "--source", "monitor")

    # Held still, it does not answer; nobody takes that for a failure.
    host.cli("pause", "web")
    assert instance(host, "web")["state"] == "paused"
    assert not answers(url(host, "web"))
    refused = host.cli("exec", "web", "--", "/bin/true", check=False)
    assert refused.returncode == 1
    assert "zeitwork resume" in refused.stderr
    host.cli("resume", "web")
    assert says_hello(host, "web")

    # A snapshot while it serves, and two copies that go on from it as themselves.
    # The kernel makes its boot_id up when it is first read.
    mark = "cat /proc/sys/kernel/random/uuid > /tmp/mark; cat /proc/sys/kernel/random/boot_id >/dev/null; cat /tmp/mark"
    written = host.cli("exec", "web", "--", "/bin/sh", "-c", mark).stdout
    host.cli("snapshot", "web", "--name", "now")
    [snapshot] = host.cli("snapshots", "--json")
    assert snapshot["state"] == "ready"
    facts = "hostname; cat /tmp/mark; cat /proc/sys/kernel/random/boot_id; cat /proc/sys/kernel/random/uuid"
    ones = [host.cli("exec", "web", "--", "/bin/sh", "-c", facts).stdout.splitlines()]
    for name in ("copy", "other"):
        host.cli("restore", "now", "--name", name)
        assert says_hello(host, name)
        ones.append(host.cli("exec", name, "--", "/bin/sh", "-c", facts).stdout.splitlines())
    names, marks, boots, randoms = zip(*ones, strict=True)
    assert names == ("web", "copy", "other")
    assert set(marks) == {written.strip()}
    assert len(set(boots)) == 1, "they go on, they did not boot"
    assert len(set(randoms)) == 3
    assert len({url(host, name) for name in names}) == 3

    # One that needs it keeps it; a deleted one leaves nothing.
    assert host.cli("exec", "copy", "--", "/bin/sh", "-c", "rm /tmp/mark").returncode == 0
    host.cli("restore", "now", "--into", "copy", "--yes")
    assert host.cli("exec", "copy", "--", "cat", "/tmp/mark", check=False).stdout == written
    host.cli("snapshots", "rm", snapshot["id"])
    until(lambda: not list((host.data / "snapshots").iterdir()), "removed files")
    assert says_hello(host, "copy"), "what was restored does not need it any more"


def test_a_paused_instance_and_a_snapshot_survive_the_host(any_host: HostProcess, assets: Path) -> None:
    host = any_host
    host.cli("deploy", str(assets / "hello.tar"), "--name", "web", "--memory", "128MiB")
    host.cli("snapshot", "web", "--name", "now")
    host.cli("pause", "web")
    pid = host.get(f"/api/v1/instances/{instance(host, 'web')['id']}/placements")["items"][-1]["pid"]
    host.kill()
    host.start()
    until(lambda: instance(host, "web")["state"] == "paused", "paused instance")
    assert not answers(url(host, "web"))
    host.cli("resume", "web")
    assert says_hello(host, "web")
    assert host.get(f"/api/v1/instances/{instance(host, 'web')['id']}/placements")["items"][-1]["pid"] == pid
    host.cli("restore", "now", "--name", "copy")
    assert says_hello(host, "copy")
    # One that is taken while the host dies is taken again by the next one.
    made = host.cli("snapshot", "web", "--name", "later", "--no-wait", "--json")
    host.kill()
    host.start()
    until(
        lambda: next(s for s in host.cli("snapshots", "--json") if s["id"] == made["id"])["state"] == "ready",
        "snapshot that was taken again",
    )
    assert says_hello(host, "web")
