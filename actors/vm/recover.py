"""What an earlier life of the host left of a placement, and what that means for this one."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from actors.model.paths import HostPaths
from actors.model.states import PlacementState
from actors.vm.cgroup import Cgroup
from actors.vm.intent import Intent
from actors.vm.process import PidFile, VmProcess, adopt, adopt_member, boot_id

#: States in which the guest's app has run.
_RAN = (PlacementState.RUNNING, PlacementState.PAUSED, PlacementState.STOPPING)


class Found(StrEnum):
    """What to do with what was found."""

    NOTHING = "nothing"  # never started here
    HALF_MADE = "half-made"  # a start that was interrupted, or another boot's: clean and start over
    RUNNING = "running"  # take it over
    ENDED = "ended"  # its monitor ended while nobody looked


@dataclass(slots=True)
class Recovery:
    """What was found. ``process`` is set when it runs; ``strays`` are processes that must end before anything else."""

    found: Found
    intent: Intent | None = None
    pid_file: PidFile | None = None
    process: VmProcess | None = None
    strays: list[VmProcess] = field(default_factory=list)


def recover(
    paths: HostPaths, cgroup: str, placement_id: UUID, generation: int, state: PlacementState, boot: str | None
) -> Recovery:
    """Look for a placement's intent, PID file and processes. Blocking, a millisecond or so.

    ``state`` and ``boot`` are what the database says: the state, and the boot under which it was last started.
    """
    intent = Intent.read(paths.placement(placement_id))
    pid_file = PidFile.read(paths.vm_run(placement_id))
    process = None
    if pid_file is not None:
        process = adopt(pid_file.identity, pid_file.cgroup if pid_file.grouped else None)
    strays = []
    for pid in sorted(Cgroup.of(cgroup).members()):
        if process is None or pid != process.pid:
            stray = adopt_member(pid, cgroup)
            if stray is not None:
                strays.append(stray)
    return judged(Recovery(Found.NOTHING, intent, pid_file, process, strays), generation, state, boot, boot_id())


def judged(recovery: Recovery, generation: int, state: PlacementState, boot: str | None, this_boot: str) -> Recovery:
    """Return what was found with what that means, and with whatever must end among the strays. See `recover`.

    ``this_boot`` is the present boot of the kernel.
    """
    recovery.found = _judge(recovery, generation, state, boot, this_boot)
    if recovery.found is Found.RUNNING:
        # What else is in its group are children of the machine that is taken over.
        for stray in recovery.strays:
            stray.close()
        recovery.strays.clear()
    elif recovery.process is not None:
        recovery.strays.append(recovery.process)
        recovery.process = None
    return recovery


def _judge(recovery: Recovery, generation: int, state: PlacementState, boot: str | None, this_boot: str) -> Found:
    intent, pid_file = recovery.intent, recovery.pid_file
    usable = intent is not None and intent.generation == generation and not intent.parked
    if recovery.process is not None:
        return Found.RUNNING if usable and pid_file is not None and pid_file.booted else Found.HALF_MADE
    if recovery.strays:
        return Found.HALF_MADE
    if usable and pid_file is not None and pid_file.booted and pid_file.identity.boot_id == this_boot:
        return Found.ENDED
    if state in _RAN and boot == this_boot and (usable or intent is None):
        return Found.ENDED
    if intent is None and state is PlacementState.ASSIGNED:
        return Found.NOTHING
    return Found.HALF_MADE
