"""A monitor's own files stay small on disk though it writes on where it was."""

from __future__ import annotations

from pathlib import Path

from actors.vm.files import last_words, shed, size, stored

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
