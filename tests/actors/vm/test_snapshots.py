"""Snapshots as files: begun, kept, opened, judged, destroyed, and whatever a crash leaves of them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from actors.model.errors import Failed
from actors.vm import snapshots
from actors.vm.intent import Intent
from actors.vm.machine import Acceleration
from actors.vm.qemu import Qemu
from actors.vm.snapshots import Manifest, SnapshotFiles
from tests.actors.host.file_store import to_placement

ONE = UUID(int=1)
ROW = {"index": 0, "wanted": True, "state": "running", "boot_id": None}
PLACEMENT = to_placement(uuid4(), ROW)
INTENT = Intent(
    placement=str(PLACEMENT.id),
    instance=str(PLACEMENT.instance_id),
    generation=1,
    cluster="cluster-a",
    cgroup="zeitwork/x",
    tap="zwx",
    hypervisor="qemu",
    acceleration="tcg",
    vmm_version="7.2.22",
    guest="6.1",
    nonce="n",
    boot_id="b",
    agent=1,
)
QEMU = Qemu(Path("/q"), Acceleration.TCG)


def take(root: Path, snapshot: UUID = ONE) -> Manifest:
    directory = snapshots.begin(root, snapshot)
    (directory / snapshots.MACHINE / "state").write_bytes(b"x" * 10_000)
    snapshots.saved_disk(directory).write_bytes(b"y" * 5_000)
    manifest = snapshots.describe(snapshot, PLACEMENT, INTENT)
    made = snapshots.keep(root, snapshot, manifest)
    assert made.size >= 15_000
    assert (made.hypervisor, made.vmm_version, made.guest) == ("qemu", "7.2.22", "6.1")
    return manifest


def test_one_that_is_kept_can_be_opened(tmp_path: Path) -> None:
    root = tmp_path / "snapshots"
    manifest = take(root)
    directory, found = snapshots.open_snapshot(root, ONE)
    assert found == replace(manifest, files={"machine/state": 10_000, "upper.ext4": 5_000})
    assert snapshots.saved_disk(directory).read_bytes() == b"y" * 5_000
    assert root.stat().st_mode & 0o777 == 0o700, "it holds the memory of an app"
    assert [path.name for path in root.iterdir()] == [str(ONE)]


def test_one_that_is_not_whole_is_not_there(tmp_path: Path) -> None:
    snapshots.begin(tmp_path, ONE)
    with pytest.raises(Failed, match="not on this host"):
        snapshots.open_snapshot(tmp_path, ONE)
    take(tmp_path)
    (tmp_path / str(ONE) / snapshots.MANIFEST).write_text("{")
    with pytest.raises(Failed, match="damaged"):
        snapshots.open_snapshot(tmp_path, ONE)


def test_a_manifest_of_a_newer_host_is_read(tmp_path: Path) -> None:
    manifest = take(tmp_path)
    file = tmp_path / str(ONE) / snapshots.MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), "colour": "blue"}))
    assert Manifest.read(tmp_path / str(ONE)) == replace(manifest, files={"machine/state": 10_000, "upper.ext4": 5_000})


@pytest.mark.parametrize("name", ["machine/state", "upper.ext4"])
def test_one_that_was_cut_or_lost_a_file_says_which(tmp_path: Path, name: str) -> None:
    take(tmp_path)
    file = tmp_path / str(ONE) / name
    os.truncate(file, 17)
    with pytest.raises(Failed, match=f"{name} has 17 bytes"):
        snapshots.open_snapshot(tmp_path, ONE)
    file.unlink()
    with pytest.raises(Failed, match=f"{name} has 0 bytes"):
        snapshots.open_snapshot(tmp_path, ONE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hypervisor": "firecracker"}, r"hypervisor was firecracker \(tcg\), here it is qemu \(tcg\)"),
        ({"acceleration": "kvm"}, r"qemu \(kvm\)"),
        ({"vmm_version": "8.0.0"}, "version of it was 8.0.0, here it is 7.2.22"),
        ({"cpu": "another"}, "CPU was another"),
        ({"image_digest": "sha256:other"}, "image was sha256:other"),
        ({"vcpu": 2}, "vCPUs was 2"),
        ({"memory": 512}, "MiB of memory was 512"),
    ],
)
def test_what_can_not_be_restored_here_says_why(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    manifest = take(tmp_path)
    manifest.check(PLACEMENT, QEMU, "7.2.22", snapshots.cpu_model())
    with pytest.raises(Failed, match=words) as caught:
        replace(manifest, **changes).check(PLACEMENT, QEMU, "7.2.22", snapshots.cpu_model())
    assert caught.value.field == "snapshot_id"


async def test_those_of_this_cluster_are_found_and_destroyed_whole_or_not(tmp_path: Path) -> None:
    files = SnapshotFiles(tmp_path, "cluster-a")
    assert await files.scan() == ()
    take(tmp_path)
    half, gone, foreign = UUID(int=2), UUID(int=3), UUID(int=4)
    snapshots.begin(tmp_path, half)
    (tmp_path / f".{gone}.gone").mkdir()
    take(tmp_path, foreign)
    manifest = tmp_path / str(foreign) / snapshots.MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "cluster": "cluster-b"}))
    (tmp_path / "something else").mkdir()
    assert set(await files.scan()) == {ONE, half, gone}
    for snapshot in (ONE, half, gone):
        await files.destroy(snapshot)
        await files.destroy(snapshot)
    assert set(os.listdir(tmp_path)) == {str(foreign), "something else"}  # noqa: PTH208


def test_taking_it_again_begins_anew(tmp_path: Path) -> None:
    directory = snapshots.begin(tmp_path, ONE)
    (directory / "left").touch()
    assert list(snapshots.begin(tmp_path, ONE).iterdir()) == [directory / snapshots.MACHINE]


def test_the_cpu_has_a_name(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    assert snapshots.cpu_model(info) == "unknown"
    info.write_text("processor\t: 0\nmodel name\t: Fast CPU: the second\n")
    assert snapshots.cpu_model(info) == "Fast CPU: the second"
