"""What can be seen before there is a monitor to complain, said in clearer words than its own."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from actors.model.errors import Failed
from actors.vm.machine import MachineSpec
from actors.vm.saved import check_saved
from actors.vm.sockets import check_length

_NETWORKS = Path("/sys/class/net")


def check(spec: MachineSpec, *, sockets: Sequence[str], saved: Sequence[str]) -> None:
    """Check a machine's sockets, its TAP, and the files that it is restored from. Blocking. Raises `Failed`."""
    for name in sockets:
        check_length(spec.run / name)
    if spec.nic is not None:
        check_tap(spec.nic.tap)
    if spec.restore is not None:
        check_saved(spec.restore, saved)


def check_tap(name: str) -> None:
    """Raise `Failed` unless ``name`` is a TAP. A monitor with the right to would make a missing one, and be alone."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        raise Failed(f"there is no network device {name}: the guest would have no network") from None
    device = _NETWORKS / name
    if device.exists() and not (device / "tun_flags").exists():
        raise Failed(f"{name} is no TAP but another network device", fix="rename or remove it")
