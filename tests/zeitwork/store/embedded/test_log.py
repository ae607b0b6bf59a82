"""The server's log on disk."""

from __future__ import annotations

import os
from pathlib import Path

from zeitwork.store.embedded.log import last_words, open_log, rotate, size


def test_rotation_keeps_a_few_and_the_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "postgres.log"
    descriptor = open_log(path)
    for number in range(4):
        os.write(descriptor, f"part {number}\n".encode() * 10)
        assert rotate(path, limit=50)
        assert not rotate(path, limit=50)
    os.write(descriptor, b"the end\n")
    os.close(descriptor)
    assert path.read_text() == "the end\n"
    assert (tmp_path / "postgres.log.1").read_text().startswith("part 3")
    assert (tmp_path / "postgres.log.2").read_text().startswith("part 2")
    assert len(list(tmp_path.iterdir())) == 3


def test_last_words_are_the_errors(tmp_path: Path) -> None:
    path = tmp_path / "postgres.log"
    path.write_text("2026 [1] LOG:  earlier\n2026 [1] FATAL:  old\n")
    start = size(path)
    with path.open("a") as file:
        file.write("2026 [2] LOG:  starting\n2026 [2] FATAL:  could not open port\n2026 [2] LOG:  bye\n")
    assert last_words(path, start) == "FATAL:  could not open port"
    assert last_words(tmp_path / "absent", 0) == ""
    assert size(tmp_path / "absent") == 0


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    try:
        open_log(tmp_path / "log")
    except OSError:
        assert not (tmp_path / "elsewhere").exists()
    else:
        raise AssertionError("the link was followed")
