"""The work behind a virtual machine's jobs: each function here does one thing to the host, or undoes it."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import trio

from actors.model.crash_points import CrashPoint
from actors.model.errors import Failed, Problem, Unavailable
from actors.model.ids import short_id
from actors.model.image import RootImage
from actors.model.records import Placement
from actors.tap.messages import TapDevice
from actors.vm import snapshots
from actors.vm.agent import wire
from actors.vm.cgroup import Cgroup
from actors.vm.config_drive import encode
from actors.vm.console import mark, shrink, tail
from actors.vm.figures import read_last_figures
from actors.vm.files import FREE_SPACE, first_full, keep_end, size, unwritable, write_atomic
from actors.vm.guest import CONFIG, CONSOLE, DISK, FIGURES, KEPT, LOG, guest_config, machine
from actors.vm.hold import introduce
from actors.vm.intent import Intent
from actors.vm.jail import JAIL
from actors.vm.jail import remove as remove_jail
from actors.vm.launch import launch
from actors.vm.machine import Hypervisor
from actors.vm.process import PidFile, VmProcess, boot_id
from actors.vm.settings import VmSettings
from runtime import Environment, crash

#: Bytes of console and of the monitor's log that stay after a placement is gone, to answer "why did it end?".
KEPT_CONSOLE, KEPT_LOG = 1024 * 1024, 64 * 1024


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a machine. ``nonce`` marks its guest's lines on the console.

    With ``restore`` it goes on from that snapshot, with an identity of its own, instead of booting.
    """

    hypervisor: Hypervisor
    root: RootImage
    tap: TapDevice
    nonce: str
    env: Environment
    restore: UUID | None = None


@dataclass(frozen=True, slots=True)
class Launched:
    """A monitor that runs its guest."""

    process: VmProcess
    pid_file: PidFile
    intent: Intent


def cgroup_name(settings: VmSettings, placement: Placement) -> str:
    """Return the group of a placement's monitor, relative to each hierarchy's root."""
    return f"{settings.cgroup}/{short_id(placement.id)}"


async def start_machine(settings: VmSettings, placement: Placement, launching: Launch) -> Launched:
    """Write config drive and intent, then launch. Raises `Problem`; then, or cancelled, no process is left."""
    hypervisor, env = launching.hypervisor, launching.env
    data, run = settings.paths.placement(placement.id), settings.paths.vm_run(placement.id)
    version = await hypervisor.version()
    saved: Path | None = None
    if launching.restore is not None:
        saved, manifest = await trio.to_thread.run_sync(
            snapshots.open_snapshot, settings.paths.snapshots, launching.restore
        )
        manifest.check(placement, hypervisor, version, await trio.to_thread.run_sync(snapshots.cpu_model))
    cgroup = cgroup_name(settings, placement)
    drive = encode(guest_config(placement, nonce=launching.nonce, dns=settings.dns, epoch=env.now()))
    intent = Intent(
        placement=str(placement.id),
        instance=str(placement.instance_id),
        generation=placement.generation,
        cluster=settings.cluster_id,
        cgroup=cgroup,
        tap=launching.tap.name,
        hypervisor=hypervisor.name,
        acceleration=hypervisor.acceleration,
        vmm_version=version,
        guest=settings.guest.version,
        nonce=launching.nonce,
        boot_id=boot_id(),
        agent=wire.VERSION,
    )
    try:
        await trio.to_thread.run_sync(_write, run, drive, intent, data)
    except OSError as error:
        raise unwritable(error, data) from error
    spec = machine(
        placement,
        guest=settings.guest,
        root=launching.root,
        tap=launching.tap,
        paths=settings.paths,
        cgroup=cgroup,
        uid_base=settings.uid_base,
        restore=None if saved is None else saved / snapshots.MACHINE,
    )
    began = None if saved is None else partial(introduce, hypervisor, run, drive, env, str(placement.id))
    try:
        process, pid_file = await launch(hypervisor, spec, began)
    except OSError as error:
        raise unwritable(error, run) from error
    except Problem as problem:
        full = await trio.to_thread.run_sync(first_full, data, run)
        if full is None:
            raise
        # Monitors say this in many ways, and nothing at all where their log is on that disk.
        raise Failed(
            f"{problem.detail} (the disk of {full} is full)", code="disk-full", fix=FREE_SPACE, status=507
        ) from problem
    return Launched(process, pid_file, intent)


def _write(run: Path, drive: bytes, intent: Intent, data: Path) -> None:
    # Sockets and a PID file of an interrupted start must not be taken for this one's.
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True, mode=0o700)
    write_atomic(run / CONFIG, drive, durable=False, mode=0o600)
    # What an earlier start of this placement said must not explain the end of this one.
    (data / LOG).unlink(missing_ok=True)
    mark(data / CONSOLE, intent.nonce)
    crash.point(CrashPoint.CONFIG_WRITTEN)
    intent.write(data)
    crash.point(CrashPoint.INTENT_WRITTEN)


def drop_disk(data: Path) -> None:
    """Remove the writable layer. Blocking; idempotent."""
    for path in (data / DISK, data / f".{DISK}.new"):
        path.unlink(missing_ok=True)
    crash.point(CrashPoint.DISK_DROPPED)


def drop_machine(run: Path, data: Path, cgroup: str) -> None:
    """Remove sockets, PID file, config drive, jail and cgroup. Blocking; idempotent. Raises `OSError`."""
    remove_jail(data / JAIL)
    crash.point(CrashPoint.JAIL_DROPPED)
    if run.exists():
        shutil.rmtree(run)
    crash.point(CrashPoint.RUN_DROPPED)
    Cgroup.of(cgroup).remove()
    crash.point(CrashPoint.MACHINE_DROPPED)


def forget(data: Path) -> None:
    """Remove all of a placement but what explains its end (`KEPT`). Blocking; idempotent. Raises `OSError`."""
    if not data.exists():
        return
    console = data / CONSOLE
    if console.exists():
        with suppress(OSError):  # on a disk that is full it stays as it is
            shrink(console, KEPT_CONSOLE)
    last = read_last_figures(data / FIGURES)
    keep_end(data / FIGURES, b"" if last is None else json.dumps(last).encode() + b"\n")
    keep_end(data / LOG, tail(data / LOG, KEPT_LOG))
    for path in data.iterdir():
        if path.name not in (*KEPT, "intent.json"):
            path.unlink()
    crash.point(CrashPoint.FILES_FORGOTTEN)
    Intent.forget(data)
    crash.point(CrashPoint.FORGOTTEN)
    if not any(size(data / name) for name in KEPT):
        shutil.rmtree(data)


async def choose(settings: VmSettings) -> Hypervisor:
    """Return the hypervisor for a new guest, checked to be there still."""
    hypervisor = await settings.hypervisors.get()
    if not settings.guest.kernel.exists():  # one system call: not worth a thread
        raise Unavailable(f"the guest kernel {settings.guest.kernel} is missing", fix="run zeitwork setup")
    return hypervisor
