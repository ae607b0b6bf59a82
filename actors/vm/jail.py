"""A monitor's jail: a root directory with what its machine needs and nothing else, for a user of its own."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from actors.model.crash_points import CrashPoint
from actors.model.network import Lease
from actors.vm.files import refused
from actors.vm.limits import ResourceLimits
from actors.vm.machine import Command, Drive, JailSpec, MachineSpec
from runtime import crash

#: Name of the directory of jails in a placement's directory, and of a snapshot's files in one of them.
JAIL, RESTORE = "jail", "restore"
#: First user and group of guests' monitors, beyond those that distributions, containers and systemd hand out.
UID_BASE = 1_900_000_000
_UID_BITS = 24
_TUN = Path("/dev/net/tun")
_NETWORKS = Path("/sys/class/net")
_TUNSETIFF, _TUNSETOWNER = 0x400454CA, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_MS_BIND, _MNT_DETACH = 0x1000, 2
_MOUNTINFO = Path("/proc/self/mountinfo")
#: Why a hard link may not be had where a bind mount may.
_ELSEWHERE = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)
_LIBC = ctypes.CDLL(None, use_errno=True)


def possible(mountinfo: Path = Path("/proc/self/mountinfo")) -> bool:
    """Return whether the jailer can work in this process's view of the file system.

    It makes ``/`` a slave mount and pivots, and the kernel refuses both where ``/`` is no mount point: in a chroot.
    """
    return any(line.split()[4:5] == ["/"] for line in mountinfo.read_text().splitlines())


def vm_uid(base: int, lease: Lease) -> int:
    """Return the user and group of a placement's monitor, unique for as long as its address is: it follows from it."""
    return base + int(lease.v4) % (1 << _UID_BITS)


@dataclass(frozen=True, slots=True)
class Jail:
    """The jail of one machine whose monitor is the program ``binary``; ``id`` names it among those of that program."""

    spec: MachineSpec
    where: JailSpec
    binary: Path

    @property
    def id(self) -> str:
        """Letters, digits and hyphens."""
        return re.sub(r"[^A-Za-z0-9-]", "-", self.spec.run.name)[:60] or "vm"

    @property
    def root(self) -> Path:
        """The directory that is ``/`` inside."""
        return self.where.base / self.binary.name / self.id / "root"

    def inside(self) -> MachineSpec:
        """Return the machine as its monitor, which works in the jail's root, sees it: all paths begin there. Pure."""
        spec = self.spec
        return replace(
            spec,
            kernel=Path("kernel"),
            initrd=None if spec.initrd is None else Path("initrd"),
            drives=tuple(Drive(drive.name, known_as(drive), drive.read_only) for drive in spec.drives),
            log=Path("vmm.log"),
            run=Path(),
            restore=None if spec.restore is None else Path(RESTORE),
        )

    def command(self, jailer: Path, arguments: tuple[str, ...]) -> Command:
        """Return how to start its monitor with ``arguments``. The process stays the one that is started."""
        limits = ResourceLimits.of(self.spec)
        argv = (
            str(jailer),
            *("--id", self.id, "--exec-file", str(self.binary)),
            *("--uid", str(self.where.uid), "--gid", str(self.where.uid)),
            *("--chroot-base-dir", str(self.where.base)),
            *("--resource-limit", f"no-file={limits.files}", "--resource-limit", f"fsize={limits.file_size}"),
            "--",
            *arguments,
        )
        return Command(argv, stdout=self.spec.console)

    def build(self, sockets: tuple[str, ...], extra: tuple[Path, ...], snapshot: tuple[str, ...] = ()) -> None:
        """Make it, in the place of one that was left from before. Blocking. Raises `Failed`; then call `remove`.

        ``sockets`` are the monitor's, reached through links in the machine's run directory: their own paths are too
        long. ``extra`` are files beside the log that the monitor writes, known inside by their names, ``snapshot``
        names of files in the directory that the machine is restored from.
        """
        spec, inside, root, uid = self.spec, self.inside(), self.root, self.where.uid
        remove(self.where.base)
        try:
            root.mkdir(parents=True, mode=0o700)
            self.where.base.chmod(0o700)
            crash.point(CrashPoint.JAIL_BEGUN)
            _share(spec.kernel, root / inside.kernel)
            if spec.initrd is not None and inside.initrd is not None:
                _share(spec.initrd, root / inside.initrd)
            if spec.restore is not None and inside.restore is not None:
                (root / inside.restore).mkdir(mode=0o755)
                for name in snapshot:
                    _share(spec.restore / name, root / inside.restore / name)
            for drive, known in zip(spec.drives, inside.drives, strict=True):
                private = not drive.read_only or spec.run in drive.path.parents
                give: Callable[[Path, Path], None] = (lambda a, b: _give(a, b, uid)) if private else _share
                give(drive.path, root / known.path)
            crash.point(CrashPoint.JAIL_FILLED)
            _give(spec.log, root / inside.log, uid)
            for path in extra:
                _give(path, root / path.name, uid)
            for socket in sockets:
                relink(spec.run / socket, root / socket)
            if spec.nic is not None:
                own_tap(spec.nic.tap, uid)
        except OSError as error:
            where = error.filename or root
            raise refused(error, f"the jail of the machine can't be made: {error.strerror}: {where}") from error

    def settle(self) -> None:
        """Let go of what its monitor has opened by now and needs no name any more. Blocking. Raises `OSError`."""
        settle(self.where.base)
        restore = self.root / RESTORE
        if restore.exists():
            shutil.rmtree(restore)


