"""The messages as cbor2 has them: maps with small integers as keys, so that either side may know fields more.

Field numbers and kinds are never used for anything else. A field that is not known is ignored, and so is a claim with a
state that is not known. What is changed so that older ones must not take it for what it was gets a new kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import cbor2

from runtime.links import cbor
from runtime.links.errors import Garbage
from runtime.membership.claim import (
    ACCUSERS,
    ADDRESS_BYTES,
    CLAIMED,
    LARGEST,
    META_BYTES,
    Claim,
    Profile,
    State,
)
from runtime.membership.messages import Ack, Gossip, Life, Nack, Ping, PingRequest, Said, Sync

#: Of what is written here. Readers take any.
VERSION: Final = 1
#: Most bytes of one message, and most claims in it.
MESSAGE_BYTES: Final = 65536
CLAIMS: Final = 1024
#: Most items of CBOR in one message: what so many claims are made of, and some for what later versions add.
_ITEMS: Final = 32 * CLAIMS
#: Most seconds that anybody can ask for, and most seconds that somebody has been dead.
_WITHIN, _AGE = 60.0, 2**31

_VERSION, _KIND, _GENERATION, _INCARNATION, _NUMBER, _CLAIMS, _TARGET, _ADDRESS, _WAIT, _MORE, _ANSWER = range(11)
_HOST, _GEN, _INC, _STATE, _PROFILE, _WHERE, _META, _ACCUSERS, _REFUSED, _SINCE = range(10)
_KNOWN = frozenset(range(_SINCE + 1))
_KINDS: dict[type, int] = {Ping: 1, Ack: 2, Nack: 3, PingRequest: 4, Gossip: 5, Sync: 6}


#: What was last read of each host, as plain values and as the claim that those are; of so many hosts at most. Only what
#: is known here all through: the rest of what a peer sends may be large, and is not to stay.
_last_read: dict[bytes, tuple[dict[Any, Any], Claim]] = {}
_LAST_READ: Final = 4096


class Garbled(ValueError):
    """Not a message of this protocol. The message says which field and why."""


class UnknownKind(Garbled):
    """A kind of message that this version does not know. To be ignored."""


def encode(message: Said) -> bytes:
    """Return a message as bytes."""
    return cbor2.dumps(to_wire(message))


def decode(data: bytes) -> Said:
    """Return the message that bytes are. Raises `Garbled`."""
    if len(data) > MESSAGE_BYTES:
        raise Garbled(f"a message of {len(data)} bytes; at most {MESSAGE_BYTES} are taken")
    try:
        # Looked through first: references in a few bytes make what takes years to hash or to compare.
        if cbor.measure(data, most=_ITEMS) != len(data):
            raise Garbage("bytes after its end")
        value = cbor.decode(data)
    except Garbage as error:
        raise Garbled(f"not CBOR: {error}") from None
    return from_wire(value)


def to_wire(message: Said) -> dict[int, Any]:
    """Return a message as plain values."""
    life = message.life
    made: dict[int, Any] = {
        _VERSION: VERSION,
        _KIND: _KINDS[type(message)],
        _GENERATION: life.generation,
        _INCARNATION: life.incarnation,
    }
    match message:
        case Ping(_, number, claims) | Ack(_, number, claims):
            made[_NUMBER] = number
            if claims:
                made[_CLAIMS] = [_claim(claim) for claim in claims]
        case Nack(_, number):
            made[_NUMBER] = number
        case PingRequest(_, number, target, address, within, claims):
            made |= {_NUMBER: number, _TARGET: target.bytes, _ADDRESS: address, _WAIT: within}
            if claims:
                made[_CLAIMS] = [_claim(claim) for claim in claims]
        case Gossip(_, claims):
            made[_CLAIMS] = [_claim(claim) for claim in claims]
        case Sync(_, claims, more, answer):
            made[_CLAIMS] = [_claim(claim) for claim in claims]
            if more:
                made[_MORE] = True
            if answer:
                made[_ANSWER] = True
    return made


def from_wire(value: object) -> Said:
    """Return the message that plain values are. Raises `Garbled`."""
    fields = _fields(value, "message")
    _whole(fields, _VERSION, "version", least=1)
    kind = _whole(fields, _KIND, "kind")
    life = Life(_whole(fields, _GENERATION, "generation"), _whole(fields, _INCARNATION, "incarnation"))
    match kind:
        case 1:
            return Ping(life, _whole(fields, _NUMBER, "number"), _claims(fields))
        case 2:
            return Ack(life, _whole(fields, _NUMBER, "number"), _claims(fields))
        case 3:
            return Nack(life, _whole(fields, _NUMBER, "number"))
        case 4:
            return PingRequest(
                life,
                _whole(fields, _NUMBER, "number"),
                _host(fields.get(_TARGET), "target"),
                _address(fields, _ADDRESS),
                _seconds(fields, _WAIT),
                _claims(fields),
            )
        case 5:
            return Gossip(life, _claims(fields))
        case 6:
            return Sync(life, _claims(fields), _flag(fields, _MORE, "more"), _flag(fields, _ANSWER, "answer"))
    raise UnknownKind(f"kind: {kind} is not known")


def _claim(claim: Claim) -> dict[int, Any]:
    made: dict[int, Any] = {
        _HOST: claim.host.bytes,
        _GEN: claim.generation,
        _INC: claim.incarnation,
        _STATE: int(claim.state),
    }
    if claim.profile is not None:
        made[_PROFILE] = claim.profile.version
        made[_WHERE] = claim.profile.address
        if claim.profile.meta:
            made[_META] = claim.profile.meta
    if claim.accusers:
        made[_ACCUSERS] = [accuser.bytes for accuser in claim.accusers]
    if claim.refused:
        made[_REFUSED] = True
    if claim.age:
        made[_SINCE] = claim.age
    return made


def _claims(fields: dict[Any, Any]) -> tuple[Claim, ...]:
    found = _items(fields.get(_CLAIMS, []), "claims", CLAIMS)
    return tuple(claim for claim in map(_known_claim, found) if claim is not None)


def _known_claim(value: object) -> Claim | None:
    """Return the claim; the very one that was read before if the same was said of that host last time.

    Whoever exchanges everything hears of everybody what it knows, a thousand times for each time that it does not.
    """
    host = value.get(_HOST) if type(value) is dict else None
    known = _last_read.get(host) if type(host) is bytes else None
    if known is not None and known[0] == value:
        return known[1]
    claim = _read_claim(value)
    if claim is not None and type(host) is bytes and type(value) is dict and _is_checked(value):
        if host not in _last_read and len(_last_read) >= _LAST_READ:
            del _last_read[next(iter(_last_read))]
        _last_read[host] = value, claim
    return claim


def _is_checked(value: dict[Any, Any]) -> bool:
    """Tell whether `_read_claim` has looked at all that is in a claim."""
    return _KNOWN.issuperset(value) and (_PROFILE in value or not (_WHERE in value or _META in value))


def _read_claim(value: object) -> Claim | None:
    fields = _fields(value, "claim")
    state = _whole(fields, _STATE, "state")
    host = _host(fields.get(_HOST), "host")
    if state > State.LEFT:
        return None
    profile = None
    if _PROFILE in fields:
        meta = fields.get(_META, b"")
        if not isinstance(meta, bytes) or len(meta) > META_BYTES:
            raise Garbled(f"meta: at most {META_BYTES} bytes are expected")
        profile = Profile(_whole(fields, _PROFILE, "profile version"), _address(fields, _WHERE), meta)
    accusers = _items(fields.get(_ACCUSERS, []), "accusers", ACCUSERS)
    incarnation = _whole(fields, _INC, "incarnation")
    if incarnation > CLAIMED or (profile is not None and profile.version > CLAIMED):
        # No host raises its own that far. Passed over, and not refused: the rest of the message may well be right.
        return None
    return Claim(
        host,
        _whole(fields, _GEN, "generation"),
        incarnation,
        State(state),
        profile,
        tuple(sorted({_host(accuser, "accuser") for accuser in accusers})),
        _flag(fields, _REFUSED, "refused"),
        _whole(fields, _SINCE, "age", most=_AGE) if _SINCE in fields else 0,
    )


def _fields(value: object, name: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise Garbled(f"{name}: a map is expected, not {type(value).__name__}")
    return value


def _items(value: object, name: str, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise Garbled(f"{name}: a list of at most {most} is expected")
    return value


def _whole(fields: dict[Any, Any], key: int, name: str, *, least: int = 0, most: int = LARGEST) -> int:
    value = fields.get(key)
    if type(value) is not int or not least <= value <= most:
        raise Garbled(f"{name}: a whole number from {least} to {most} is expected")
    return value


def _flag(fields: dict[Any, Any], key: int, name: str) -> bool:
    value = fields.get(key, False)
    if not isinstance(value, bool):
        raise Garbled(f"{name}: true or false is expected")
    return value


def _seconds(fields: dict[Any, Any], key: int) -> float:
    value = fields.get(key)
    if type(value) not in (int, float) or not 0 <= value <= _WITHIN:  # type: ignore[operator]
        raise Garbled(f"within: seconds from 0 to {_WITHIN:g} are expected")
    return float(value)  # type: ignore[arg-type]


def _host(value: object, name: str) -> UUID:
    if not isinstance(value, bytes) or len(value) != 16:
        raise Garbled(f"{name}: 16 bytes are expected")
    return UUID(bytes=value)


def _address(fields: dict[Any, Any], key: int) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise Garbled("address: a string is expected")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise Garbled("address: it can't be encoded") from None
    if size > ADDRESS_BYTES:
        raise Garbled(f"address: at most {ADDRESS_BYTES} bytes are expected")
    return value


#: For tests: every kind there is.
KINDS: Final[tuple[Callable[..., Said], ...]] = tuple(_KINDS)
