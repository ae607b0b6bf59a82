"""The last figures of a monitor: found behind holes, cut lines and anything else; written when a guest ends."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.vm.cgroup import Cgroup
from actors.vm.figures import last_figures, read_last_figures
from actors.vm.firecracker import Firecracker
from actors.vm.guest import FIGURES
from actors.vm.launch import launch
from actors.vm.machine import MachineSpec
from tests.actors.vm.waiting import until

OBJECTS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4)


@given(st.lists(OBJECTS, max_size=5), st.binary(max_size=30), st.integers(0, 40))
def test_the_last_whole_object_is_found(objects: list[dict[str, Any]], before: bytes, cut: int) -> None:
    lines = [json.dumps(item).encode() for item in objects]
    whole = before.replace(b"\n", b"") + bytes(5000) + b"\n" + b"".join(line + b"\n" for line in lines)
    assert last_figures(whole) == (objects[-1] if objects else last_figures(before))
    torn = whole + (b'{"a": ' + b"1" * 40)[: 1 + cut]
    assert last_figures(torn) == last_figures(whole)


@given(st.binary(max_size=200))
def test_anything_can_be_in_the_file(content: bytes) -> None:
    found = last_figures(content)
    assert found is None or isinstance(found, dict)
    assert last_figures(b"[" * 100_000) is None


def test_only_the_end_of_the_file_is_read(tmp_path: Path) -> None:
    assert read_last_figures(tmp_path / "none") is None
    with (tmp_path / "file").open("wb") as file:
        file.write(b'{"first": 1}\n')
        file.truncate(1 << 40)
    assert read_last_figures(tmp_path / "file") is None
    with (tmp_path / "file").open("ab") as file:
        file.write(b'\n{"last": 1}\n{"torn')
    assert read_last_figures(tmp_path / "file") == {"last": 1}


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="zwf-"))
    yield path
    shutil.rmtree(path)


async def test_what_a_machine_did_last_is_on_disk_when_it_is_over(folder: Path) -> None:
    binary, kernel = (os.environ.get(f"ZEITWORK_TEST_{name}") for name in ("FIRECRACKER", "MINIMAL_GUEST"))
    if not binary or not kernel or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("needs ZEITWORK_TEST_FIRECRACKER, ZEITWORK_TEST_MINIMAL_GUEST and a writable /dev/kvm")
    firecracker = Firecracker(Path(binary))
    for way in ("obeys", "is killed"):
        base = folder / way.replace(" ", "-")
        spec = MachineSpec(
            id=uuid4(),
            vcpu=1,
            memory=64,
            kernel=Path(kernel),
            initrd=None,
            cmdline="console=ttyS0",
            drives=(),
            nic=None,
            console=base / "console.log",
            log=base / "vmm.log",
            run=base / "run",
            cgroup=f"zeitwork-t{folder.name[-6:]}/machine",
        )
        process, _ = await launch(firecracker, spec)
        try:
            await until(lambda spec=spec: b"READY" in spec.console.read_bytes())  # type: ignore[misc]
            first = read_last_figures(base / FIGURES)
            assert first is not None
            if way == "obeys":
                await firecracker.request_shutdown(spec.run, 0)
                with trio.fail_after(120):
                    assert await process.wait() == 0
            else:
                # It is paused, so it does not obey; what it did is written because it was asked twice.
                await firecracker.pause(spec.run)
                await firecracker.request_shutdown(spec.run, 1)
        finally:
            await process.kill()
            process.close()
            Cgroup.of(spec.cgroup).remove()
        last = read_last_figures(base / FIGURES)
        assert last is not None
        assert last["utc_timestamp_ms"] > first["utc_timestamp_ms"]
        assert last["vcpu"]["exit_io_out"] > 0
