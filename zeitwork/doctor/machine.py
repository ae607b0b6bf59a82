"""The person, the programs and the accounts."""

from __future__ import annotations

import ctypes
import grp
import os
import platform
import re
import sys

import psutil

from zeitwork.doctor.check import Check, Patient, fail, ok, warn
from zeitwork.setup.facts import distribution, names
from zeitwork.setup.manifest import Manifest
from zeitwork.setup.needs import NEEDS
from zeitwork.setup.options import GROUP
from zeitwork.store.system_user import POSTGRES_USER

#: MiB of memory below which a host has hardly room for a VM beside itself and its database.
SMALL_MEMORY = 1024

_STA_UNSYNC = 0x40
_OLDEST, _NEWER = (3, 11), (3, 14)


def user(_patient: Patient) -> list[Check]:
    """Root may do everything; the group may do all but run, demo and setup."""
    if os.geteuid() == 0:
        return ok("user", "root")
    groups = {group.gr_name for group in grp.getgrall() if group.gr_gid in os.getgroups()}
    if GROUP in groups:
        return ok("user", f"in the group {GROUP}; run, demo and setup need root")
    name = os.environ.get("USER", "YOU")
    return warn(
        "user",
        f"neither root nor in the group {GROUP}: only the control endpoint's address can be used",
        f"sudo usermod -aG {GROUP} {name}, then log in again",
    )


def python(_patient: Patient) -> list[Check]:
    """The versions that are tested."""
    version = platform.python_version()
    if _OLDEST <= sys.version_info[:2] < _NEWER:
        return ok("python", version)
    return warn("python", f"{version} is not tested; 3.11 to 3.13 are", "python3.13 -m venv, and install there")


def linux(patient: Patient) -> list[Check]:
    """Where setup can bring things."""
    found = distribution(patient.options.layout)
    if platform.machine() != "x86_64":
        return fail("system", f"{platform.machine()}; Zeitwork runs on x86_64")
    detail = f"{found.name}, Linux {platform.release()}"
    if found.debian:
        return ok("system", detail)
    return warn("system", f"{detail}; setup installs packages on Debian and its relatives only")


def memory(_patient: Patient) -> list[Check]:
    """Room for at least one VM."""
    total = psutil.virtual_memory().total >> 20
    if total >= SMALL_MEMORY:
        return ok("memory", f"{total} MiB")
    return warn("memory", f"{total} MiB leave little room for VMs", "give this machine at least 1 GiB")


def programs(patient: Patient) -> list[Check]:
    """The programs that a host runs, and their versions."""
    found: list[Check] = []
    for need in NEEDS:
        path = patient.tools.which(need.command)
        if path is None:
            found += fail(need.command, f"missing; it {need.why}", f"zeitwork setup, or apt-get install {need.package}")
            continue
        ran = patient.tools.run([str(path), *need.version], timeout=5)
        version = re.search(r"\d+\.\d+[\w.+~-]*", ran.output)
        if version is None or ran.status in (124, 127):
            found += fail(
                need.command, f"{path} can't be run: {ran.last_words}", f"apt-get install --reinstall {need.package}"
            )
        else:
            found += ok(need.command, f"{version[0].rstrip('.')} ({path})")
    return found


def accounts(patient: Patient) -> list[Check]:
    """The group of the control socket and the database's user."""
    layout = patient.options.layout
    found: list[Check] = []
    if GROUP in names(layout.group):
        found += ok("group", GROUP)
    else:
        found += fail("group", f"there is no group {GROUP}", "zeitwork setup")
    if not patient.options.embedded:
        return found
    if POSTGRES_USER in names(layout.passwd):
        return found + ok("postgres user", POSTGRES_USER)
    return found + fail(
        "postgres user", f"there is no user {POSTGRES_USER}; Postgres refuses to run as root", "zeitwork setup"
    )


def setup_state(patient: Patient) -> list[Check]:
    """Whether setup was cut short."""
    manifest = Manifest(patient.options.manifest)
    if not manifest.entries:
        return ok("setup", f"changed nothing that is written down in {patient.options.manifest}")
    waiting = [f"{entry.kind} {entry.subject}" for entry in manifest.entries if not entry.done]
    if waiting:
        return warn("setup", f"was cut short at: {', '.join(waiting[:3])}", "zeitwork setup")
    return ok("setup", f"{len(manifest.entries)} changes, written down in {patient.options.manifest}")


def service(patient: Patient) -> list[Check]:
    """The systemd unit, where one was installed."""
    layout = patient.options.layout
    if not layout.unit.exists():
        return []
    if not layout.systemd.is_dir():
        return warn("service", f"{layout.unit} is there, but systemd does not run this machine")
    state = patient.tools.run(["systemctl", "is-active", layout.unit.name], timeout=2).output.strip()
    if not layout.unit_link.exists():
        return warn("service", f"{state}, not started at boot", f"systemctl enable {layout.unit.name}")
    if state == "failed":
        return fail("service", "failed", f"journalctl -u {layout.unit.name} -n 50")
    return ok("service", f"{state}, started at boot")


def clock(_patient: Patient) -> list[Check]:
    """Whether something keeps the clock right: certificates and the leader's lease depend on it."""
    libc = ctypes.CDLL(None, use_errno=True)
    timex = ctypes.create_string_buffer(256)  # struct timex has 208 bytes; modes 0 reads only
    if libc.adjtimex(timex) < 0:
        return []  # not allowed in this container, whose host keeps the clock
    status = int.from_bytes(timex.raw[40:44], "little")
    if status & _STA_UNSYNC:
        return warn("clock", "nothing keeps it right", "apt-get install systemd-timesyncd (or chrony)")
    return ok("clock", "kept right")


LOOKS = (user, python, linux, memory, programs, accounts, setup_state, service, clock)
