"""A step of setup: data, so that a plan can be shown, tested and refused before anything changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class InstallPackages:
    """Install Debian packages, after fetching package lists when there are none or old ones."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UnpackBusybox:
    """Put the static busybox of a Debian package at a path, without installing the package."""

    target: Path


@dataclass(frozen=True, slots=True)
class MakeGroup:
    """Make a system group."""

    name: str


@dataclass(frozen=True, slots=True)
class MakeUser:
    """Make a system user that nobody can log in as."""

    name: str


@dataclass(frozen=True, slots=True)
class MakeDirectories:
    """Make directories of root's, or give those that are there their mode."""

    wanted: tuple[tuple[Path, int], ...]


@dataclass(frozen=True, slots=True)
class FetchKernel:
    """Put the distribution's kernel, its modules and our initramfs under a directory; no package is installed."""

    target: Path


@dataclass(frozen=True, slots=True)
class BuildHello:
    """Make the bundled app's image archive."""

    target: Path


@dataclass(frozen=True, slots=True)
class FetchFirecracker:
    """Put the pinned Firecracker, or its jailer, at a path; the path's name says which."""

    target: Path


@dataclass(frozen=True, slots=True)
class LoadModule:
    """Load a kernel module now and at each boot."""

    name: str
    file: Path


@dataclass(frozen=True, slots=True)
class SetSysctls:
    """Write kernel settings to a file that holds after a reboot, and set them now. Order matters."""

    file: Path
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class InstallUnit:
    """Write and enable the systemd service."""

    file: Path
    text: str


Action = (
    InstallPackages
    | UnpackBusybox
    | MakeGroup
    | MakeUser
    | MakeDirectories
    | FetchKernel
    | BuildHello
    | FetchFirecracker
    | LoadModule
    | SetSysctls
    | InstallUnit
)


@dataclass(frozen=True, slots=True)
class Step:
    """One change.

    ``present`` says what is there now, ``change`` what will be, ``command`` how a person would do it, ``undo`` what
    ``zeitwork setup --remove`` does about it. A failure of an ``optional`` step is a warning.
    """

    name: str
    present: str
    change: str
    command: str
    undo: str
    action: Action
    optional: bool = False
