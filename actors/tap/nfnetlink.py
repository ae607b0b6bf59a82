"""Elements of our table's sets, added and deleted by the kernel's own protocol: one message each, one transaction.

The program ``nft`` needs five milliseconds of CPU to begin, at each start and stop of a virtual machine. It still makes
the table and lists it, and what is refused here is tried with it, as it knows to say why.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Literal

from actors.tap.batch import errors

#: One change: what to do to which set, with which elements as nft writes them.
Change = tuple[Literal["add", "delete"], str, Iterable[str]]

#: Seconds for the kernel to answer; it does so before the request returns, nearly always.
_DEADLINE = 10.0
_NETFILTER, _NFTABLES, _INET = 12, 10, 1
_BEGIN, _END = 0x10, 0x11
_NEW_ELEMENTS, _DELETE_ELEMENTS = _NFTABLES << 8 | 12, _NFTABLES << 8 | 14
_REQUEST, _ACK, _CREATE, _NESTED = 0x1, 0x4, 0x400, 0x8000
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_ITEM, _KEY, _VALUE = 1, 1, 1
_HEADER, _GENERAL, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("!BBH"), struct.Struct("=HH")
_NAME_SIZE = 16  # of a network device
_ANSWER_SIZE = 65536


def apply(table: str, changes: Sequence[Change]) -> bool:
    """Carry out all of ``changes`` in ``table`` of the family ``inet`` or none of them; False when none. Blocking."""
    messages = encode(table, changes)
    expected = len(messages) - 2  # beginning and end are not acknowledged
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as connection:
            connection.settimeout(_DEADLINE)
            connection.sendall(b"".join(messages))
            answered = 0
            while answered < expected:
                for number in errors(connection.recv(_ANSWER_SIZE)):
                    answered += 1
                    if number != 0:
                        return False
    except OSError:
        return False
    return True


def encode(table: str, changes: Sequence[Change]) -> list[bytes]:
    """Return the messages of the transaction. Pure. Raises `ValueError` on elements of another shape."""
    messages = [_message(_BEGIN, 0, 0, _GENERAL.pack(0, 0, _NFTABLES))]
    for number, (verb, name, elements) in enumerate(changes, start=1):
        items = b"".join(_nested(_ITEM, _nested(_KEY, _attribute(_VALUE, key(name, item)))) for item in elements)
        body = _GENERAL.pack(_INET, 0, 0) + _attribute(_TABLE, _text(table)) + _attribute(_SET, _text(name))
        kind, flags = (_NEW_ELEMENTS, _CREATE) if verb == "add" else (_DELETE_ELEMENTS, 0)
        messages.append(_message(kind, flags | _ACK, number, body + _nested(_ELEMENTS, items)))
    return [*messages, _message(_END, 0, len(changes) + 1, _GENERAL.pack(0, 0, _NFTABLES))]


def key(set_name: str, element: str) -> bytes:
    """Return an element as the kernel keeps it: a device's name, an address, or one after the other. Pure."""
    name, _, address = element.rpartition(" . ") if set_name.startswith("pairs") else ("", "", element)
    if set_name == "taps":
        name, address = element, ""
    key = b"" if not name else _text(name.strip('"'))[:-1].ljust(_NAME_SIZE, b"\0")
    if len(key) > _NAME_SIZE:
        raise ValueError(f"{name} is too long for a network device")
    return key + (ip_address(address).packed if address else b"")


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _message(kind: int, flags: int, number: int, content: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(content), kind, _REQUEST | flags, number, 0) + content


def _attribute(name: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), name) + value + padding


def _nested(name: int, value: bytes) -> bytes:
    return _attribute(name | _NESTED, value)
