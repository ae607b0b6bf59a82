"""Files of saved machines: what is in them stays, zeros take no place, and nothing stays open or half-made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.model.errors import Failed
from actors.vm.files import stored
from actors.vm.saved import MEMORY, STATE, check_saved, dig, offered

PAGE = 4096
#: Runs of bytes, most of them zeros, in lengths about those that are looked at.
RUNS = st.lists(st.tuples(st.sampled_from([0, 0, 0, 7]), st.integers(0, 40 * PAGE)), max_size=8)


@given(RUNS)
def test_what_is_in_a_file_stays_when_its_zeros_are_given_back(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "dug"
    content = b"".join(bytes([value]) * length for value, length in runs)
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDWR)
    try:
        dig(descriptor)
    finally:
        os.close(descriptor)
    assert path.read_bytes() == content


def test_zeros_take_no_place(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(b"x" * PAGE + bytes(8 << 20) + b"x" * PAGE + bytes(1 << 20))
    before = stored(path)
    with path.open("r+b") as file:
        dig(file.fileno())
    if stored(path) == before:
        pytest.skip("this file system makes no holes")
    assert stored(path) <= 4 * 64 * 1024


def held(folder: Path) -> list[str]:
    """Return what this process has open in a folder. Other threads open and close what they like meanwhile."""
    names = []
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115
    return [name for name in names if name.startswith(str(folder))]


def here(tmp_path: Path) -> Path | None:
    return None


def jail(tmp_path: Path) -> Path | None:
    (tmp_path / "jail").mkdir()
    return tmp_path / "jail"


@pytest.mark.parametrize("where", [here, jail])
@pytest.mark.parametrize("way", ["well", "failed", "cancelled"])
async def test_nothing_stays_open_or_in_the_jail(
    tmp_path: Path, way: str, where: Callable[[Path], Path | None]
) -> None:
    target, root = tmp_path / "target", where(tmp_path)
    target.mkdir()
    with trio.CancelScope() as scope:
        try:
            async with offered(target, (STATE, MEMORY), jail=root, sparse=(MEMORY,)) as offer:
                assert held(tmp_path)
                for name in (STATE, MEMORY):
                    known = offer.known(name)
                    (known if root is None else root / known).write_bytes(b"guest" + bytes(1 << 20))
                if way == "failed":
                    raise Failed("the monitor's own words")
                if way == "cancelled":
                    scope.cancel()
                    await trio.sleep_forever()
        except Failed as error:
            assert way == "failed"
            assert error.detail == "the monitor's own words"
        else:
            assert way == "well"
    assert scope.cancelled_caught == (way == "cancelled")
    assert held(tmp_path) == []
    assert root is None or not list(root.iterdir())
    if way == "well":
        check_saved(target, (STATE, MEMORY))
        for name in (STATE, MEMORY):
            assert (target / name).read_bytes() == b"guest" + bytes(1 << 20)
            assert (target / name).stat().st_mode & 0o777 == 0o444


async def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    """A monitor that was taken over by its guest must not have the host write somewhere else."""
    victim, root, target = tmp_path / "victim", tmp_path / "jail", tmp_path / "target"
    victim.write_text("mine")
    victim.chmod(0o600)
    for directory in (root, target):
        directory.mkdir()
    (root / f"saved.{MEMORY}").symlink_to(victim)
    (target / STATE).symlink_to(victim)
    async with offered(target, (MEMORY,), jail=root) as offer:
        (root / offer.known(MEMORY)).write_bytes(b"guest")
        # Changed while it is open: what was made first is what counts.
        (root / offer.known(MEMORY)).unlink()
        (root / offer.known(MEMORY)).symlink_to(victim)
    assert (target / MEMORY).read_bytes() == b"guest"
    with pytest.raises(Failed, match="File exists"):
        async with offered(target, (STATE,), jail=root):
            pass
    assert victim.read_text() == "mine"
    assert victim.stat().st_mode & 0o777 == 0o600


async def test_a_full_disk_is_said_with_its_code(tmp_path: Path) -> None:
    with pytest.raises(Failed) as caught:
        async with offered(tmp_path, (STATE,)):
            raise OSError(28, "No space left on device")
    assert caught.value.code == "disk-full"
    assert caught.value.fix
