"""The highest epoch that a host has seen, on its own disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from zeitwork.epochs import EpochFile


async def test_what_was_kept_is_there_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "epoch"
    file = EpochFile(path)
    assert await file.load() == 0
    await file.keep(7)
    await file.keep(3)  # only ever higher
    assert await EpochFile(path).load() == 7
    assert [one.name for one in await trio.Path(tmp_path).iterdir()] == ["epoch"]


@pytest.mark.parametrize("content", [b"", b"x", b"\xff\xfe", b"-3\n", b"1.5"])
async def test_what_cannot_be_understood_is_no_epoch_and_mends_itself(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "epoch"
    path.write_bytes(content)
    file = EpochFile(path)
    assert await file.load() == 0
    await file.keep(2)
    assert await EpochFile(path).load() == 2


async def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    file = EpochFile(tmp_path / "missing" / "epoch")
    with pytest.raises(OSError, match="No such file"):
        await file.keep(1)
