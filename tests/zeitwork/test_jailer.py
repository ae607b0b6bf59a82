"""Which jailer a host takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.model.errors import InvalidInput
from zeitwork import tree
from zeitwork.config import Config, load
from zeitwork.tree import find_jailer


@pytest.fixture(autouse=True)
def no_chroot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeitwork.tree.jail_possible", lambda: True)


def found(tmp_path: Path, **flags: str) -> Path | None:
    config = load({"data_dir": str(tmp_path), "firecracker": str(tmp_path / "firecracker"), **flags})
    return find_jailer(config, config.paths)


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run where devices are forbidden."""
    monkeypatch.setattr(tree.shutil, "which", lambda name: None)
    monkeypatch.setattr(os, "statvfs", lambda path: type("Flags", (), {"f_flag": 0}))


def test_the_one_beside_firecracker_then_the_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(tmp_path) is None
    monkeypatch.setattr(tree.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert found(tmp_path) == Path("/usr/bin/jailer")
    (tmp_path / "jailer").touch()
    assert found(tmp_path) == tmp_path / "jailer"
    assert found(tmp_path, jailer="off") is None
    assert found(tmp_path, jailer="/opt/jailer") == Path("/opt/jailer")


@pytest.mark.parametrize("flag", [os.ST_NODEV, os.ST_NOEXEC])
def test_none_by_itself_where_jails_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: int) -> None:
    (tmp_path / "jailer").touch()
    monkeypatch.setattr(os, "statvfs", lambda path: type("Flags", (), {"f_flag": flag}))
    assert found(tmp_path) is None
    assert found(tmp_path, jailer="/opt/jailer") == Path("/opt/jailer")


def test_users_of_machines_fit_below_the_largest() -> None:
    assert Config().vm_uid_base == 1_900_000_000
    assert load({"vm_uid_base": "500000000"}).vm_uid_base == 500_000_000
    for value in ("0", "2147483647", "many"):
        with pytest.raises(InvalidInput) as caught:
            load({"vm_uid_base": value})
        assert caught.value.field == "vm_uid_base"


def test_none_by_itself_in_a_chroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jailer").touch()
    assert found(tmp_path) == tmp_path / "jailer"
    monkeypatch.setattr("zeitwork.tree.jail_possible", lambda: False)
    assert found(tmp_path) is None
    assert found(tmp_path, jailer="/opt/jailer") == Path("/opt/jailer")
