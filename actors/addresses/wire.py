"""The few messages of the kernel's route protocol that tell of links, addresses and default routes: bytes to values.

pyroute2 could do it, but it would be held in memory and decode every attribute of every TAP for three of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10
#: Requests for everything of a kind.
GET_LINKS, GET_ADDRESSES, GET_ROUTES = 18, 22, 26
#: Groups of events: links, addresses and routes of both families.
GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400

_NEW_LINK, _NEW_ADDRESS, _NEW_ROUTE = 16, 20, 24
_REQUEST, _DUMP, _INTERRUPTED, _REPLACE = 0x1, 0x300, 0x10, 0x100
_IFNAME, _IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 3, 1, 2, 8
_OIF, _GATEWAY, _PRIORITY, _PREFSRC, _MULTIPATH, _TABLE = 4, 5, 6, 7, 9, 15
_UP, _LOOPBACK, _MAIN, _UNICAST, _CLONED = 0x1, 0x8, 254, 1, 0x200
_SECONDARY, _DAD_FAILED, _DEPRECATED, _TENTATIVE = 0x01, 0x08, 0x20, 0x40
_HEADER = struct.Struct("=IHHII")
_LINK, _ADDRESS, _ROUTE = struct.Struct("=BxHiII"), struct.Struct("=BBBBi"), struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class Link:
    """A network device; ``up`` None says that it is gone. ``inner``: the loopback device, which leads nowhere."""

    index: int
    name: str
    up: bool | None
    inner: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """An address on a device. ``spare``: a secondary, temporary or deprecated one. Not ``present``: it is gone."""

    index: int
    address: Interface
    spare: bool
    present: bool


@dataclass(frozen=True, slots=True)
class Default:
    """A default route of the main table. ``replaces``: any other one of its family and metric is gone."""

    family: int
    index: int
    metric: int
    gateway: bytes
    source: Address | None
    present: bool
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """The request ``number`` is answered. ``errno`` is 0 when it was, ``torn`` when things changed meanwhile."""

    number: int
    errno: int
    torn: bool


Said = Link | Held | Default | End


def ask(kind: int, family: int, number: int) -> bytes:
    """Return the request for all links, addresses or routes."""
    body = {GET_LINKS: _LINK.size, GET_ADDRESSES: _ADDRESS.size, GET_ROUTES: _ROUTE.size}[kind]
    rest = bytes([family]) + bytes(body - 1)
    return _HEADER.pack(_HEADER.size + body, kind, _REQUEST | _DUMP, number, 0) + rest


def parse(data: bytes) -> Iterator[Said]:
    """Yield what a datagram says, as far as it concerns us. Raises `ValueError` when it is cut or no netlink."""
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise ValueError("a netlink message is cut")
        length, kind, flags, number, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or length > len(data) - at:
            raise ValueError("a netlink message has a wrong length")
        body = data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3
        try:
            said = _one(kind, flags, number, body)
        except struct.error:
            raise ValueError("a netlink message is cut") from None
        if said is not None:
            yield said


def _one(kind: int, flags: int, number: int, body: bytes) -> Said | None:
    match kind:
        case 2 | 3:  # an error, or the end of an answer
            code = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
            return End(number, -min(0, code), bool(flags & _INTERRUPTED))
        case 16 | 17:  # links
            return _link(kind == _NEW_LINK, body)
        case 20 | 21:  # addresses
            return _held(kind == _NEW_ADDRESS, body)
        case 24 | 25:  # routes
            return _default(kind == _NEW_ROUTE, bool(flags & _REPLACE), body)
    return None


def _link(present: bool, body: bytes) -> Link | None:
    family, _, index, flags, _ = _LINK.unpack_from(body)
    if family != AF_UNSPEC:
        return None  # a bridge's port, or IPv6 settings of a device
    name = _attributes(body[_LINK.size :]).get(_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    return Link(index, name, bool(flags & _UP) if present else None, bool(flags & _LOOPBACK))


def _held(present: bool, body: bytes) -> Held | None:
    family, prefix, low_flags, _, index = _ADDRESS.unpack_from(body)
    found = _attributes(body[_ADDRESS.size :])
    # On point-to-point links IFA_ADDRESS is the other end.
    address = _address(family, found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS))
    if address is None or address.is_link_local or address.is_loopback:
        return None
    flags = struct.unpack("=I", found[_IFA_FLAGS])[0] if len(found.get(_IFA_FLAGS, b"")) == 4 else low_flags
    return Held(
        index=index,
        address=_interface(address, prefix),
        spare=bool(flags & (_SECONDARY | _DEPRECATED)),
        # Not yet, or never, usable: another machine may have it.
        present=present and not flags & (_TENTATIVE | _DAD_FAILED),
    )


def _interface(address: Address, prefix: int) -> Interface:
    return IPv4Interface((address, prefix)) if isinstance(address, IPv4Address) else IPv6Interface((address, prefix))


def _default(present: bool, replaces: bool, body: bytes) -> Default | None:
    family, length, _, _, table, _, _, kind, flags = _ROUTE.unpack_from(body)
    if length or kind != _UNICAST or flags & _CLONED or family not in (AF_INET, AF_INET6):
        return None
    found = _attributes(body[_ROUTE.size :])
    if (_number(found.get(_TABLE)) or table) != _MAIN:
        return None
    index = _number(found.get(_OIF))
    if index is None and len(found.get(_MULTIPATH, b"")) >= 8:
        index = struct.unpack_from("=i", found[_MULTIPATH], 4)[0]
    if index is None:
        return None
    return Default(
        family=family,
        index=index,
        metric=_number(found.get(_PRIORITY)) or 0,
        gateway=found.get(_GATEWAY, b""),
        source=_address(family, found.get(_PREFSRC)),
        present=present,
        replaces=present and replaces,
    )


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            raise ValueError("an attribute of a netlink message has a wrong length")
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _number(value: bytes | None) -> int | None:
    return struct.unpack("=I", value)[0] if value is not None and len(value) == 4 else None


def _address(family: int, value: bytes | None) -> Address | None:
    if family == AF_INET and value is not None and len(value) == 4:
        return IPv4Address(value)
    if family == AF_INET6 and value is not None and len(value) == 16:
        return IPv6Address(value)
    return None
