"""Ports for those who must know theirs before anybody listens on them."""

from __future__ import annotations

import random
import socket
from pathlib import Path

#: Above what services have of their own.
_LOWEST = 12_000
_given: set[int] = set()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody has and that was not returned before.

    It is below those that the kernel chooses: any connection to anywhere might be given one of them until it is used.
    """
    chosen = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(_LOWEST, max(chosen, _LOWEST + 10_000))
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
