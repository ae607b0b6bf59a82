"""Choosing networks for a new region that collide with nothing this machine already reaches."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from actors.model.errors import Conflict
from actors.tap.netlink import netlink

#: The first choice, and how many after it are tried: 10.201.0.0/16 to 10.254.0.0/16.
_FIRST, _LAST = 201, 254


@dataclass(frozen=True, slots=True)
class MachineNetwork:
    """IPv4 networks that this machine has routes to or addresses in, and whether IPv6 can be used on it."""

    taken: tuple[IPv4Network, ...]
    ipv6: bool


def choose_region_pool(taken: Collection[IPv4Network]) -> IPv4Network:
    """Return a /16 for a new region that overlaps none of ``taken``. Pure. Raises `Conflict` when all do."""
    for second in range(_FIRST, _LAST + 1):
        pool = IPv4Network((10 << 24 | second << 16, 16))
        if not any(pool.overlaps(network) for network in taken):
            return pool
    raise Conflict(
        f"this machine has routes into every network from 10.{_FIRST}.0.0/16 to 10.{_LAST}.0.0/16",
        field="ipv4_pool",
        fix="give --ipv4-pool a /16 that nothing else uses",
    )


def look_at_network() -> MachineNetwork:
    """Return what is taken on this machine. Blocking. Raises `Problem` when the kernel refuses to tell."""
    with netlink() as connection:
        found = set(_networks(connection.get_routes(family=socket.AF_INET), "RTA_DST", "dst_len"))
        found |= set(_networks(connection.get_addr(family=socket.AF_INET), "IFA_ADDRESS", "prefixlen"))
    # The default route leads everywhere and loopback nowhere: neither says that a network is in use.
    real = {network for network in found if network.prefixlen > 0 and not network.is_loopback}
    return MachineNetwork(tuple(sorted(real)), ipv6_usable())


def _networks(messages: Iterable[object], attribute: str, length: str) -> Iterable[IPv4Network]:
    for message in messages:
        address = message.get_attr(attribute)  # type: ignore[attr-defined]
        if address:
            yield IPv4Network((address, message[length]), strict=False)  # type: ignore[index]


def ipv6_usable(proc: Path = Path("/proc")) -> bool:
    """Return whether this kernel has IPv6 and it is not switched off for new interfaces (ip-sysctl, disable_ipv6)."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            return False
        raise
    for scope in ("all", "default"):
        try:
            if (proc / "sys/net/ipv6/conf" / scope / "disable_ipv6").read_text().strip() == "1":
                return False
        except OSError:
            return False
    return True
