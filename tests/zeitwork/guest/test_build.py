"""The committed init is what its sources give."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from zeitwork.guest.initramfs import init_binary

GUEST = Path(__file__).parents[3] / "zeitwork" / "guest"
COMPILER = "gcc (Debian 12.2.0"


@pytest.mark.skipif(shutil.which("musl-gcc") is None, reason="musl-tools is not installed")
def test_the_committed_init_is_built_from_these_sources(tmp_path: Path) -> None:
    version = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    if not version.startswith(COMPILER):
        pytest.skip(f"another compiler gives other bytes: {version.splitlines()[0]}")
    sources = tmp_path / "elsewhere"  # the path must not be part of the result
    shutil.copytree(GUEST, sources, ignore=shutil.ignore_patterns("__pycache__", "init.x86_64"))
    subprocess.run([sources / "build.sh", tmp_path / "init"], check=True, timeout=120)
    built = hashlib.sha256((tmp_path / "init").read_bytes()).hexdigest()
    assert built == hashlib.sha256(init_binary()).hexdigest(), "run zeitwork/guest/build.sh and commit init.x86_64"


def test_the_init_is_small_and_static() -> None:
    init = init_binary()
    assert init.startswith(b"\x7fELF\x02\x01")
    assert len(init) < 96 * 1024
    assert b"ld-musl" not in init
