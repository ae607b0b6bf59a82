"""A monitor's own files stay small on disk though it writes on where it was; a disk that is full is told."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from actors.vm.files import FREE_SPACE, first_full, last_words, shed, size, stored, unwritable

LIMIT = 64 * 1024


def test_the_older_part_of_a_file_goes_and_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "vmm.log"
    assert not shed(path, LIMIT)
    with path.open("wb", buffering=0) as writer:
        for _ in range(40):
            writer.write(b"x" * 4095 + b"\n")
        before = size(path)
        assert shed(path, LIMIT)
        assert size(path) == before
        assert stored(path) <= LIMIT
        assert not shed(path, LIMIT)
        writer.write(b"the end\n")
    assert path.read_bytes().endswith(b"x\nthe end\n")
    assert last_words(path, 100).endswith("the end")
    assert path.read_bytes()[:4096] == bytes(4096)


def test_a_full_disk_is_told_as_such_and_what_else_goes_wrong_is_not(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        problem = unwritable(OSError(number, os.strerror(number), "/some/file"), tmp_path)
        assert (problem.code, problem.status) == ("disk-full", 507)
        assert problem.fix == FREE_SPACE
        assert "/some/file" in problem.detail
    other = unwritable(OSError(errno.EROFS, "Read-only file system"), tmp_path)
    assert (other.code, other.fix) == ("failed", None)
    assert str(tmp_path) in other.detail


def test_a_disk_that_takes_nothing_more_is_found(tmp_path: Path) -> None:
    assert first_full(tmp_path, tmp_path / "missing") is None
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small file system")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k,nr_inodes=4", "tmpfs", str(small)], check=True)
    try:
        assert first_full(tmp_path, small) is None
        (small / "bytes").write_bytes(bytes(96 * 1024))
        assert first_full(tmp_path, small) == small
        (small / "bytes").write_bytes(b"")
        for index in range(2):
            (small / str(index)).touch()
        assert first_full(tmp_path, small) == small
    finally:
        subprocess.run(["umount", str(small)], check=True)
