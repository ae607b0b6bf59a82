"""Frames: what travels on a link, each a CBOR list that begins with its kind. Elements may be added at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from runtime.links import cbor
from runtime.links.errors import Garbage

#: Versions of the protocol that this code speaks: the newest and the one before it.
OLDEST_VERSION, NEWEST_VERSION = 1, 1
#: Bytes of a frame, or of several in one message, on a control connection.
CONTROL_LIMIT = 64 * 1024
#: Bytes of data in one frame of bulk, and of that frame as a whole.
BULK_CHUNK = 256 * 1024
BULK_LIMIT = BULK_CHUNK + 1024
_MAGIC = "zeitwork-link"
_LONGEST_NAME, _LONGEST_DETAIL, _MOST_CAPABILITIES = 200, 2000, 64

HELLO, TELL, ASK, REPLY, REFUSAL, GOODBYE, BULK, PING, PONG = range(9)
Purpose = Literal["control", "bulk"]


@dataclass(frozen=True, slots=True)
class Identity:
    """One life of one host. ``generation`` grows with each start."""

    host: UUID
    generation: int

    def __str__(self) -> str:
        return f"{self.host}#{self.generation}"


@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks, and which versions of the protocol. The first frame each way, its layout fixed for all versions."""

    cluster: UUID
    identity: Identity
    oldest: int = OLDEST_VERSION
    newest: int = NEWEST_VERSION
    capabilities: frozenset[str] = frozenset()
    purpose: Purpose = "control"


@dataclass(frozen=True, slots=True)
class Tell:
    """A message for an actor."""

    to: str
    name: str
    version: int
    fields: object


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. ``remaining``: milliseconds until the asker gives up, at the time of sending."""

    number: int
    to: str
    name: str
    version: int
    fields: object
    remaining: int


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to the ask of that number on this connection."""

    number: int
    value: object


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no answer; number 0 stands for a tell. ``problem``: a handler's answer, else the runtime's own."""

    number: int
    problem: bool
    code: str
    detail: str
    more: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender closes the connection now. ``code`` is for programs."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Bulk:
    """A piece of a transfer. ``offset`` in bytes; ``last`` ends it."""

    transfer: str
    offset: int
    data: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a pong of the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers the newest ping."""

    number: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """A kind of frame of a later version."""

    kind: int


Frame = Hello | Tell | Ask | Reply | Refusal | Goodbye | Bulk | Ping | Pong | Unknown


def encode(frame: Frame) -> bytes:
    """Return the bytes of a frame. Raises `ValueError` or `TypeError` for contents that CBOR does not have."""
    parts: list[object]
    match frame:
        case Hello(cluster, identity, oldest, newest, capabilities, purpose):
            who = [cluster.bytes, identity.host.bytes, identity.generation]
            parts = [HELLO, _MAGIC, oldest, newest, *who, sorted(capabilities), purpose]
        case Tell(to, name, version, fields):
            parts = [TELL, to, name, version, fields]
        case Ask(number, to, name, version, fields, remaining):
            parts = [ASK, number, to, name, version, fields, remaining]
        case Reply(number, value):
            parts = [REPLY, number, value]
        case Refusal(number, problem, code, detail, more):
            parts = [REFUSAL, number, problem, code[:_LONGEST_NAME], detail[:_LONGEST_DETAIL], dict(more)]
        case Goodbye(code, detail):
            parts = [GOODBYE, code[:_LONGEST_NAME], detail[:_LONGEST_DETAIL]]
        case Bulk(transfer, offset, data, last):
            parts = [BULK, transfer, offset, data, last]
        case Ping(number):
            parts = [PING, number]
        case Pong(number):
            parts = [PONG, number]
        case _:
            parts = [frame.kind]
    return cbor.encode(parts)


def decode(data: bytes) -> Frame:
    """Return the frame that ``data`` is, as a whole. Raises `Garbage`."""
    if cbor.measure(data) != len(data):
        raise Garbage("bytes after the end of a frame")
    return parse(cbor.decode(data))


def parse(parts: Any) -> Frame:
    """Return the frame that these decoded parts are. Raises `Garbage`."""
    if not isinstance(parts, list) or not parts:
        raise Garbage("a frame is a list")
    kind = _whole(parts, 0)
    match kind:
        case 0:
            return _hello(parts)
        case 1:
            return Tell(_text(parts, 1), _text(parts, 2), _whole(parts, 3), _any(parts, 4))
        case 2:
            name, version = _text(parts, 3), _whole(parts, 4)
            return Ask(_whole(parts, 1), _text(parts, 2), name, version, _any(parts, 5), _whole(parts, 6))
        case 3:
            return Reply(_whole(parts, 1), _any(parts, 2))
        case 4:
            return _refusal(parts)
        case 5:
            return Goodbye(_text(parts, 1), _text(parts, 2, _LONGEST_DETAIL))
        case 6:
            return Bulk(_text(parts, 1), _whole(parts, 2), _data(parts, 3), _flag(parts, 4))
        case 7:
            return Ping(_whole(parts, 1))
        case 8:
            return Pong(_whole(parts, 1))
    return Unknown(kind)


def _hello(parts: list[Any]) -> Hello:
    if _text(parts, 1) != _MAGIC:
        raise Garbage("not a hello of this protocol")
    capabilities = _any(parts, 7)
    if not isinstance(capabilities, list) or len(capabilities) > _MOST_CAPABILITIES:
        raise Garbage("capabilities are a short list")
    known = frozenset(_text(capabilities, index, 100) for index in range(len(capabilities)))
    purpose = _text(parts, 8)
    if purpose not in ("control", "bulk"):
        raise Garbage("a connection for an unknown purpose")
    identity = Identity(_uuid(parts, 5), _whole(parts, 6))
    return Hello(_uuid(parts, 4), identity, _whole(parts, 2), _whole(parts, 3), known, purpose)  # type: ignore[arg-type]


def _refusal(parts: list[Any]) -> Refusal:
    more = _any(parts, 5)
    if not isinstance(more, dict):
        raise Garbage("the details of a refusal are a map")
    code, detail = _text(parts, 3), _text(parts, 4, _LONGEST_DETAIL)
    return Refusal(_whole(parts, 1), _flag(parts, 2), code, detail, more)


def _any(parts: list[Any], index: int) -> Any:
    if index >= len(parts):
        raise Garbage("a frame with too few elements")
    return parts[index]


def _text(parts: list[Any], index: int, longest: int = _LONGEST_NAME) -> str:
    value = _any(parts, index)
    if not isinstance(value, str) or len(value) > longest:
        raise Garbage(f"element {index} of a frame is not a text of at most {longest} characters")
    return value


def _whole(parts: list[Any], index: int) -> int:
    value = _any(parts, index)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise Garbage(f"element {index} of a frame is not a whole number")
    return value


def _flag(parts: list[Any], index: int) -> bool:
    value = _any(parts, index)
    if not isinstance(value, bool):
        raise Garbage(f"element {index} of a frame is neither true nor false")
    return value


def _data(parts: list[Any], index: int) -> bytes:
    value = _any(parts, index)
    if not isinstance(value, bytes):
        raise Garbage(f"element {index} of a frame is not bytes")
    return value


def _uuid(parts: list[Any], index: int) -> UUID:
    value = _data(parts, index)
    if len(value) != 16:
        raise Garbage(f"element {index} of a frame is not 16 bytes")
    return UUID(bytes=value)
