"""A monitor's own cgroup, outside of our service's: what ends our service must not end virtual machines.

Version 2, version 1 and both at once ("hybrid") are served alike: the group is made below every hierarchy that is
mounted and writable, and each limit is set where its controller is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from actors.vm.limits import CONTROLLERS, Limits

_MOUNTINFO = Path("/proc/self/mountinfo")
#: Seconds for the kernel to notice that a group's last process is gone.
_REMOVE_DEADLINE = 2.0
#: Where versions 2 and 1 count what the kernel ended.
_OOM_COUNTERS = ("memory.events", "memory.oom_control")
_CPUSET = ("cpuset.cpus", "cpuset.mems")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One group, named relative to each hierarchy's root: ``zeitwork/abcdefghij``."""

    name: str
    roots: tuple[Path, ...]

    @classmethod
    def of(cls, name: str, mountinfo: Path = _MOUNTINFO) -> Cgroup:
        """Return the group in all hierarchies that this process sees."""
        return cls(name, hierarchies(mountinfo.read_text()))

    def create(self) -> tuple[Path, ...]:
        """Make the group; return the ``cgroup.procs`` files that a process must enter. Blocking.

        Hierarchies that refuse are left out: a container may mount them read-only.
        """
        entries = []
        for root in self.roots:
            directory = root / self.name
            try:
                _make(directory, root)
            except OSError:
                continue
            entries.append(directory / "cgroup.procs")
        return tuple(entries)

    def limit(self, limits: Limits) -> tuple[str, ...]:
        """Set the limits of a group just made, before anybody enters; return what could not be set and why. Blocking.

        A host without a controller still runs machines: whoever calls this says so in the log.
        """
        unset = dict.fromkeys(CONTROLLERS, "no such controller")
        for root in self.roots:
            directory, unified = root / self.name, _is_unified(root)
            refused: dict[str, str] = {}
            for setting in limits.settings(unified=unified):
                file = directory / setting.file
                if not file.exists():
                    continue
                unset.pop(setting.controller, None)
                try:
                    file.write_text(setting.value)
                except OSError as error:
                    refused[setting.controller] = f"{setting.file}: {error.strerror}"
            unset.update(refused)
        return tuple(f"{controller} ({why})" for controller, why in sorted(unset.items()))

    def members(self) -> frozenset[int]:
        """Return the processes in the group, in whichever hierarchy. Blocking."""
        found: set[int] = set()
        for root in self.roots:
            try:
                text = (root / self.name / "cgroup.procs").read_text()
            except OSError:
                continue
            found.update(int(word) for word in text.split())
        return frozenset(found)

    def oom_kills(self) -> int:
        """Return how many processes of the group the kernel has ended for want of memory, 0 when it can't say.

        Blocking. The kernel counts them for the victim's group, whoever ran out: the group or the whole machine.
        """
        counts = [0]
        for root in self.roots:
            for name in _OOM_COUNTERS:
                try:
                    text = (root / self.name / name).read_text()
                except OSError:
                    continue
                found = [line.split() for line in text.splitlines()]
                counts += [int(words[1]) for words in found if len(words) == 2 and words[0] == "oom_kill"]
        return max(counts)

    def remove(self) -> None:
        """Remove the group, and its parent once that is empty. Blocking; idempotent.

        Raises `OSError` when processes are still in it after two seconds.
        """
        deadline = time.monotonic() + _REMOVE_DEADLINE
        for root in self.roots:
            directory = root / self.name
            while True:
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    pass
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
                    continue
                break
            try:
                directory.parent.rmdir()
            except OSError:
                continue  # another virtual machine is there, or it is gone already


def hierarchies(mountinfo: str) -> tuple[Path, ...]:
    """Return the mount points of cgroup hierarchies in the text of ``/proc/self/mountinfo``, each once."""
    found: dict[Path, None] = {}
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        if separator and after.split(" ", 1)[0] in ("cgroup", "cgroup2"):
            found[Path(before.split(" ")[4].replace("\\040", " "))] = None
    return tuple(found)


def groups_below(parent: str, roots: tuple[Path, ...]) -> frozenset[str]:
    """Return the names of groups below ``parent`` (``zeitwork``) in any hierarchy. Blocking."""
    found: set[str] = set()
    for root in roots:
        try:
            found.update(entry.name for entry in (root / parent).iterdir() if entry.is_dir())
        except OSError:
            continue
    return frozenset(found)


def is_member(pid: int, name: str) -> bool:
    """Return whether a process is in the group ``name`` of any hierarchy. Blocking, reads ``/proc`` only."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return False
    return any(line.split(":", 2)[-1].endswith(f"/{name}") for line in lines)


def _make(directory: Path, root: Path) -> None:
    for _ in range(3):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            break
        except FileNotFoundError:
            continue  # another host removed the empty parent in between
    else:
        directory.mkdir()
    if _is_unified(root):
        _enable(root, directory)
    # A v1 cpuset accepts nobody until it says which CPUs and memory nodes it has.
    elif (root / "cpuset.cpus").exists():
        for group in (directory.parent, directory):
            for name in _CPUSET:
                if not (group / name).read_text().strip():
                    (group / name).write_text((group.parent / name).read_text())


def _is_unified(root: Path) -> bool:
    """Version 2 has this file everywhere, version 1 nowhere."""
    return (root / "cgroup.controllers").exists()


def _enable(root: Path, directory: Path) -> None:
    """Pass controllers down from the root of version 2 to ``directory``, as far as they go and are allowed to."""
    for group in reversed(directory.parents):
        if group != root and root not in group.parents:
            continue
        try:
            there = (group / "cgroup.controllers").read_text().split()
        except OSError:
            return
        for controller in CONTROLLERS:
            if controller in there:
                try:
                    (group / "cgroup.subtree_control").write_text(f"+{controller}")
                except OSError:
                    continue  # refused where processes live in the group itself; its absence is told with the limits
