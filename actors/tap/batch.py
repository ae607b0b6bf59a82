"""Many changes of one network device in one request: the few messages that a new TAP needs, as bytes.

pyroute2 takes a round trip and half a millisecond of CPU for each of nine changes, most of it for attributes that are
not there. What it is asked for elsewhere is worth its comfort; this happens at the start of every virtual machine.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from actors.tap.wanted import BringUp, Change, SetAlias, SetMac, Step

#: Number in a route's "protocol" by which our routes are told from anybody else's (`ip route show proto 201`).
ROUTE_PROTOCOL = 201
#: Seconds for the kernel to answer; it does so before the request returns, nearly always.
_DEADLINE = 10.0
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_LINK, _ADDRESS, _ROUTE, _NEIGHBOUR = (struct.Struct(form) for form in ("=BxHiII", "=BBBBi", "=BBBBBBBBI", "=BxxxiHBB"))
_NEW_LINK, _NEW_ADDRESS, _NEW_ROUTE, _NEW_NEIGHBOUR = 16, 20, 24, 28
_REQUEST, _ACK, _REPLACE, _EXCL, _CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
_ERROR = 2
_IFLA_ADDRESS, _IFLA_ALIAS, _IFF_UP = 1, 20, 0x1
_IFA_ADDRESS, _IFA_LOCAL, _NODAD = 1, 2, 0x02
_RTA_DST, _RTA_OIF, _MAIN, _UNICAST, _SCOPE_LINK = 1, 4, 254, 1, 253
_NDA_DST, _NDA_LLADDR, _PERMANENT = 1, 2, 0x80
_ROUTE_NETLINK = 0
_ANSWER_SIZE = 65536


def apply(index: int, steps: Iterable[Step]) -> bool:
    """Carry out ``steps`` on the device ``index``, in order; False when one of them was refused, or is not known here.

    Then some may have been done: look what is there and go on one by one, which also finds out why. Blocking.
    """
    messages = []
    for number, step in enumerate(steps, start=1):
        message = encode(index, step, number)
        if message is None:
            return False
        messages.append(message)
    if not messages:
        return True
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _ROUTE_NETLINK) as connection:
            connection.settimeout(_DEADLINE)
            connection.sendall(b"".join(messages))
            answered = 0
            while answered < len(messages):
                for number in errors(connection.recv(_ANSWER_SIZE)):
                    answered += 1
                    if number != 0:
                        return False
    except OSError:
        return False
    return True


def encode(index: int, step: Step, number: int) -> bytes | None:
    """Return the request that carries out ``step``; None for one that takes something away. Pure."""
    match step:
        case SetMac(mac=mac):
            return _message(_NEW_LINK, 0, number, _LINK.pack(0, 0, index, 0, 0), (_IFLA_ADDRESS, _mac(mac)))
        case SetAlias(alias=alias):
            return _message(_NEW_LINK, 0, number, _LINK.pack(0, 0, index, 0, 0), (_IFLA_ALIAS, alias.encode()))
        case BringUp():
            return _message(_NEW_LINK, 0, number, _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP))
        case Change(verb="add", item=(IPv4Address() | IPv6Address() as address, mac)):
            # "replace": the kernel may have learnt a temporary entry meanwhile.
            body = _NEIGHBOUR.pack(_family(address.version), index, _PERMANENT, 0, 0)
            attributes = (_NDA_DST, address.packed), (_NDA_LLADDR, _mac(mac))
            return _message(_NEW_NEIGHBOUR, _CREATE | _REPLACE, number, body, *attributes)
        case Change(verb="add", item=IPv4Interface() | IPv6Interface() as own):
            flags = _NODAD if own.version == 6 else 0
            body = _ADDRESS.pack(_family(own.version), own.network.prefixlen, flags, 0, index)
            attributes = (_IFA_LOCAL, own.ip.packed), (_IFA_ADDRESS, own.ip.packed)
            return _message(_NEW_ADDRESS, _CREATE | _EXCL, number, body, *attributes)
        case Change(verb="add", item=IPv4Network() | IPv6Network() as network):
            scope = _SCOPE_LINK if network.version == 4 else 0
            family, length = _family(network.version), network.prefixlen
            body = _ROUTE.pack(family, length, 0, 0, _MAIN, ROUTE_PROTOCOL, scope, _UNICAST, 0)
            attributes = (_RTA_DST, network.network_address.packed), (_RTA_OIF, struct.pack("=I", index))
            return _message(_NEW_ROUTE, _CREATE | _EXCL, number, body, *attributes)
        case _:
            return None


def errors(data: bytes) -> list[int]:
    """Return the errno of each acknowledgement in what the kernel sent, 0 for success. Pure; what is torn ends it."""
    found = []
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        if length < _HEADER.size + 4 or length > len(data):
            break
        if kind == _ERROR:
            found.append(-struct.unpack_from("=i", data, _HEADER.size)[0])
        data = data[_aligned(length) :]
    return found


def _message(kind: int, flags: int, number: int, body: bytes, *attributes: tuple[int, bytes]) -> bytes:
    content = body
    for name, value in attributes:
        content += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), name) + value
        content += bytes(_aligned(len(value)) - len(value))
    return _HEADER.pack(_HEADER.size + len(content), kind, _REQUEST | _ACK | flags, number, 0) + content


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _family(version: int) -> int:
    return int(socket.AF_INET if version == 4 else socket.AF_INET6)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
