"""Host processes without their start-up: one process imports all there is to import, each host is a fork of it.

``python -m tests.actors.host.zygote FD`` forks what it is told on that socket; `HostFork` tells it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Any

from pyroute2.netns import setns

ROOT = Path(__file__).parents[3]
_LARGEST = 65536
_CLONE_NEWNS, _MS_REC, _MS_SLAVE, _MNT_DETACH = 0x20000, 0x4000, 0x80000, 2


class HostFork:
    """A host process in a network namespace, with its standard streams; as `subprocess.Popen`, as far as it is used."""

    def __init__(self, config: Path, netns: str, crash_point: str, log: Path, hidden: list[str]) -> None:
        control, there = socket.socketpair()
        own_in, its_in = os.pipe()[::-1]
        its_out, own_out = os.pipe()[::-1]
        with open(log, "a") as errors:
            fds = [there.fileno(), its_in, its_out, errors.fileno()]
            order = {"config": str(config), "netns": netns, "crash_point": crash_point, "hidden": hidden}
            socket.send_fds(_zygote(), [json.dumps(order).encode()], fds)
        there.close()
        os.close(its_in)
        os.close(its_out)
        self.stdin = os.fdopen(own_in, "w")
        self.stdout = os.fdopen(own_out)
        self.returncode: int | None = None
        self._control = control
        self.pid = int(control.recv(_LARGEST))
        # The zygote has not reaped it yet: it waits for our word.
        self._pidfd = os.pidfd_open(self.pid)
        control.sendall(b"go")

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float = 30.0) -> int:
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("host", timeout)
        return status

    def kill(self) -> None:
        """Kill it, unless it has ended: at a crash point it may do so at any time."""
        if self._look(0) is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _look(self, seconds: float) -> int | None:
        if self.returncode is None:
            poller = select.poll()
            poller.register(self._control, select.POLLIN)
            if poller.poll(seconds * 1000):
                self.returncode = int(self._control.recv(_LARGEST))
                self._control.close()
                os.close(self._pidfd)
        return self.returncode


@cache
def _zygote() -> socket.socket:
    own, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    subprocess.Popen(  # ends with our end of the socket
        [sys.executable, "-m", "tests.actors.host.zygote", str(its.fileno())], cwd=ROOT, pass_fds=[its.fileno()]
    )
    its.close()
    return own


def serve(orders: socket.socket) -> None:
    """Fork as told until the other end is closed."""
    from tests.actors.host import host_process

    children: dict[int, socket.socket] = {}
    # Ended children are told of by a descriptor, since the loop below waits on nothing else.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([orders, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            for pid in list(children):
                if (done := os.waitpid(pid, os.WNOHANG))[0]:
                    _tell(children.pop(pid), os.waitstatus_to_exitcode(done[1]))
        if orders in ready:
            data, fds, _, _ = socket.recv_fds(orders, _LARGEST, 4)
            if not data:
                return
            control = socket.socket(fileno=fds[0])
            pid = os.fork()
            if pid == 0:
                _become(json.loads(data), fds, host_process.run)
            for fd in fds[1:]:
                os.close(fd)
            control.sendall(str(pid).encode())
            control.recv(2)
            children[pid] = control
            os.write(wake, b"x")  # it may have ended before it was known


def _tell(control: socket.socket, status: int) -> None:
    with contextlib.suppress(OSError):  # nobody asks any more
        control.sendall(str(status).encode())
    control.close()


def _hide(mount_points: list[str]) -> None:
    """Go on in a view of the file system in which these are not mounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None):
        raise OSError(ctypes.get_errno(), "no namespace of mounts")
    for place in mount_points:
        if libc.umount2(place.encode(), _MNT_DETACH):
            raise OSError(ctypes.get_errno(), place)


def _become(order: dict[str, Any], fds: list[int], run: Any) -> None:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, fd in enumerate(fds[1:]):
            os.dup2(fd, number)
        os.closerange(3, 1024)
        setns(order["netns"])
        if order["hidden"]:
            _hide(order["hidden"])
        run(Path(order["config"]), order["crash_point"])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
