"""Writable layers are real ext4, sparse, whole or absent, and a full disk says so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from actors.model.errors import Problem
from actors.vm.disk import make_disk


async def test_the_disk_is_an_empty_ext4_that_takes_little_space(tmp_path: Path) -> None:
    disk = tmp_path / "placement" / "upper.ext4"
    await make_disk(disk, 1024, tmp_path / "templates")
    assert disk.stat().st_size == 1024 * 1024 * 1024
    assert disk.stat().st_blocks * 512 < 64 * 1024 * 1024
    assert disk.stat().st_mode & 0o777 == 0o600
    await trio.run_process(["e2fsck", "-fn", str(disk)], capture_stdout=True, capture_stderr=True)
    assert [path.name for path in disk.parent.iterdir()] == ["upper.ext4"]


async def test_a_disk_that_is_there_is_kept(tmp_path: Path) -> None:
    disk = tmp_path / "upper.ext4"
    disk.write_bytes(b"mine")
    await make_disk(disk, 64, tmp_path)
    assert disk.read_bytes() == b"mine"


async def test_a_cancelled_attempt_leaves_nothing(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await make_disk(tmp_path / "upper.ext4", 64, tmp_path / "templates")
    assert not (tmp_path / "upper.ext4").exists()
    assert not (tmp_path / ".upper.ext4.new").exists()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a tmpfs")
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", mount], check=True, timeout=90)
    yield mount
    subprocess.run(["umount", mount], check=True, timeout=90)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("full", ["template", "copy"])
async def test_a_full_disk_is_a_problem_that_says_what_to_do(small: Path, tmp_path: Path, full: str) -> None:
    templates = small / "templates" if full == "template" else tmp_path / "templates"
    with pytest.raises(Problem) as caught:
        await make_disk(small / "placement" / "upper.ext4", 1024, templates)
    assert caught.value.code == "disk-full"
    assert caught.value.fix is not None
    assert files(small) == []


async def test_many_at_once_share_one_template(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        for index in range(5):
            nursery.start_soon(make_disk, tmp_path / str(index) / "upper.ext4", 16, tmp_path / "templates")
    assert [path.name for path in (tmp_path / "templates").iterdir()] == ["ext4-16.template"]
    for index in range(5):
        disk = tmp_path / str(index) / "upper.ext4"
        await trio.run_process(["e2fsck", "-fn", str(disk)], capture_stdout=True, capture_stderr=True)


async def test_without_mke2fs_the_error_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problem, match="mke2fs is not installed") as caught:
        await make_disk(tmp_path / "upper.ext4", 64, tmp_path / "templates")
    assert "e2fsprogs" in (caught.value.fix or "")
