"""What a host's guests share below their TAPs: the route that ends at this host, and the host's own address in it.

Blocking: call from a worker thread.
"""

from __future__ import annotations

import errno
import json
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from actors.model.network import HostNetwork
from actors.tap.batch import ROUTE_PROTOCOL
from actors.tap.netlink import code, netlink
from actors.tap.refusals import refusal
from actors.tap.sysctls import read

_IFA_F_NODAD = 0x02
_LOOPBACK = 1
_LOOPBACK_DISABLED = "net/ipv6/conf/lo/disable_ipv6"
#: Behind every other route to the same prefix: a prefix that is also on-link at some interface keeps working.
_LAST_METRIC = 65535


def host_address(prefix: IPv6Network) -> IPv6Address:
    """Return the host's own address in its /64, ``::1``: what guests see as the source of what the host sends."""
    return prefix[1]


def lay_ground(network: HostNetwork) -> None:
    """Make packets for addresses that no guest has end here, and give the host its address in the /64.

    Without the routes such packets would leave by the default route, or go in circles. Idempotent. Raises `Problem`.
    """
    with netlink() as connection:
        _unreachable(connection, "add", network.v4)
        # Some containers have IPv6 everywhere but on loopback; the host then speaks to guests from fe80::1.
        if network.v6 is not None and read(_LOOPBACK_DISABLED) != "1":
            _unreachable(connection, "add", network.v6)
            _own_address(connection, "add", network.v6)


def clear_ground(network: HostNetwork) -> None:
    """Undo `lay_ground`. Idempotent. Raises `Problem`."""
    with netlink() as connection:
        _unreachable(connection, "del", network.v4)
        if network.v6 is not None:
            _unreachable(connection, "del", network.v6)
            _own_address(connection, "del", network.v6)


def record_beside(record: Path) -> Path:
    """Return the file, beside that of the kernel settings, which says for what network the ground was laid."""
    return record.with_name("network.json")


def remember(network: HostNetwork, record: Path) -> None:
    """Write down for what the ground is laid, so that it can be cleared when nothing else is left. Raises `Problem`."""
    text = json.dumps({"v4": str(network.v4), "v6": None if network.v6 is None else str(network.v6)})
    try:
        if record.exists() and record.read_text() == text:
            return
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(text)
    except OSError as error:
        raise refusal(f"write {record}", error) from error


def recall(record: Path) -> HostNetwork | None:
    """Return the network that was written down, None when there is none or the file is damaged."""
    try:
        content = json.loads(record.read_text())
        v6 = content["v6"]
        return HostNetwork(v6=None if v6 is None else IPv6Network(v6), v4=IPv4Network(content["v4"]))
    except (OSError, ValueError, TypeError, LookupError):
        return None


def forget(record: Path) -> None:
    """Remove what was written down, if it was. Raises `Problem`."""
    try:
        record.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(f"remove {record}", error) from error


def _unreachable(connection: Any, verb: str, prefix: IPv4Network | IPv6Network) -> None:
    _request(
        f"{verb} the route that ends {prefix} here",
        connection.route,
        verb,
        dst=str(prefix),
        type="unreachable",
        proto=ROUTE_PROTOCOL,
        priority=_LAST_METRIC,
    )


def _own_address(connection: Any, verb: str, prefix: IPv6Network) -> None:
    address = host_address(prefix)
    flags = {"flags": _IFA_F_NODAD} if verb == "add" else {}
    what = f"{verb} the address {address} on the loopback device"
    _request(what, connection.addr, verb, index=_LOOPBACK, address=str(address), mask=128, **flags)


def _request(what: str, send: Any, verb: str, **arguments: Any) -> None:
    try:
        send(verb, **arguments)
    except Exception as error:
        number = code(error)
        if number is None:
            raise
        done_already = {errno.EEXIST} if verb == "add" else {errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL}
        if number not in done_already:
            raise refusal(what, error) from error
