"""From a machine description to a monitor that runs its guest; on failure to nothing at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

from actors.model.crash_points import CrashPoint
from actors.model.errors import Failed, Problem
from actors.vm.cgroup import Cgroup
from actors.vm.files import last_words
from actors.vm.guest import FIGURES
from actors.vm.limits import Limits, ResourceLimits
from actors.vm.machine import Hypervisor, MachineSpec
from actors.vm.process import PidFile, VmProcess, spawn
from runtime import crash

_log = structlog.get_logger()


async def launch(
    hypervisor: Hypervisor, spec: MachineSpec, began: Callable[[], Awaitable[None]] | None = None
) -> tuple[VmProcess, PidFile]:
    """Spawn a monitor, write its PID file, configure it and start its guest.

    ``began`` is called once the guest runs; the machine counts as started only after it. Cancelled or failed, its
    process is killed and reaped before this returns; run directory and cgroup are left to the caller. Raises `Failed`
    with the monitor's own words.
    """
    cgroup = Cgroup.of(spec.cgroup)
    limits = Limits.of(spec, hypervisor.acceleration)
    enter, bounds, unlimited = await trio.to_thread.run_sync(_prepare, hypervisor, spec, cgroup, limits)
    if unlimited:
        _log.warning("monitor runs without a limit", placement=str(spec.id), missing=list(unlimited))
    command = hypervisor.command(spec)
    # No checkpoint from here to the PID file: a cancelled task must not leave a process that nobody knows.
    process = spawn(command.argv, stdout=command.stdout, stderr=spec.log, enter=enter, limits=bounds, cwd=command.cwd)
    crash.point(CrashPoint.SPAWNED)
    try:
        _log.info("monitor started", placement=str(spec.id), hypervisor=hypervisor.name, pid=process.pid)
        pid_file = PidFile(process.identity, spec.cgroup, bool(enter), hypervisor.name)
        pid_file.write(spec.run)
        crash.point(CrashPoint.PID_WRITTEN)
        await _boot(hypervisor, spec, process)
        if began is not None:
            await began()
        crash.point(CrashPoint.GUEST_STARTED)
        pid_file = pid_file.update(spec.run, booted=True)
        crash.point(CrashPoint.BOOT_NOTED)
    except BaseException:
        await process.kill()
        process.close()
        raise
    finally:
        with trio.move_on_after(5, shield=True):
            await trio.to_thread.run_sync(_settle, hypervisor, spec)
    return process, pid_file


def _settle(hypervisor: Hypervisor, spec: MachineSpec) -> None:
    try:
        hypervisor.settle(spec)
    except OSError as error:
        # The machine runs, or is ended for its own reason; what is left is removed with its jail.
        _log.warning("jail not tidied", placement=str(spec.id), error=str(error))


def _prepare(
    hypervisor: Hypervisor, spec: MachineSpec, cgroup: Cgroup, limits: Limits
) -> tuple[tuple[Path, ...], ResourceLimits, tuple[str, ...]]:
    # Firecracker wants its files to exist; for another monitor the last one stays empty and goes with the rest.
    for path in (spec.console, spec.log, spec.log.with_name(FIGURES)):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
    spec.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        hypervisor.prepare(spec)
    except BaseException:
        _settle(hypervisor, spec)
        raise
    enter = cgroup.create()
    unset = cgroup.limit(limits)
    crash.point(CrashPoint.GROUP_MADE)
    return enter, ResourceLimits.of(spec), unset


async def _boot(hypervisor: Hypervisor, spec: MachineSpec, process: VmProcess) -> None:
    """Boot, unless the monitor ends first: then nobody answers on its socket, and its log says why."""
    gone = False
    status: int | None = None
    problem: Problem | None = None
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            nonlocal gone, status
            status = await process.wait()
            gone = True
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        try:
            await hypervisor.boot(spec)
        except Problem as error:
            problem = error
            # Its socket may have closed because it is just ending; then its own reason is the better one.
            with trio.move_on_after(0.2):
                await process.wait()
        nursery.cancel_scope.cancel()
    if gone and status == 0:
        return  # the guest was so quick that it has ended; its console says how
    if gone:
        words = await trio.to_thread.run_sync(last_words, spec.log)
        how = f"was ended by signal {-status}" if status is not None and status < 0 else f"exited with status {status}"
        raise Failed(f"{hypervisor.name} {how} at its start: {words or 'it said nothing'}")
    if problem is not None:
        words = await trio.to_thread.run_sync(last_words, spec.log)
        raise Failed(f"{problem.detail}{f' (its log ends: {words[-600:]})' if words else ''}", fix=problem.fix)
