"""The agent in real machines: over virtio-serial in QEMU, over vsock in Firecracker. Each machine boots once."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from actors.model.network import guest_mac
from actors.model.paths import HostPaths
from actors.vm.agent.wire import INITIAL_CREDIT, MAX_PAYLOAD, Frame, Kind, parse_records
from actors.vm.config_drive import GuestConfig, encode
from tests.zeitwork.guest.agent_host import AgentClient
from tests.zeitwork.guest.machine import (
    LEASE,
    OTHER,
    Drives,
    Firecracker,
    Machine,
    Network,
    Qemu,
    cached_kernel,
    network,
    root_tree,
    squashfs,
)
from tests.zeitwork.guest.test_boot import (
    CONFIG,
    FIRECRACKER,
    GROUP,
    PASSWD,
    TEST_KERNEL,
    needs_firecracker,
    needs_qemu,
)
from tests.zeitwork.guest.test_boot import pytestmark as pytestmark
from zeitwork.guest.kernel import GuestKernel, load_guest

#: Counts aloud without a process for each step, and has a child that a freeze must find.
APP = """\
#!/bin/sh
httpd -p '[::]:8080' -h /www
mkfifo /tmp/nothing
exec 3<>/tmp/nothing
sleep 100000 &
n=0
while :; do
    n=$((n + 1))
    echo "tick $n"
    read -t 1 -r x <&3
