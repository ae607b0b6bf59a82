"""The distribution's kernel packages, by way of apt: which is newest, its download, its unpacking."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from actors.model.errors import Failed, Unavailable

#: Tried in this order: Debian's kernel for virtual machines, its general one, Ubuntu's for virtual machines.
META_PACKAGES = ("linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual")

_QUICK = 60.0  # seconds for a question to apt's own files
_DOWNLOAD = 1800.0  # seconds: 27-110 MB over a slow line
_UNPACK = 300.0
_IMAGE = re.compile(r"linux-image-(?:unsigned-)?\d[0-9A-Za-z.+-]*")
_MODULES = re.compile(r"linux-modules-\d[0-9A-Za-z.+-]*")
_STALE = "run: apt-get update, then zeitwork setup again"


@dataclass(frozen=True, slots=True)
class Package:
    """One package file as apt's signed index describes it. ``size`` in bytes."""

    name: str
    version: str
    sha256: str
    size: int


def newest_kernel() -> tuple[Package, ...]:
    """Return the package with the newest guest kernel, followed by those with its modules when they are apart.

    Raises `Unavailable` when this machine has no apt or apt knows no kernel.
    """
    for meta in META_PACKAGES:
        image = _depends(meta, _IMAGE)
        if image:
            return tuple(_describe(name) for name in (image[0], *_depends(image[0], _MODULES)))
    raise Unavailable(
        f"apt knows no kernel package (none of {', '.join(META_PACKAGES)})",
        fix=f"{_STALE}; or give a kernel with --kernel",
        code="guest-kernel-unavailable",
    )


def download(package: Package, folder: Path) -> Path:
    """Download a package into ``folder`` and return its file.

    apt checks the file against its index and the index against the distribution's signature; an unsigned source is
    refused whatever apt's own configuration says. The checksum is compared once more here. Raises `Unavailable`.
    """
    _apt(
        "apt-get",
        "--quiet",
        "-o",
        "APT::Get::AllowUnauthenticated=false",
        "-o",
        "APT::Sandbox::User=root",  # the folder is private, and apt's own user could not write there
        "download",
        f"{package.name}={package.version}",
        folder=folder,
        deadline=_DOWNLOAD,
    )
    found = sorted(folder.glob("*.deb"))
    if len(found) != 1:
        raise Failed(f"apt-get download {package.name} left {len(found)} files instead of one")
    with open(found[0], "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum != package.sha256:
        raise Failed(f"{package.name}: the file's SHA-256 is {checksum}, apt's index says {package.sha256}", fix=_STALE)
    return found[0]


def unpack(archive: Path, folder: Path) -> None:
    """Extract a package's files below ``folder``; none of its scripts run. Raises `Failed`."""
    result = _run(["dpkg-deb", "--extract", str(archive), str(folder)], folder, _UNPACK)
    if result.returncode != 0:
        raise Failed(f"cannot unpack {archive.name}: {_last_line(result.stderr)}")


def _depends(package: str, wanted: re.Pattern[str]) -> list[str]:
    """Return the direct dependencies of ``package`` that match, or none when apt does not know it."""
    try:
        lines = _apt("apt-cache", "--quiet", "depends", "--important", package).splitlines()
    except Unavailable as error:
        if error.code == "apt-missing":
            raise
        return []
    names = (line.partition("Depends:")[2].strip() for line in lines if "Depends:" in line)
    return [name for name in names if wanted.fullmatch(name)]


def _describe(name: str) -> Package:
    """Return what apt would download for ``name``, its candidate version. Raises `Unavailable` without one."""
    policy = _apt("apt-cache", "--quiet", "policy", name)
    candidate = re.search(r"^\s*Candidate:\s*(\S+)", policy, re.MULTILINE)
    version = candidate[1] if candidate else "(none)"
    if version != "(none)":
        record = _apt("apt-cache", "--quiet", "show", f"{name}={version}")
        checksum = re.search(r"^SHA256:\s*([0-9a-f]{64})$", record, re.MULTILINE)
        size = re.search(r"^Size:\s*(\d+)$", record, re.MULTILINE)
        if checksum and size:
            return Package(name, version, checksum[1], int(size[1]))
    raise Unavailable(f"apt can't download {name}", fix=_STALE, code="guest-kernel-unavailable")


def _apt(*argv: str, folder: Path | None = None, deadline: float = _QUICK) -> str:
    result = _run(list(argv), folder, deadline)
    if result.returncode != 0:
        raise Unavailable(f"{argv[0]} failed: {_last_line(result.stderr)}", fix=_STALE, code="guest-kernel-unavailable")
    return result.stdout


def _run(argv: list[str], folder: Path | None, deadline: float) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        return subprocess.run(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline,
            check=False,
        )
    except FileNotFoundError as error:
        raise Unavailable(
            f"this machine has no {argv[0]}", fix="give a guest kernel with --kernel", code="apt-missing"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"{argv[0]} did not end within {deadline:.0f} seconds", fix=_STALE, code="guest-kernel-unavailable"
        ) from error


def _last_line(text: str) -> str:
    """Return apt's last error line, which names the cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E:")]
    return (errors or lines or ["no message"])[-1].removeprefix("E:").strip()
