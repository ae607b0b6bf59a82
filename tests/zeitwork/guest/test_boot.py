"""The init in real machines: QEMU with the distribution's kernel, Firecracker with the test kernel."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.model.network import guest_mac
from actors.model.paths import HostPaths
from actors.vm.config_drive import GuestConfig, encode
from tests.zeitwork.guest.machine import (
    LEASE,
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
from zeitwork.guest.hello import build_hello
from zeitwork.guest.kernel import GuestKernel, load_guest

TOOLS = ("mksquashfs", "mke2fs", "nsenter", "e2fsck", "debugfs")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
NO_QEMU = shutil.which("qemu-system-x86_64") is None
FIRECRACKER = os.environ.get("ZEITWORK_TEST_FIRECRACKER", "")
TEST_KERNEL = os.environ.get("ZEITWORK_TEST_KERNEL", "")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and TAPs"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(not Path("/bin/busybox").exists(), reason="busybox-static is not installed"),
]
needs_qemu = pytest.mark.skipif(NO_QEMU, reason="qemu-system-x86 is not installed")
needs_firecracker = pytest.mark.skipif(
    not (FIRECRACKER and TEST_KERNEL and os.access("/dev/kvm", os.W_OK)),
    reason="needs ZEITWORK_TEST_FIRECRACKER, ZEITWORK_TEST_KERNEL and a writable /dev/kvm",
)

#: Few processes: each costs half a second in a guest whose kernel is emulated. /=NAME starts a section.
CHECK = """\
#!/bin/sh
trap 'exit 42' USR1
( sh -c 'exit 3' & echo "$!" >/tmp/orphan )
echo text >written
{
    id
    cat '/=cwd' - '/=argv' /proc/$$/cmdline '/=env' /proc/$$/environ '/=session' /proc/$$/stat \\
        '/=mounts' /proc/mounts '/=files' /etc/hostname /etc/hosts /etc/resolv.conf '/=modes' <<HERE
$PWD
HERE
    stat -c '%a %Y %N' written /dev/vdc /dev/shm /dev/null /proc/self/fd/0
    echo "=== hidden"
    cat /dev/vdc /lower /upper 2>&1
    echo by-name >/dev/stdout
} | base64 -w 0
echo " facts"
read -r orphan </tmp/orphan
tries=0
while [ -e "/proc/$orphan" ] && [ "$tries" -lt 5000 ]; do tries=$((tries + 1)); done
[ -e "/proc/$orphan" ] || echo "orphan reaped"
httpd -p '[::]:8080' -h /www && echo ready
sleep 1000 &
wait
"""
SECTIONS = {f"={name}": f"\n=== {name}\n" for name in ("cwd", "argv", "env", "session", "mounts", "files", "modes")}

PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"
GROUP = "root:x:0:\napp:x:1000:\nextra:x:2000:other,app\n"
ARGV = ("/check", "two words", "quo\"te's $HOME `x`", "new\nline\ttab", "ünï ☃", "", "--flag=a=b")
ENV = {
    "PLAIN": "value",
    "SPACED": " two  words ",
    "MULTI": "line one\nline two",
    "UNI": "☃",
    "EMPTY": "",
    "EQ": "a=b",
    # The test kernel for emulated KVM does not save AVX registers when it switches between processes.
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load",
}
CONFIG = GuestConfig(
    nonce="testnonce",
    instance="0190",
    hostname="guest-one",
    mac=guest_mac(LEASE),
    v4=LEASE.v4,
    v6=LEASE.v6,
    argv=ARGV,
    env=ENV,
    epoch=1_900_000_000.0,
    dns=("192.0.2.53", "2001:db8::53"),
    cwd="/srv/made here",
    user="app",
    stop_signal=int(signal.SIGUSR1),
    stop_timeout=20.0,
)


@pytest.fixture(scope="module")
def kernel() -> GuestKernel:
    return cached_kernel()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    tree = root_tree(
        folder / "tree",
        {
            **SECTIONS,
            "check": CHECK,
            "www/index.html": "a page\n",
            "etc/passwd": PASSWD,
            "etc/group": GROUP,
            "no-interpreter": "#!/missing/interpreter\n",
            "plain-file": "text",
        },
    )
    (tree / "etc/resolv.conf").symlink_to("/run/elsewhere")  # as images of systemd distributions have it
    for name in ("www", "tmp"):
        os.chown(tree / name, 1000, 1000)
        (tree / name).chmod(0o1777)
    (tree / "srv").mkdir()
    # The working directory exists in the image here, owned by the app, so that it can write into it.
    (tree / "srv/made here").mkdir()
    os.chown(tree / "srv/made here", 1000, 1000)
    return squashfs(tree, folder / "root")


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


def facts(console: str) -> dict[str, bytes]:
    found = re.search(r"^(\S+) facts$", console, re.MULTILINE)
    assert found is not None
    text = b"=== id\n" + base64.b64decode(found[1])
    parts = (part.partition(b"\n") for part in re.split(rb"^=== ", text, flags=re.MULTILINE) if part)
    return {name.decode(): body for name, _, body in parts}


def check_facts(found: dict[str, bytes]) -> None:
    assert found["id"].decode().strip() == "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)"
    assert found["cwd"].strip() == b"/srv/made here"
    assert found["argv"].split(b"\0")[:-1] == [b"/bin/sh", *(argument.encode() for argument in ARGV)]
    environment = dict(item.decode().split("=", 1) for item in found["env"].split(b"\0")[:-1])
    assert environment.items() >= ENV.items()
    assert set(environment) - set(ENV) == {"PATH", "HOME", "HOSTNAME"}
    assert (environment["HOME"], environment["HOSTNAME"]) == ("/home/app", "guest-one")
    pid, _comm, _state, parent, group, session, terminal = found["session"].split()[:7]
    assert (parent, group, session, terminal) == (b"1", pid, pid, b"0")
    kinds = {line.split()[1]: line.split()[2] for line in found["mounts"].decode().splitlines() if line}
    assert kinds["/"] == "overlay"
    assert kinds["/proc"] == "proc"
    assert kinds["/sys"] == "sysfs"
    assert kinds["/dev"] == "devtmpfs"
    assert kinds["/dev/pts"] == "devpts"
    assert kinds["/dev/shm"] == "tmpfs"
    files = found["files"].decode()
    assert files.startswith("guest-one\n")
    assert f"{LEASE.v4}\tguest-one\n" in files
    assert f"{LEASE.v6}\tguest-one\n" in files
    assert files.strip().endswith("nameserver 192.0.2.53\nnameserver 2001:db8::53")
    written, drive, shared, null, stdin = found["modes"].decode().splitlines()
    assert 1_900_000_000 <= int(written.split()[1]) < 1_900_003_600, "the clock was not set"
    assert [line.split()[0] for line in (drive, shared, null)] == ["600", "1777", "666"]
    assert stdin.endswith("-> '/dev/null'")
    assert b"'/dev/vdc': Permission denied" in found["hidden"]
    assert found["hidden"].count(b"No such file") == 2
    assert found["hidden"].endswith(b"by-name\n")


def check_disk(upper: Path) -> None:
    """What the app wrote is on the writable drive, and its file system was left clean."""
    state = subprocess.run(["e2fsck", "-f", "-n", upper], capture_output=True, text=True, timeout=60, check=False)
    assert state.returncode == 0, state.stdout
    header = subprocess.run(["dumpe2fs", "-h", upper], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "needs_recovery" not in header
    command = ["debugfs", "-R", 'cat "/root/srv/made here/written"', upper]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "text\n"


def run_check(machine: Machine, net: Network) -> None:
    machine.wait_for(r"^ready$", 200)
    assert machine.reports()[-1].startswith("started pid=")
    check_facts(facts(machine.console))
    assert re.search(r"^orphan reaped$", machine.console, re.MULTILINE)
    assert net.fetch(f"http://[{LEASE.v6}]:8080/") == "a page\n"
    assert net.fetch(f"http://{LEASE.v4}:8080/") == "a page\n"


def check_end(machine: Machine, reports: list[str]) -> None:
    assert machine.wait_exit() == 0
    verbs = machine.reports()
    assert verbs[0].startswith("booted kernel=")
    assert verbs[1:3] == ["mounted", "network"]
    assert verbs[3].startswith("started pid=")
    assert verbs[4:] == reports
    assert "reboot: Restarting system" in machine.console


@needs_qemu
def test_qemu_runs_an_app_and_stops_it_by_the_power_button(
    tmp_path: Path, kernel: GuestKernel, root: Path, net: Network
) -> None:
    drives = Drives.make(tmp_path, root, encode(CONFIG))
    with Qemu(tmp_path, kernel, drives, net) as machine:
        run_check(machine, net)
        machine.power_button()
        check_end(machine, ["stopping signal=10", "exited status=42", "halting"])
    check_disk(drives.upper)


@needs_firecracker
def test_firecracker_runs_an_app_and_stops_it_by_ctrl_alt_del(tmp_path: Path, root: Path, net: Network) -> None:
    guest = load_guest(HostPaths(tmp_path / "data", tmp_path), kernel=Path(TEST_KERNEL))
    assert not guest.has_modules
    drives = Drives.make(tmp_path, root, encode(CONFIG))
    with Firecracker(tmp_path, FIRECRACKER, guest, drives, net) as machine:
        run_check(machine, net)
        machine.ctrl_alt_del()
        check_end(machine, ["stopping signal=10", "exited status=42", "halting"])
    check_disk(drives.upper)


def shell(script: str, **changes: object) -> bytes:
    config = dataclasses.replace(CONFIG, argv=("sh", "-c", script), stop_signal=15, **changes)  # type: ignore[arg-type]
    return encode(config)


@needs_qemu
def test_an_app_that_ignores_the_stop_is_killed_at_its_timeout(tmp_path: Path, kernel: GuestKernel, root: Path) -> None:
    config = shell("trap '' TERM; echo up; while :; do sleep 1000; done", stop_timeout=0.5)
    with Qemu(tmp_path, kernel, Drives.make(tmp_path, root, config)) as machine:
        machine.wait_for("^up$")
        machine.ctrl_alt_del()
        check_end(machine, ["stopping signal=15", "exited signal=9", "halting"])


@needs_qemu
def test_a_partial_last_line_and_what_a_grandchild_still_writes(
    tmp_path: Path, kernel: GuestKernel, root: Path
) -> None:
    config = shell("( trap '' TERM; while :; do sleep 1000; done ) & echo -n partial; kill -SEGV $$", dns=(), v6=None)
    with Qemu(tmp_path, kernel, Drives.make(tmp_path, root, config)) as machine:
        check_end(machine, ["exited signal=11", "halting"])
        assert re.search(r"partial\n\[zeitwork testnonce\] exited", machine.console)


@needs_qemu
def test_an_app_that_uses_up_the_memory_is_told_from_one_that_was_killed(
    tmp_path: Path, kernel: GuestKernel, root: Path
) -> None:
    config = shell("""exec awk 'BEGIN { megabyte = sprintf("%1000000s", ""); while (1) held[i++] = megabyte i }'""")
    with Qemu(tmp_path, kernel, Drives.make(tmp_path, root, config), memory=128) as machine:
        check_end(machine, ["exited signal=9 oom=1", "halting"])


@needs_qemu
def test_a_console_that_nobody_reads_does_not_hold_up_the_stop(tmp_path: Path, kernel: GuestKernel, root: Path) -> None:
    config = shell("echo up; exec yes 'all work and no play'", stop_timeout=1.0)
    with Qemu(tmp_path, kernel, Drives.make(tmp_path, root, config)) as machine:
        machine.wait_for("^all work")
        machine.power_button()  # from here on the pipe stays full
        assert machine.process.wait(180) == 0


@needs_qemu
@pytest.mark.parametrize(
    ("changes", "stage", "message"),
    [
        ({"argv": ("no-such-command", "x")}, "exec", "command not found: no-such-command (searched in PATH=/usr/local"),
        ({"argv": ("/no-interpreter",)}, "exec", "cannot run /no-interpreter: its interpreter is not in the image"),
        ({"argv": ("/plain-file",)}, "exec", "permission denied: /plain-file is not executable"),
        ({"user": "nobody-here"}, "user", 'the image has no user "nobody-here" in its /etc/passwd'),
        ({"cwd": "/plain-file/sub"}, "cwd", "cannot enter the working directory /plain-file/sub: Not a directory"),
    ],
)
def test_an_app_that_can_not_be_started_says_why(
    tmp_path: Path, kernel: GuestKernel, root: Path, changes: dict[str, object], stage: str, message: str
) -> None:
    config = encode(dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]
    with Qemu(tmp_path, kernel, Drives.make(tmp_path, root, config)) as machine:
        assert machine.wait_exit() == 0
        check_error(machine, stage, message)


def check_error(machine: Machine, stage: str, message: str) -> None:
    found = re.search(r"^\[zeitwork \S+\] error stage=(\w+) message=(.*)$", machine.console, re.MULTILINE)
    assert found is not None, machine.console
    assert found[1] == stage
    assert message in json.loads(found[2])
    assert machine.reports()[-1] == "halting"


@needs_qemu
def test_damaged_drives_are_named(tmp_path: Path, kernel: GuestKernel, root: Path) -> None:
    damaged = bytearray(encode(CONFIG))
    damaged[40] ^= 1
    with Qemu(tmp_path, kernel, Drives.make(tmp_path, root, bytes(damaged))) as machine:
        assert machine.wait_exit() == 0
        check_error(machine, "config", "the config drive is damaged: its checksum does not match")
    (tmp_path / "control").mkdir()
    noise = tmp_path / "noise"
    noise.write_bytes(bytes(1 << 20))
    with Qemu(tmp_path / "control", kernel, Drives.make(tmp_path, noise, encode(CONFIG))) as machine:
        assert machine.wait_exit() == 0
        check_error(machine, "mount", "cannot mount the root image (/dev/vda): Invalid argument")


@needs_qemu
def test_a_machine_without_drives_is_a_probe(tmp_path: Path, kernel: GuestKernel) -> None:
    with Qemu(tmp_path, kernel, None) as machine:
        assert machine.wait_exit() == 0
        assert [report.partition(" kernel=")[0] for report in machine.reports()] == ["booted", "probe ok", "halting"]


@needs_qemu
def test_the_hello_app(tmp_path: Path, kernel: GuestKernel, net: Network) -> None:
    build_hello(tmp_path / "hello.tar")
    with tarfile.open(tmp_path / "hello.tar") as archive:
        blobs = {member.name.rpartition("/")[2]: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    manifest = json.loads(blobs[json.loads(blobs["index.json"])["manifests"][0]["digest"][7:]])
    image = json.loads(blobs[manifest["config"]["digest"][7:]])["config"]
    tree = tmp_path / "tree"
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blobs[manifest["layers"][0]["digest"][7:]]))) as layer:
        layer.extractall(tree)
    config = dataclasses.replace(
        CONFIG,
        argv=tuple(image["Entrypoint"]),
        env=dict(item.split("=", 1) for item in image["Env"]) | {"PORT": "8081"},
        user=image["User"],
        cwd=image["WorkingDir"],
        epoch=time.time(),
        stop_signal=15,
    )
    drives = Drives.make(tmp_path, squashfs(tree, tmp_path / "root"), encode(config))
    with Qemu(tmp_path, kernel, drives, net) as machine:
        machine.wait_for("^hello: serving on port 8081$")
        for host in (f"[{LEASE.v6}]", str(LEASE.v4)):
            page = net.fetch(f"http://{host}:8081/")
            assert "Hello from Zeitwork" in page
            assert "This is guest-one" in page
        machine.power_button()
        check_end(machine, ["stopping signal=15", "exited status=0", "halting"])
