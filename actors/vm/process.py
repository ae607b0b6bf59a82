"""Monitors as processes: spawned so that they outlive us, known by more than a PID, awaited and killed by pidfd."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import trio

from actors.model.errors import Failed
from actors.vm.cgroup import is_member
from actors.vm.files import write_atomic
from actors.vm.limits import ResourceLimits

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: Children get nothing of our environment: it may hold secrets, and behaviour must not depend on it.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
#: Enter the cgroups first, become the monitor then: no page of it is ever charged to our own service. Resource limits
#: that the machine does not grant stay as they are. File sizes are in units of 512 bytes. A group that is gone was
#: removed by whoever took this start for ended, its host having been killed over it: there must be no monitor then.
_ENTER = (
    'if [ "$1" != - ]; then ulimit -n "$1" 2>/dev/null || :; ulimit -f "$2" 2>/dev/null || :; fi; shift 2; '
    'while [ "$1" != -- ]; do echo $$ 2>/dev/null >"$1" || [ -e "$1" ] || exit 125; shift; done; shift; '
    'if [ "$1" != - ]; then cd -- "$1" || exit 126; fi; shift; exec "$@"'
)
#: Signals that Python ignores or handles and children must get in their default state.
_DEFAULTS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)

PID_FILE = "vmm.json"


def boot_id() -> str:
    """Return the identifier of this boot of the kernel."""
    return _BOOT_ID.read_text().strip()


@dataclass(frozen=True, slots=True)
class Identity:
    """A process beyond doubt: a PID alone is given to another process sooner or later.

    ``start_time`` is field 22 of ``/proc/PID/stat``, in clock ticks since boot.
    """

    pid: int
    start_time: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class PidFile:
    """What a monitor's run directory says about it.

    ``booted``: its guest was started, so that it may be adopted; before that a crash of ours leaves a half-made
    machine. ``app_started_at`` is Unix seconds, None until the guest said so. ``grouped``: it entered its cgroup.
    ``agent``: the guest's agent has answered, so that it may have been frozen.
    """

    identity: Identity
    cgroup: str
    grouped: bool
    hypervisor: str
    booted: bool = False
    app_started_at: float | None = None
    agent: bool = False

    def write(self, run: Path) -> None:
        """Replace the PID file in ``run`` in one step. Blocking, without fsync: a reboot makes it worthless."""
        write_atomic(run / PID_FILE, json.dumps(asdict(self)).encode(), durable=False)

    def update(self, run: Path, **changes: Any) -> PidFile:
        """Write and return a copy with changed fields."""
        new = replace(self, **changes)
        new.write(run)
        return new

    @classmethod
    def read(cls, run: Path) -> PidFile | None:
        """Return the PID file of ``run``, or None when there is none that makes sense. Blocking."""
        try:
            content = json.loads((run / PID_FILE).read_bytes())
            return cls(**{**content, "identity": Identity(**content["identity"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None


class VmProcess:
    """A monitor's process, held by a pidfd. Adopted ones are not our children: their exit status stays unknown."""

    def __init__(self, identity: Identity, pidfd: int, *, child: bool) -> None:
        self.identity = identity
        self.child = child
        self._pidfd = pidfd
        self._ended = False
        self._status: int | None = None
        self._waiting = trio.Lock()

    @property
    def pid(self) -> int:
        """Its PID, for people and logs only."""
        return self.identity.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended. A zombie has."""
        if self._ended or self._pidfd < 0:
            return False
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return not poller.poll(0)

    async def wait(self) -> int | None:
        """Wait for its end; return the exit status, negative for a signal, None for one that was not our child."""
        async with self._waiting:
            if not self._ended:
                await trio.lowlevel.wait_readable(self._pidfd)
                self._reap()
        return self._status

    def _reap(self) -> None:
        self._ended = True
        if not self.child:
            return
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return  # somebody else's wait took the status; that it ended is certain
        if result is not None:
            self._status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def send(self, number: signal.Signals) -> None:
        """Send a signal, to this process and no other. Does nothing once it has ended."""
        if self._ended or self._pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    async def kill(self, deadline: float = 5.0) -> bool:
        """SIGKILL it and reap it, whatever happens to the caller; return whether it ended in ``deadline`` seconds."""
        with trio.move_on_after(deadline, shield=True):
            self.send(signal.SIGKILL)
            await self.wait()
        return self._ended

    def close(self) -> None:
        """Let go of it. It runs on."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def spawn(
    argv: Sequence[str],
    *,
    stdout: Path,
    stderr: Path,
    enter: Sequence[Path] = (),
    limits: ResourceLimits | None = None,
    cwd: Path | None = None,
) -> VmProcess:
    """Start a monitor in a session of its own, with output appended to files, never to a pipe of ours.

    ``enter`` are ``cgroup.procs`` files that it joins before it becomes ``argv``, ``limits`` what it gets then, ``cwd``
    where it works (None: where we do). Blocks for a millisecond or two and must run on the thread that stays: the main
    one. Raises `Failed` when the machine has no process to give.
    """
    append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    # Counted in 512 bytes, as POSIX has it (dash; a shell that counts in 1024 grants twice as much).
    bounds = ("-", "-") if limits is None else (str(limits.files), str(-(-limits.file_size // 512)))
    where = "-" if cwd is None else str(cwd.absolute())
    shell = ["/bin/sh", "-c", _ENTER, "sh", *bounds, *(str(path) for path in enter), "--", where, *argv]
    try:
        pid = os.posix_spawn(
            shell[0],
            shell,
            _ENVIRONMENT,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(stdout), append, 0o600),
                (os.POSIX_SPAWN_OPEN, 2, str(stderr), append, 0o600),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULTS,
        )
        # It can't have been reaped yet, so the PID is still its own.
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise Failed(f"the machine would not start another process: {error.strerror}") from error
    stat = read_stat(pid)
    identity = Identity(pid, stat[1] if stat else 0, boot_id())
    return VmProcess(identity, pidfd, child=True)


def adopt(identity: Identity, cgroup: str | None) -> VmProcess | None:
    """Return the process if it is the one that was meant and has not ended. ``cgroup``: it must be in that one.

    The pidfd is opened first and everything checked after: what is checked can no longer be replaced.
    """
    if identity.boot_id != boot_id():
        return None
    try:
        pidfd = os.pidfd_open(identity.pid)
    except OSError:
        return None
    stat = read_stat(identity.pid)
    if (
        stat is None
        or stat[1] != identity.start_time
        or stat[0] in "ZXx"
        or (cgroup is not None and not is_member(identity.pid, cgroup))
    ):
        os.close(pidfd)
        return None
    return VmProcess(identity, pidfd, child=False)


def adopt_member(pid: int, cgroup: str) -> VmProcess | None:
    """Return the process with this PID if it runs in that cgroup of ours: for monitors whose PID file is missing."""
    stat = read_stat(pid)
    if stat is None:
        return None
    return adopt(Identity(pid, stat[1], boot_id()), cgroup)


def read_stat(pid: int) -> tuple[str, int] | None:
    """Return the state letter and the start time of a process, None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold anything, parentheses and spaces included.
    words = text[text.rindex(")") + 2 :].split()
    return words[0], int(words[19])