def known_as(drive: Drive) -> Path:
    """Return a drive's name in the directory where its monitor works. The same for every machine.

    A snapshot names the files that were open, and must find its own ones wherever it is restored.
    """
    return Path(f"{drive.name}.drive")


def relink(link: Path, target: Path) -> None:
    """Make ``link`` lead to ``target``, whatever was there. Blocking. Raises `OSError`."""
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def settle(base: Path) -> None:
    """Unmount files of other file systems: what has been opened need not stay mounted. Blocking."""
    for target in reversed(_mounts(base)):
        if _LIBC.umount2(os.fsencode(target), _MNT_DETACH) != 0:
            number = ctypes.get_errno()
            if number in (errno.EINVAL, errno.ENOENT):
                continue  # somebody else was quicker
            raise OSError(number, os.strerror(number), str(target))


def remove(base: Path) -> None:
    """Remove a directory of jails and what is mounted in it. Blocking; idempotent. Raises `OSError`."""
    if not base.exists():
        return
    settle(base)
    shutil.rmtree(base)


def own_tap(name: str, uid: int) -> None:
    """Let the user ``uid``, who has no rights over networks, attach to an existing TAP. Blocking. Raises `OSError`."""
    if not (_NETWORKS / name).exists():
        return  # the monitor says so; here it would be made
    device = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(device, _TUNSETIFF, request)
        fcntl.ioctl(device, _TUNSETOWNER, uid)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None
    finally:
        os.close(device)


def _share(source: Path, target: Path) -> None:
    """Put a file that other machines read as well into a jail, as it is; a copy where its mode keeps others out."""
    if source.stat().st_mode & 0o004:
        try:
            _same(source, target)
            return
        except OSError as error:
            if error.errno not in (*_ELSEWHERE, errno.EACCES, errno.EBUSY):
                raise
            target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o444)


def _give(source: Path, target: Path, uid: int) -> None:
    """Put a file that is this machine's alone into its jail, and give it to its user."""
    os.chown(source, uid, uid)
    _same(source, target)


def _same(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``: by a hard link, on another file system by a mount."""
    try:
        target.hardlink_to(source.resolve())
    except OSError as error:
        if error.errno not in _ELSEWHERE:
            raise
        target.touch(mode=0o600)
        if _LIBC.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(_MS_BIND), None) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(source)) from None


def _mounts(base: Path) -> list[Path]:
    """Return what is mounted below ``base``, in the order in which it was."""
    found = []
    below = f"{base.resolve()}/"
    for line in _MOUNTINFO.read_text().splitlines():
        place = line.split(" ", 5)[4]
        if "\\" in place:
            place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)
        if place.startswith(below):
            found.append(Path(place))
    return found
