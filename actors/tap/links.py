"""TAP devices: made, mended, listed and removed. Blocking: call from a worker thread."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path
from typing import Any
from uuid import UUID

from actors.model.crash_points import CrashPoint
from actors.model.errors import Conflict, Failed
from actors.tap import batch
from actors.tap.batch import ROUTE_PROTOCOL
from actors.tap.netlink import addresses_of, code, neighbours_of, netlink, routes_of
from actors.tap.refusals import refusal
from actors.tap.sysctls import link_sysctls, write_existing
from actors.tap.wanted import (
    Address,
    BringUp,
    Change,
    Facts,
    Interface,
    Network,
    SetAlias,
    SetMac,
    Step,
    mend,
    read_alias,
)
from runtime import crash

TUN_DEVICE = Path("/dev/net/tun")

_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_TUN_EXCL = 0x0002, 0x1000, 0x8000
_TYPE_TAP = 2
_IFF_UP = 0x1
_IFA_F_NODAD = 0x02
_NUD_PERMANENT = 0x80
_RTN_UNICAST = 1


#: What a device is that was made a moment ago, with a MAC address that the kernel drew.
_NOTHING = Facts("", "", False, frozenset(), frozenset(), frozenset())


def ensure_tap(name: str, wanted: Facts, *, uid: int | None = None) -> list[Step]:
    """Make the TAP ``name`` look like ``wanted``; return what had to be changed (nothing when all was right).

    A TAP that is there is adopted: a VM may be using it. ``uid`` is the user that may attach to it (None: root only).
    Raises `Conflict` when the name or an address belongs to something else, other `Problem` when the kernel refuses.
    """
    ipv6 = any(address.version == 6 for address in wanted.addresses)
    if _index(name) is None:
        with _created(name, uid) as device:
            crash.point(CrashPoint.TAP_CREATED)
            index = _index(name)
            if index is None:
                raise Failed(f"the TAP {name} vanished right after it was made")
            write_existing(link_sysctls(name, ipv6=ipv6))
            # It has nothing yet, so nothing needs to be looked for.
            steps = mend(_NOTHING, wanted)
            done = batch.apply(index, steps)
            # Until here it goes when we are killed: it did not say yet whose it is, and nobody would ever remove it.
            _keep(device, name)
        if done:
            return steps
    with netlink() as connection:
        link = _find(connection, name)
        if link is None:
            raise Failed(f"the TAP {name} vanished while it was looked at", fix="try again")
        if not _is_tap(link):
            raise Conflict(
                f"there is a network device {name} that is not a TAP of Zeitwork",
                fix=f"remove or rename it: ip link delete {name}",
            )
        write_existing(link_sysctls(name, ipv6=ipv6))
        index = int(link["index"])
        found = _facts(connection, link)
        if not found.up:
            found = replace(found, routes=frozenset(), neighbours=frozenset())
        steps = mend(found, wanted)
        for step in steps:
            _carry_out(connection, name, index, step)
        return steps


def remove_tap(name: str) -> bool:
    """Remove the TAP ``name``, with its addresses, routes and neighbours. False when there was none.

    Raises `Conflict` when the device is not a TAP.
    """
    with netlink() as connection:
        link = _find(connection, name)
        if link is None:
            return False
        if not _is_tap(link):
            raise Conflict(f"the network device {name} is not a TAP of Zeitwork, so it stays", fix="rename it")
        try:
            connection.link("del", index=int(link["index"]))
        except Exception as error:
            if code(error) in (errno.ENODEV, errno.ENXIO):
                return False
            raise refusal(f"remove the TAP {name}", error) from error
        return True


@dataclass(frozen=True, slots=True)
class OwnedTap:
    """A TAP that exists on the machine."""

    name: str
    up: bool


def owned_taps(owner: str) -> dict[UUID, OwnedTap]:
    """Return the TAPs that the host ``owner`` made on this machine, by placement id."""
    found = {}
    with netlink() as connection:
        for link in connection.get_links():
            note = read_alias(link.get("IFLA_IFALIAS"))
            if note is not None and note[0] == owner and _is_tap(link):
                found[note[1]] = OwnedTap(str(link.get("IFLA_IFNAME")), bool(link["flags"] & _IFF_UP))
    return found


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def _find(connection: Any, name: str) -> Any | None:
    try:
        return next(iter(connection.link("get", ifname=name)), None)
    except Exception as error:
        if code(error) in (errno.ENODEV, errno.ENXIO):
            return None
        raise refusal(f"look for the network device {name}", error) from error


def _is_tap(link: Any) -> bool:
    info = link.get("IFLA_LINKINFO")
    if info is None or info.get("IFLA_INFO_KIND") != "tun":
        return False
    data = info.get("IFLA_INFO_DATA")
    return bool(data is not None and data.get("IFLA_TUN_TYPE") == _TYPE_TAP)


@contextmanager
def _created(name: str, uid: int | None) -> Iterator[int]:
    """Make a TAP, which goes with the block unless `_keep` is called on the descriptor that this yields."""
    request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL)
    try:
        device = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise Failed(f"{TUN_DEVICE} can't be opened, so no TAP can be made", fix="modprobe tun") from error
        raise refusal(f"open {TUN_DEVICE}", error) from error
    try:
        fcntl.ioctl(device, _TUNSETIFF, request)
        if uid is not None:
            fcntl.ioctl(device, _TUNSETOWNER, uid)
    except OSError as error:
        os.close(device)
        raise refusal(f"make the TAP {name}", error) from error
    try:
        yield device
    finally:
        os.close(device)


def _keep(device: int, name: str) -> None:
    try:
        fcntl.ioctl(device, _TUNSETPERSIST, 1)
    except OSError as error:
        raise refusal(f"make the TAP {name}", error) from error


def _facts(connection: Any, link: Any) -> Facts:
    index = int(link["index"])
    addresses: set[Interface] = set()
    for entry in addresses_of(connection, index):
        # On a point-to-point address IFA_ADDRESS is the far end, IFA_LOCAL ours.
        own = entry.get("IFA_LOCAL") or entry.get("IFA_ADDRESS")
        if entry["index"] == index and own is not None:
            addresses.add(ip_interface(f"{own}/{entry['prefixlen']}"))
    routes: set[Network] = set()
    for entry in routes_of(connection, index):
        ours = entry.get("RTA_OIF") == index and entry["proto"] == ROUTE_PROTOCOL and entry["type"] == _RTN_UNICAST
        if ours and entry.get("RTA_DST") is not None:
            routes.add(ip_network(f"{entry.get('RTA_DST')}/{entry['dst_len']}"))
    neighbours: set[tuple[Address, str]] = set()
    for entry in neighbours_of(connection, index):
        if entry["ifindex"] == index and entry["state"] & _NUD_PERMANENT and entry.get("NDA_DST") is not None:
            neighbours.add((ip_address(str(entry.get("NDA_DST"))), str(entry.get("NDA_LLADDR"))))
    return Facts(
        mac=str(link.get("IFLA_ADDRESS")),
        alias=str(link.get("IFLA_IFALIAS") or ""),
        up=bool(link["flags"] & _IFF_UP),
        addresses=frozenset(addresses),
        routes=frozenset(routes),
        neighbours=frozenset(neighbours),
    )


def _carry_out(connection: Any, name: str, index: int, step: Step) -> None:
    try:
        match step:
            case SetMac(mac=mac):
                connection.link("set", index=index, address=mac)
            case SetAlias(alias=alias):
                connection.link("set", index=index, ifalias=alias)
            case BringUp():
                connection.link("set", index=index, state="up")
            case Change(verb=verb, item=(IPv4Address() | IPv6Address() as address, mac)):
                more = {"lladdr": mac, "state": "permanent"} if verb == "add" else {}
                # "replace": the kernel may have learnt a temporary entry meanwhile.
                connection.neigh("replace" if verb == "add" else verb, ifindex=index, dst=str(address), **more)
            case Change(verb=verb, item=IPv4Interface() | IPv6Interface() as own):
                flags = {"flags": _IFA_F_NODAD} if isinstance(own, IPv6Interface) and verb == "add" else {}
                mask = own.network.prefixlen
                connection.addr(verb, index=index, address=str(own.ip), mask=mask, **flags)
            case Change(verb=verb, item=IPv4Network() | IPv6Network() as network):
                scope = {"scope": "link"} if network.version == 4 else {}
                connection.route(verb, dst=str(network), oif=index, proto=ROUTE_PROTOCOL, **scope)
    except Exception as error:
        number = code(error)
        if number is None:
            raise
        deleting = isinstance(step, Change) and step.verb == "del"
        if deleting and number in (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL):
            return
        if number == errno.EEXIST and isinstance(step, Change) and not isinstance(step.item, tuple):
            raise Conflict(
                f"{step.item} is in use elsewhere on this machine, so {name} can't have it",
                fix=f"see where: ip route get {str(step.item).split('/', maxsplit=1)[0]}",
            ) from error
        raise refusal(f"set up the TAP {name} ({_words(step)})", error) from error


def _words(step: Step) -> str:
    match step:
        case SetMac() | SetAlias():
            return "name and MAC address"
        case BringUp():
            return "bring it up"
        case Change(verb=verb, item=item):
            return f"{verb} {item[0] if isinstance(item, tuple) else item}"
