"""Monitors as processes: they outlive us, are known beyond doubt, and die only when meant."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from actors.vm import process as processes
from actors.vm.cgroup import Cgroup, hierarchies, is_member
from actors.vm.process import Identity, PidFile, VmProcess, adopt, adopt_member, boot_id, read_stat, spawn
from tests.actors.vm.waiting import until

ROOT = Path(__file__).parents[3]


def start(tmp_path: Path, *argv: str, enter: tuple[Path, ...] = ()) -> VmProcess:
    return spawn(argv, stdout=tmp_path / "out", stderr=tmp_path / "err", enter=enter)


@pytest.fixture
def group() -> Iterator[Cgroup]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes cgroups")
    made = Cgroup.of(f"zeitwork-t{secrets.token_hex(4)}/abc")
    yield made
    for pid in made.members():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    made.remove()


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("exit 0", 0), ("kill -9 $$", -9)])
async def test_the_status_of_a_child_is_known(tmp_path: Path, script: str, status: int) -> None:
    process = start(tmp_path, "/bin/sh", "-c", script)
    with trio.fail_after(90):
        assert await process.wait() == status
        assert await process.wait() == status
    assert not process.running
    now = read_stat(process.pid)
    assert now is None or now[1] != process.identity.start_time
    process.send(signal.SIGKILL)  # to nobody
    process.close()


async def test_output_is_appended_to_files_and_the_environment_is_scrubbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "value")
    (tmp_path / "out").write_text("before\n")
    process = start(tmp_path, "/bin/sh", "-c", "env; echo $0 >&2; ps -o sid= -p $$ 2>/dev/null || true")
    with trio.fail_after(90):
        await process.wait()
    output = (tmp_path / "out").read_text()
    assert output.startswith("before\n")
    assert "SECRET" not in output
    assert "PATH=" in output
    assert (tmp_path / "err").read_text() == "/bin/sh\n"
    process.close()


async def test_a_program_that_is_not_there_ends_with_127_and_words(tmp_path: Path) -> None:
    process = start(tmp_path, "/nowhere/firecracker")
    with trio.fail_after(90):
        assert await process.wait() == 127
    assert "/nowhere/firecracker" in (tmp_path / "err").read_text()
    process.close()


async def test_it_works_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "-a b"
    there.mkdir()
    monkeypatch.chdir(tmp_path)
    for cwd, expected in ((Path("-a b"), there), (there, there), (None, tmp_path)):
        (tmp_path / "out").unlink(missing_ok=True)
        process = spawn(("/bin/pwd",), stdout=tmp_path / "out", stderr=tmp_path / "err", cwd=cwd)
        with trio.fail_after(90):
            assert await process.wait() == 0
        assert Path((tmp_path / "out").read_text().strip()) == expected
        process.close()
    process = spawn(("/bin/pwd",), stdout=tmp_path / "out", stderr=tmp_path / "err", cwd=tmp_path / "none")
    with trio.fail_after(90):
        assert await process.wait() == 126
    assert str(tmp_path / "none") in (tmp_path / "err").read_text()
    process.close()


def test_it_outlives_the_process_that_spawned_it(tmp_path: Path) -> None:
    script = (
        "import os; from pathlib import Path; from actors.vm.process import spawn\n"
        f"out, err = Path({str(tmp_path / 'o')!r}), Path({str(tmp_path / 'e')!r})\n"
        "p = spawn(['/bin/sleep', '600'], stdout=out, stderr=err)\n"
        "print(p.pid, p.identity.start_time, flush=True); os.kill(os.getpid(), 9)"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == -9
    pid, start_time = map(int, result.stdout.split())
    process = adopt(Identity(pid, start_time, boot_id()), None)
    assert process is not None
    assert os.getsid(pid) == pid
    assert process.running

    async def end() -> int | None:
        await process.kill()
        return await process.wait()

    assert trio.run(end) is None  # it was not our child
    assert not process.running
    process.close()


async def test_only_the_very_same_process_is_adopted(tmp_path: Path, group: Cgroup) -> None:
    process = start(tmp_path, "/bin/sleep", "600", enter=group.create())
    await until(lambda: is_member(process.pid, group.name))
    identity = process.identity
    try:
        assert adopt(replace(identity, start_time=identity.start_time + 1), None) is None
        assert adopt(replace(identity, boot_id="another"), None) is None
        assert adopt(identity, "zeitwork/other") is None
        assert adopt(replace(identity, pid=2**22 - 1), None) is None
        same = adopt(identity, group.name)
        assert same is not None
        assert same.running
        same.close()
        by_group = adopt_member(process.pid, group.name)
        assert by_group is not None
        by_group.close()
        assert adopt_member(os.getpid(), group.name) is None
    finally:
        await process.kill()
        process.close()


async def test_a_zombie_has_ended(tmp_path: Path) -> None:
    process = start(tmp_path, "/bin/true")
    await until(lambda: read_stat(process.pid)[0] == "Z")
    assert not process.running
    assert adopt(process.identity, None) is None
    assert await process.wait() == 0
    process.close()


async def test_kill_reaps_even_when_the_caller_is_cancelled(tmp_path: Path) -> None:
    process = start(tmp_path, "/bin/sleep", "600")
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await process.kill()
    assert not process.running
    assert await process.wait() == -9
    process.close()


async def test_two_may_wait(tmp_path: Path) -> None:
    process = start(tmp_path, "/bin/sh", "-c", "sleep 0.05; exit 4")
    seen: list[int | None] = []

    async def wait() -> None:
        seen.append(await process.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
    assert seen == [4, 4]
    process.close()


async def test_the_group_holds_it_from_its_first_instruction_and_is_removed_after(
    tmp_path: Path, group: Cgroup
) -> None:
    entries = group.create()
    assert entries
    process = start(tmp_path, "/bin/sh", "-c", "cat /proc/self/cgroup; echo over; exec sleep 600", enter=entries)
    # Its child has ended then, and it has none from there on.
    await until(lambda: (tmp_path / "out").read_text().endswith("over\n"))
    lines = (tmp_path / "out").read_text().splitlines()
    inside = [line for line in lines if line.endswith(f"/{group.name}")]
    assert len(inside) == len(entries)
    assert group.members() == {process.pid}
    assert await process.kill(90)
    await trio.to_thread.run_sync(group.remove)
    assert not any((root / group.name).exists() or (root / group.name).parent.exists() for root in group.roots)
    group.remove()  # again does no harm


async def test_a_monitor_whose_group_was_removed_before_it_entered_does_not_begin(
    tmp_path: Path, group: Cgroup
) -> None:
    entries = group.create()
    assert entries
    group.remove()
    process = start(tmp_path, "/bin/sh", "-c", "echo here", enter=entries)
    assert await process.wait() == 125
    assert (tmp_path / "out").read_text() == ""
    process.close()


def test_missing_and_read_only_hierarchies_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "file").write_text("")
    group = Cgroup("zeitwork/x", (tmp_path / "memory", tmp_path / "file", Path("/proc")))
    assert group.create() == (tmp_path / "memory/zeitwork/x/cgroup.procs",)


def test_a_v1_cpuset_gets_cpus_and_nodes_first(tmp_path: Path) -> None:
    root = tmp_path / "cpuset"
    for directory, cpus in ((root, "0-1"), (root / "zeitwork", ""), (root / "zeitwork/x", "")):
        directory.mkdir()
        (directory / "cpuset.cpus").write_text(f"{cpus}\n")
        (directory / "cpuset.mems").write_text("0\n" if cpus else "\n")
    Cgroup("zeitwork/x", (root,)).create()
    assert (root / "zeitwork/x/cpuset.cpus").read_text() == "0-1\n"
    assert (root / "zeitwork/x/cpuset.mems").read_text() == "0\n"


def test_hierarchies_of_all_three_layouts() -> None:
    unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    v1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    hybrid = v1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    assert hierarchies(unified) == (Path("/sys/fs/cgroup"),)
    assert hierarchies(v1) == (Path("/sys/fs/cgroup/cpu"),)
    assert hierarchies(hybrid) == (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/unified"))


def test_the_pid_file_is_whole_or_absent(tmp_path: Path) -> None:
    file = PidFile(Identity(1, 2, "boot"), "zeitwork/x", True, "qemu")
    assert PidFile.read(tmp_path) is None
    file.write(tmp_path)
    assert PidFile.read(tmp_path) == file
    assert file.update(tmp_path, booted=True, app_started_at=1.5) == PidFile.read(tmp_path)
    for damage in ("", "{", "[]", '{"identity": 3}', '{"identity": {"pid": 1}}'):
        (tmp_path / processes.PID_FILE).write_text(damage)
        assert PidFile.read(tmp_path) is None


async def test_what_the_kernel_ends_for_want_of_memory_is_counted_for_its_group(tmp_path: Path, group: Cgroup) -> None:
    enter = group.create()
    assert group.oom_kills() == 0
    limits = [
        file
        for root in group.roots
        for name in ("memory.max", "memory.limit_in_bytes")
        if (file := root / group.name / name).exists()
    ]
    if not limits:
        pytest.skip("no memory controller in any cgroup hierarchy here")
    limits[0].write_text(str(32 * 1024 * 1024))
    # Nothing of it goes to a swap that this machine may have.
    for name, most in (("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", str(32 * 1024 * 1024))):
        if (swap := limits[0].with_name(name)).exists():
            swap.write_text(most)
    hungry = start(tmp_path, sys.executable, "-I", "-c", "x = b'x' * (256 << 20)", enter=enter)
    with trio.fail_after(90):
        assert await hungry.wait() == -9
    hungry.close()
    assert group.oom_kills() == 1
    assert Cgroup("zeitwork/none", group.roots).oom_kills() == 0


def test_both_versions_of_the_counter_are_read(tmp_path: Path) -> None:
    for root, name, text in (
        ("v2", "memory.events", "low 0\nmax 4\noom 2\noom_kill 2\n"),
        ("v1", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
    ):
        directory = tmp_path / root / "zeitwork" / "x"
        directory.mkdir(parents=True)
        (directory / name).write_text(text)
    assert Cgroup("zeitwork/x", (tmp_path / "v2",)).oom_kills() == 2
    assert Cgroup("zeitwork/x", (tmp_path / "v1",)).oom_kills() == 1
