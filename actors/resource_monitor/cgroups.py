"""Where this process is in the control groups, version 1, 2 or both, seen from inside a container too.

All readers of this package take ``root``, the directory that stands for ``/``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class Groups:
    """One hierarchy's groups from a process's own up to the highest that can be seen. ``version`` is 1 or 2."""

    version: int
    directories: tuple[Path, ...]


def own_groups(controller: str, root: Path = Path("/")) -> tuple[Groups, ...]:
    """Return the hierarchies in which ``controller`` (``cpu``, ``memory``) may be limited for this process.

    Both versions can be mounted at once; a controller is in one of them, and a limit in either counts.
    """
    return groups_of(controller, "self", root)


def groups_of(controller: str, process: str, root: Path = Path("/")) -> tuple[Groups, ...]:
    """Return the same for another process, by its PID; nothing when that has ended."""
    paths = _paths(process, root)
    found = []
    for mount in _mounts(root):
        if mount.version == 1 and controller not in mount.controllers:
            continue
        own = paths.get(controller if mount.version == 1 else "")
        if own is not None:
            found.append(Groups(mount.version, _upwards(mount, own)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Mount:
    version: int
    controllers: frozenset[str]
    point: Path
    root: PurePosixPath  # which group is mounted here


def _paths(process: str, root: Path) -> dict[str, PurePosixPath]:
    """Return the group of a process by controller; that of version 2 under the empty name."""
    paths = {}
    for line in _lines(root / "proc" / process / "cgroup"):
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                paths[controller] = PurePosixPath(parts[2])
    return paths


def _mounts(root: Path) -> list[_Mount]:
    mounts = []
    for line in _lines(root / "proc/self/mountinfo"):
        before, separator, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if not separator or len(left) < 5 or len(right) < 3 or right[0] not in ("cgroup", "cgroup2"):
            continue
        mounts.append(
            _Mount(
                version=2 if right[0] == "cgroup2" else 1,
                controllers=frozenset(right[2].split(",")),
                point=root / _plain(left[4]).lstrip("/"),
                root=PurePosixPath(_plain(left[3])),
            )
        )
    return mounts


def _upwards(mount: _Mount, own: PurePosixPath) -> tuple[Path, ...]:
    """Return the directories of ``own`` and its ancestors, as far up as ``mount`` shows."""
    try:
        below = own.relative_to(mount.root)
    except ValueError:
        # In a container without a cgroup namespace the path is the machine's, and what is mounted is ours.
        below = PurePosixPath()
    if ".." in below.parts:
        below = PurePosixPath()
    directory = mount.point / below
    chain = [directory]
    while chain[-1] != mount.point:
        chain.append(chain[-1].parent)
    return tuple(item for item in chain if item.is_dir())


def _plain(field: str) -> str:
    """Undo the octal escapes of mountinfo."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def _lines(file: Path) -> list[str]:
    text = read_text(file)
    return text.splitlines() if text else []


def read_text(file: Path) -> str | None:
    """Return a kernel file's text, None when it is not there or may not be read."""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def read_number(file: Path) -> int | None:
    """Return a kernel file's number, None when it is not there or says something else (``max``)."""
    text = read_text(file)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return None