done
"""
START = dataclasses.replace(CONFIG, argv=("/app",), stop_signal=15, dns=())
MOVED = dataclasses.replace(
    START,
    nonce="movednonce",
    hostname="guest-two",
    mac=guest_mac(OTHER),
    v4=OTHER.v4,
    v6=OTHER.v6,
    env={"PLAIN": "another"},
    dns=("192.0.2.99",),
)


@dataclass
class Guest:
    """A machine whose app counts, and what it was made of."""

    machine: Qemu | Firecracker
    net: Network
    folder: Path
    kernel: GuestKernel
    drives: Drives

    def restore(self) -> None:
        """End the machine and load what it saved into another."""
        self.machine.__exit__(None, None, None)
        if isinstance(self.machine, Qemu):
            self.machine = Qemu(self.folder, self.kernel, self.drives, self.net, restore=True)
        else:
            self.machine = Firecracker(self.folder, FIRECRACKER, self.kernel, self.drives, self.net, restore=True)


@pytest.fixture(
    scope="module",
    params=[pytest.param("qemu", marks=needs_qemu), pytest.param("firecracker", marks=needs_firecracker)],
)
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp(request.param)
    files: dict[str, str | bytes] = {"app": APP, "www/index.html": "a page\n", "etc/passwd": PASSWD, "etc/group": GROUP}
    tree = root_tree(folder / "tree", files)
    (tree / "tmp").chmod(0o1777)
    (tree / "srv/made here").mkdir(parents=True)
    drives = Drives.make(folder, squashfs(tree, folder / "root"), encode(START))
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network())
        machine: Qemu | Firecracker
        if request.param == "qemu":
            kernel = cached_kernel()
            machine = Qemu(folder, kernel, drives, net)
        else:
            kernel = load_guest(HostPaths(folder / "data", folder), kernel=Path(TEST_KERNEL))
            machine = Firecracker(folder, FIRECRACKER, kernel, drives, net)
        made = Guest(machine, net, folder, kernel, drives)
        stack.callback(lambda: made.machine.__exit__(None, None, None))
        machine.wait_for("^tick 1\n", 200)
        yield made


@pytest.fixture
def host(guest: Guest) -> Iterator[AgentClient]:
    with guest.machine.agent() as client:
        yield client


def ticks(machine: Machine) -> int:
    # Whole lines only: the last one read may be cut in the middle of its number.
    return max(int(number) for number in re.findall(r"^tick (\d+)\n", machine.console, re.MULTILINE))


def wait_for_ticks(machine: Machine) -> None:
    machine.wait_for(f"^tick {ticks(machine) + 2}\n")


def fails(net: Network, url: str) -> bool:
    script = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=3)"
    command = net.inside(sys.executable, "-I", "-c", script, url)
    return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode != 0


def test_heartbeat_and_statistics(guest: Guest, host: AgentClient) -> None:
    assert guest.net.fetch(f"http://{LEASE.v4}:8080/") == "a page\n"  # it has sent something then
    first = host.ping(1)
    assert 0 < first <= host.ping(2)
    found = {name: int(value) for name, value in parse_records(host.request(Kind.STATISTICS)).items()}
    started = re.search(r"started pid=(\d+)", guest.machine.console)
    assert started is not None
    assert found["app_pid"] == int(started[1])
    assert 60_000 < found["memory_total_kib"] < 200_000
    assert 0 < found["memory_available_kib"] < found["memory_total_kib"]
    assert 20_000 < found["disk_total_kib"] < 40_000
    assert found["network_sent_bytes"] > 0
    assert found["cpu_system_ms"] > 0
    assert found["oom_kills"] == 0
    assert found["processes"] > 3


def test_a_command_runs_as_the_app_does(host: AgentClient) -> None:
    output, errors, end = host.run("sh", "-c", 'id; pwd; echo "$PLAIN $MULTI $HOME"; echo oops >&2; exit 7')
    lines = output.decode().splitlines()
    assert lines[0] == "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)"
    assert lines[1:] == ["/srv/made here", "value line one", "line two /home/app"]
    assert (errors, end) == (b"oops\n", (0, 7))


def test_a_command_of_root_and_how_it_ended(host: AgentClient) -> None:
    output, _errors, end = host.run(
        "sh", "-c", "id -u; pwd; echo $PLAIN; kill -9 $$", user="root", cwd="/", env="PLAIN=x"
    )
    assert output == b"0\n/\nx\n"
    assert end == (1, signal.SIGKILL)
    assert "command not found: missing" in host.refusal(2, "missing")
    assert 'no user "missing"' in host.refusal(2, "true", user="missing")


def start_cat(host: AgentClient) -> None:
    """Have the shell of session 1 run a cat in its foreground; it is there when this returns."""
    host.send(Kind.DATA, 1, b"sh -c 'echo re\"\"ady; exec cat'\n")
    host.read_until(1, b"ready\r\n")


def test_a_shell_with_a_size_that_changes(host: AgentClient) -> None:
    host.open(1, "sh", tty="1", rows="33", cols="99", env="PS1=@ \nTERM=xterm")
    host.read_until(1, b"@ ")
    host.send(Kind.DATA, 1, b"stty size; tty; echo $TERM\n")
    assert b"33 99\r\n/dev/pts/0\r\nxterm\r\n" in host.read_until(1, b"xterm\r\n")
    host.send(Kind.RESIZE, 1, (50).to_bytes(2, "little") + (132).to_bytes(2, "little"))
    host.send(Kind.DATA, 1, b"stty size\n")
    host.read_until(1, b"50 132\r\n")
    start_cat(host)
    host.send(Kind.DATA, 1, b"\x03")
    host.read_until(1, b"@ ")
    host.send(Kind.DATA, 1, b"exit 3\n")
    assert host.finish(1)[2] == (0, 3)


def test_a_flood_does_not_hold_up_the_heartbeat(host: AgentClient) -> None:
    host.open(1, "yes")
    taken = 0
    while taken < 3 * INITIAL_CREDIT:
        frame = host.wait_for(Kind.OUTPUT, session=1)
        taken += len(frame.payload)
        host.send(Kind.CREDIT, 1, len(frame.payload).to_bytes(4, "little"))
        if taken % 7 == 0:
            host.ping()
    host.ping()
    host.send(Kind.CLOSE, 1)
    assert host.finish(1)[2] == (1, signal.SIGHUP)


def test_much_input_arrives_whole(host: AgentClient) -> None:
    host.open(1, "md5sum")
    for _ in range(INITIAL_CREDIT // MAX_PAYLOAD):
        host.send(Kind.DATA, 1, b"z" * MAX_PAYLOAD)
    host.send(Kind.EOF, 1)
    output, _errors, end = host.finish(1)
    assert output.split()[0].decode() == hashlib.md5(b"z" * INITIAL_CREDIT).hexdigest()
    assert end == (0, 0)


def test_a_host_that_goes_in_the_middle_and_one_that_comes_back(guest: Guest) -> None:
    with guest.machine.agent() as first:
        pid = first.open(1, "sh", "-c", "trap '' HUP; while :; do sleep 1000; done")
        first.connection.sendall(Frame(Kind.OPEN, 2, bytes(9000)).encode()[:5000])
    with guest.machine.agent() as second:
        assert second.run("echo", "here", session=1)[0] == b"here\n"
        script = f"while [ -e /proc/{pid} ]; do usleep 50000; done; echo gone"
        assert second.run("sh", "-c", script, session=1)[0] == b"gone\n"


def test_waiting_for_a_host_costs_nothing(guest: Guest) -> None:
    used = []
    for _ in range(2):
        with guest.machine.agent() as client:
            fields = client.run("cat", "/proc/1/stat")[0].rpartition(b")")[2].split()
            used.append(int(fields[11]) + int(fields[12]))
        with pytest.raises(pytest.fail.Exception):
            guest.machine.wait_for("^never$", 4)
    assert used[1] - used[0] < 200, "hundredths of a second of CPU in four seconds without a host"


def test_nobody_inside_reaches_the_channel(guest: Guest, host: AgentClient) -> None:
    script = "ls -l /proc/1/fd >/dev/null && for port in /dev/vport*; do [ -e $port ] && cat $port; done; exit 0"
    output, errors, _end = host.run("sh", "-c", script, user="root", cwd="/")
    assert output == b""
    if isinstance(guest.machine, Qemu):
        assert b"/dev/vport" in errors
        assert b"busy" in errors
    host.ping()


def test_a_frozen_guest_stands_still_and_goes_on(guest: Guest, host: AgentClient) -> None:
    machine = guest.machine
    host.open(1, "sh", tty="1", env="PS1=@ ")
    host.read_until(1, b"@ ")
    start_cat(host)
    wait_for_ticks(machine)
    host.request(Kind.FREEZE)
    host.request(Kind.FREEZE)
    assert host.request(Kind.PING, bytes(8))
    with pytest.raises(pytest.fail.Exception):
        machine.wait_for("^never$", 0.5)  # reads what was on its way, as far as it has come
    with pytest.raises(pytest.fail.Exception):
        machine.wait_for(f"^tick {ticks(machine) + 2}\n", 4)
    assert "the guest is frozen" in host.refusal(2, "true")
    host.request(Kind.THAW, bytes(8))
    wait_for_ticks(machine)
    host.send(Kind.DATA, 1, b"still in the foreground\n")
    output = host.read_until(1, b"foreground\r\nstill in the foreground\r\n")
    assert b"Stopped" not in output
    host.send(Kind.CLOSE, 1)
    host.finish(1)


def test_thawing_sets_the_clock(host: AgentClient) -> None:
    host.request(Kind.FREEZE)
    host.request(Kind.THAW, (2_000_000_000_000).to_bytes(8, "little"))
    assert 2_000_000_000 <= int(host.run("date", "+%s")[0]) < 2_000_003_600


def test_entropy(host: AgentClient) -> None:
    host.request(Kind.ENTROPY, b"x")
    host.request(Kind.ENTROPY, bytes(range(256)) * 2)


def send_identity(host: AgentClient, config: GuestConfig) -> None:
    drive = encode(config)
    for offset in range(0, len(drive), 300):
        head = len(drive).to_bytes(4, "little") + offset.to_bytes(4, "little")
        host.request(Kind.IDENTITY, head + drive[offset : offset + 300])


def check_moved(guest: Guest, host: AgentClient) -> None:
    machine, net = guest.machine, guest.net
    machine.wait_for(r"^\[zeitwork movednonce\] restored$")
    machine.wait_for(r"^\[zeitwork movednonce\] started pid=\d+$")
    wait_for_ticks(machine)
    for address in (f"[{OTHER.v6}]", str(OTHER.v4)):
        assert net.fetch(f"http://{address}:8080/") == "a page\n"
    for address in (f"[{LEASE.v6}]", str(LEASE.v4)):
        assert fails(net, f"http://{address}:8080/")
    script = (
        "hostname; echo $PLAIN $HOSTNAME; cat /etc/hostname /etc/hosts /etc/resolv.conf /sys/class/net/eth0/address;"
        "ip addr; ip route; ip -6 route"
    )
    output = host.run("sh", "-c", script)[0].decode()
    assert output.startswith("guest-two\nanother guest-two\nguest-two\n")
    assert f"{OTHER.v4}\tguest-two\n" in output
    assert "nameserver 192.0.2.99\n" in output
    assert f"\n{guest_mac(OTHER)}\n" in output
    assert f"{OTHER.v4}/32" in output
    assert f"{OTHER.v6}/128" in output
    assert str(LEASE.v4) not in output
    assert str(LEASE.v6) not in output
    assert "default via 169.254.0.1" in output
    assert "default via fe80::1" in output


def test_a_snapshot_restored_as_another_one_and_a_stop_while_frozen(guest: Guest) -> None:
    """The last one: it ends the machine."""
    with guest.machine.agent() as host:
        host.run("sh", "-c", "ip addr add 10.9.8.7/32 dev eth0; ip -6 addr add fd00::9/128 dev eth0", user="root")
        with pytest.raises(AssertionError, match="checksum"):
            drive = bytearray(encode(MOVED))
            drive[100] ^= 1
            host.request(Kind.IDENTITY, len(drive).to_bytes(4, "little") + bytes(4) + bytes(drive))
        host.open(1, "sleep", "1000")
        host.request(Kind.FREEZE)
        guest.machine.save()
    guest.restore()
    guest.machine.resume()
    with guest.machine.agent() as host:
        assert host.hello() == 1, "it went on by itself"
        send_identity(host, MOVED)
        host.request(Kind.ENTROPY, bytes(32))
        host.request(Kind.THAW, int(time.time() * 1000).to_bytes(8, "little"))
        guest.machine.wait_for(r"^tick \d+\n")
        check_moved(guest, host)
        assert "10.9.8.7" not in host.run("ip", "addr")[0].decode()
        assert abs(int(host.run("date", "+%s")[0]) - time.time()) < 600
        assert b"sleep 1000" not in host.run("ps", "-o", "args")[0].splitlines(), "a command of the host before"
        host.request(Kind.FREEZE)
        host.request(Kind.STOP)
    assert guest.machine.wait_exit() == 0
    assert guest.machine.reports()[-3:] == ["stopping signal=15", "exited signal=15", "halting"]
    assert "[zeitwork movednonce] halting" in guest.machine.console
