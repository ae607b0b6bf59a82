"""Who uses a data directory now: the host process, its Postgres, and every VM."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

_MONITORS = ("qemu", "firecracker")
_GROUP = re.compile(r"/zeitwork(?:-[a-z0-9]+)?/([a-z0-9._-]+)$", re.MULTILINE)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has something below a directory open. ``what`` says what it is, ``path`` one thing it holds."""

    pid: int
    name: str
    what: str
    path: Path

    def __str__(self) -> str:
        return f"{self.what} (process {self.pid}, {self.name}, holds {self.path})"


def holders(folders: tuple[Path, ...], processes: Path = Path("/proc")) -> tuple[Holder, ...]:
    """Return the processes, other than this one, that run from or have open anything below these directories."""
    roots = tuple(str(folder.resolve()) for folder in folders)
    found = []
    for entry in sorted(processes.iterdir(), key=lambda path: (len(path.name), path.name)):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        held = _held(entry, roots)
        if held is not None:
            name = _read(entry / "comm").strip() or "?"
            found.append(Holder(int(entry.name), name, _what(name, held), Path(held)))
    return tuple(found)


def virtual_machines(processes: Path = Path("/proc")) -> tuple[Holder, ...]:
    """Return the VMs of every Zeitwork host on this machine, whichever data directory they belong to.

    Their monitors are in control groups of their own, so they are found also when their host was killed.
    """
    found = []
    for entry in sorted(processes.iterdir(), key=lambda path: (len(path.name), path.name)):
        name = _read(entry / "comm").strip() if entry.name.isdecimal() else ""
        if not name.startswith(_MONITORS):
            continue
        group = _GROUP.search(_read(entry / "cgroup"))
        if group is not None:
            found.append(Holder(int(entry.name), name, f"a VM, {group[1]}", Path(group[0])))
    return tuple(found)


def _held(process: Path, roots: tuple[str, ...]) -> str | None:
    links = [process / "exe", process / "cwd"]
    with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
        links += list((process / "fd").iterdir())
    held = []
    for link in links:
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if any(target == root or target.startswith(f"{root}/") for root in roots):
            held.append(target)
    # A disk of a placement tells most about a process.
    return min(held, key=lambda target: (_UUID.search(target) is None, target)) if held else None


def _what(name: str, held: str) -> str:
    placement = _UUID.search(held)
    if placement and name.startswith(_MONITORS):
        return f"a VM, placement {placement[0]}"
    if name == "postgres":
        return "the embedded Postgres"
    return "zeitwork" if name.startswith(("zeitwork", "python")) else "a program"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
