"""A machine made of files: what the kernel would show under /proc and /sys."""

from __future__ import annotations

from pathlib import Path

GIB = 1 << 30
UNLIMITED_V1 = 9223372036854771712
MEMINFO = (
    "MemTotal:       16777216 kB\nMemFree:         1000000 kB\nMemAvailable:   12582912 kB\nHugePages_Total:       3\n"
)


class Machine:
    """``root`` stands for ``/``. 16 GiB of memory, of which 12 are available, until told otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mounts: list[str] = [
            "22 1 0:21 / /proc rw - proc proc rw",
            "23 1 0:22 / /tmp rw shared:5 - tmpfs tmpfs rw",
        ]
        self.groups: list[str] = []
        self.write("proc/meminfo", MEMINFO)
        self._tell()

    def write(self, path: str, content: object) -> None:
        """Make a file. It is never seen half-written: like the kernel's, it may be read at any time."""
        file, new = self.root / path, self.root / ".new"
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(f"{content}\n")
        new.replace(file)

    def v1(self, controllers: str, own: str, point: str | None = None, root: str = "/") -> None:
        """Mount a hierarchy of version 1 and be in its group ``own``."""
        point = point or f"/sys/fs/cgroup/{controllers}"
        self.mounts.append(f"31 1 0:30 {root} {point} rw,relatime shared:9 - cgroup cgroup rw,{controllers}")
        self.groups.append(f"{len(self.groups) + 2}:{controllers}:{own}")
        (self.root / point.lstrip("/")).mkdir(parents=True, exist_ok=True)
        self._tell()

    def v2(self, own: str, point: str = "/sys/fs/cgroup", root: str = "/") -> None:
        """Mount the hierarchy of version 2 and be in its group ``own``."""
        self.mounts.append(f"32 1 0:31 {root} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate")
        self.groups.append(f"0::{own}")
        (self.root / point.lstrip("/")).mkdir(parents=True, exist_ok=True)
        self._tell()

    def _tell(self) -> None:
        self.write("proc/self/mountinfo", "\n".join(self.mounts))
        self.write("proc/self/cgroup", "\n".join(self.groups))
