"""Carries a plan out, step by step. Every change is in the manifest before it is made."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from actors.model.errors import Failed, Problem, Unavailable
from zeitwork.setup import firecracker, forwarding, guest
from zeitwork.setup.apt import Apt
from zeitwork.setup.facts import is_static
from zeitwork.setup.layout import Layout
from zeitwork.setup.manifest import Entry, Manifest
from zeitwork.setup.options import SetupOptions
from zeitwork.setup.step import (
    Action,
    BuildHello,
    FetchFirecracker,
    FetchKernel,
    InstallPackages,
    InstallUnit,
    LoadModule,
    MakeDirectories,
    MakeGroup,
    MakeUser,
    SetSysctls,
    UnpackBusybox,
)
from zeitwork.setup.tools import Tools
from zeitwork.store.system_user import useradd_command

#: Seconds, for programs that only write a file or two.
QUICK = 60.0

#: `Entry.before` of users and groups that packages made.
OF_PACKAGES = "packages"

Line = Callable[[str], None]


class Executor:
    """Makes the changes of a plan on this machine."""

    def __init__(self, options: SetupOptions, tools: Tools, manifest: Manifest) -> None:
        self._options = options
        self._layout: Layout = options.layout
        self._tools = tools
        self._manifest = manifest

    def do(self, action: Action, line: Line) -> None:
        """Make one change. Raises a `Problem` when it can't be made; what was made of it is in the manifest."""
        match action:
            case InstallPackages(names):
                self._packages(names, line)
            case UnpackBusybox(target):
                self._busybox(target, line)
            case MakeGroup(name):
                self._account("group", name, ["groupadd", "--system", name])
            case MakeUser(name):
                self._account("user", name, useradd_command(name))
            case MakeDirectories(wanted):
                for path, mode in wanted:
                    self._directory(path, mode)
            case FetchKernel(target):
                self._made("tree", target, lambda: self._kernel(line))
            case BuildHello(target):
                self._made("file", target, lambda: guest.build_hello(self._options))
            case FetchFirecracker(target):
                self._made("file", target, lambda: firecracker.fetch(target, self._tools, line))
            case LoadModule(name, file):
                self._module(name, file)
            case SetSysctls(file, values):
                self._sysctls(file, values)
            case InstallUnit(file, text):
                self._unit(file, text)

    def _packages(self, names: tuple[str, ...], line: Line) -> None:
        apt = Apt(self._tools, self._layout.package_lists)
        if any(entry.kind == "package" and not entry.done for entry in self._manifest.entries):
            apt.repair(line)  # an earlier setup was cut short, and perhaps dpkg with it
        apt.refresh(line)
        simulation = apt.would_install(names)
        if simulation.removed:
            raise Failed(
                f"apt would remove {', '.join(simulation.removed)} to install {', '.join(names)}",
                fix=f"apt-get install --no-install-recommends {' '.join(names)}, when you agree with that",
            )
        leftovers = apt.leftovers()
        entries = [
            Entry(
                "package",
                name,
                before="configuration" if name in leftovers else None,
                mark="requested" if name in names else "dependency",
            )
            for name in simulation.new
        ]
        self._manifest.intend(*entries)
        before = self._accounts()
        try:
            apt.install(names, line)
        finally:
            # Packages make users and groups that Debian leaves behind when they go.
            made = self._accounts() - before
            self._manifest.intend(
                *(Entry(kind, name, before=OF_PACKAGES, mark=number, done=True) for kind, name, number in sorted(made))
            )
        self._manifest.finish_all(entries)

    def _accounts(self) -> set[tuple[Literal["user", "group"], str, str]]:
        users = {("user", name, number) for name, number in account_ids(self._layout.passwd).items()}
        groups = {("group", name, number) for name, number in account_ids(self._layout.group).items()}
        return {*users, *groups}  # type: ignore[arg-type]

    def _kernel(self, line: Line) -> None:
        apt = Apt(self._tools, self._layout.package_lists)
        apt.refresh(line)
        try:
            guest.fetch_kernel(self._options, line)
        except Unavailable:  # the lists may name a version that the mirror dropped
            apt.refresh(line, force=True)
            guest.fetch_kernel(self._options, line)

    def _busybox(self, target: Path, line: Line) -> None:
        def unpack() -> None:
            Apt(self._tools, self._layout.package_lists).refresh(line)
            with tempfile.TemporaryDirectory(prefix=".busybox-", dir=target.parent) as scratch:
                folder = Path(scratch)
                # Its own user, which apt would download as, may not write into our directory.
                argv = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "busybox-static"]
                ran = self._tools.run(argv, timeout=300, cwd=folder, line=line)
                files = sorted(folder.glob("busybox-static_*.deb"))
                if not ran.ok or not files:
                    raise Unavailable(f"apt-get download busybox-static: {ran.last_words}", fix="apt-get update")
                ran = self._tools.run(["dpkg-deb", "--extract", str(files[0]), str(folder / "x")], timeout=QUICK)
                found = next(
                    (x for x in (folder / "x/bin/busybox", folder / "x/usr/bin/busybox") if is_static(x)), None
                )
                if not ran.ok or found is None:
                    raise Failed(f"{files[0].name} holds no static busybox: {ran.last_words}")
                found.chmod(0o755)
                os.chown(found, 0, 0)
                found.replace(target)

        self._made("file", target, unpack)

    def _account(self, kind: str, name: str, argv: list[str]) -> None:
        entry = Entry("user" if kind == "user" else "group", name)
        self._manifest.intend(entry)
        ran = self._tools.run(argv, timeout=QUICK)
        if not ran.ok:
            raise Failed(f"{argv[0]}: {ran.last_words}", fix=" ".join(argv))
        number = account_ids(self._layout.passwd if kind == "user" else self._layout.group).get(name)
        self._manifest.finish(entry.kind, name, mark=number)

    def _directory(self, path: Path, mode: int) -> None:
        if path.is_dir():
            path.chmod(mode)
            return
        self._manifest.intend(Entry("directory", str(path)))
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        self._manifest.finish("directory", str(path))

    def _made(self, kind: str, target: Path, make: Callable[[], None]) -> None:
        """Make a file or tree of our own in the data directory."""
        entry = Entry("tree" if kind == "tree" else "file", str(target))
        self._manifest.intend(entry)
        try:
            make()
        except OSError as error:
            raise Failed(f"{target}: {error.strerror or error}", fix=_space(error, target)) from error
        self._manifest.finish(entry.kind, entry.subject)

    def _module(self, name: str, file: Path) -> None:
        ran = self._tools.run(["modprobe", name], timeout=QUICK)
        if not ran.ok or not self._layout.tun.exists():
            raise Failed(
                f"the kernel module {name} can't be loaded: {ran.last_words}",
                fix=f"use a kernel that has {name}, or give this container /dev/net/tun",
            )
        self._write("module", file, f"# Written by zeitwork setup.\n{name}\n")

    def _sysctls(self, file: Path, values: tuple[tuple[str, str], ...]) -> None:
        present = forwarding.read(self._layout)
        different = [(key, value) for key, value in values if present.get(key, value) != value]
        self._manifest.intend(*(Entry("sysctl", key, before=present.get(key), mark=value) for key, value in different))
        self._write("file", file, forwarding.render(values))
        for key, value in different:
            try:
                self._layout.sysctl(key).write_text(value)
            except OSError as error:
                raise Failed(
                    f"{key} can't be set to {value}: {error.strerror}",
                    fix=f"sysctl -w {key}={value}, outside of this container",
                ) from error
            self._manifest.finish("sysctl", key)

    def _unit(self, file: Path, text: str) -> None:
        self._write("file", file, text)
        self._manifest.intend(Entry("service", file.name))
        for argv in (["systemctl", "daemon-reload"], ["systemctl", "enable", file.name]):
            ran = self._tools.run(argv, timeout=QUICK)
            if not ran.ok:
                raise Failed(f"{' '.join(argv)}: {ran.last_words}", fix=" ".join(argv))
        self._manifest.finish("service", file.name)

    def _write(self, kind: str, file: Path, text: str) -> None:
        """Write a file of the machine in one step. Its sum tells removal whether a person changed it since."""
        entry = Entry("module" if kind == "module" else "file", str(file), mark=_sum(text))
        missing = [folder for folder in reversed(file.parents) if not folder.exists()]
        self._manifest.intend(*(Entry("directory", str(folder), done=True) for folder in missing), entry)
        part = file.with_name(f".{file.name}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text)
            part.chmod(0o644)
            part.replace(file)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise Failed(f"{file}: {error.strerror}", fix=_space(error, file)) from error
        self._manifest.finish(entry.kind, entry.subject, mark=_sum(text))


def account_ids(file: Path) -> dict[str, str]:
    """Return the names in a passwd or group file, with their uid or gid."""
    rows = (line.split(":") for line in file.read_text().splitlines())
    return {fields[0]: fields[2] for fields in rows if len(fields) > 2}


def as_problem(error: OSError) -> Problem:
    """Return an error of the file system as people read it."""
    return Failed(
        f"{error.filename or 'a file'}: {error.strerror or error}", fix=_space(error, Path(error.filename or "/"))
    )


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _space(error: OSError, path: Path) -> str | None:
    import errno

    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    return f"{folder} has {shutil.disk_usage(folder).free >> 20} MiB free; make room, then zeitwork setup again"
