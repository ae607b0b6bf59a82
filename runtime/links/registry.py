"""Which messages may travel, and under which names: what is not entered here neither leaves a host nor enters it."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PurePath
from typing import Any, Literal

import msgspec

from runtime.links.errors import Unsendable
from runtime.message import Message, Request

#: What is sent first: the system's own before everything else, bulk data on a connection of its own.
Lane = Literal["system", "control"]

_AS_TEXT = (IPv4Address, IPv6Address, IPv4Network, IPv6Network, PurePath)


class UnknownType(Exception):
    """A wire name or version that this host does not know."""


class Unreadable(Exception):
    """Fields that do not make a message of this type."""


@dataclass(frozen=True, slots=True)
class Wire:
    """How one type travels. ``answer`` is the type of a request's answer, None for other messages.

    ``to``: the kinds of actors that take it, empty for all.
    """

    type: type[Message]
    name: str
    version: int
    lane: Lane
    answer: Any
    to: frozenset[str]


class Registry:
    """Types by wire name and version, and the other way round.

    A version stays the same while fields are only added, with defaults: a receiver ignores those it does not know.
    What breaks that gets the next version, beside the old type for as long as hosts speak it.
    """

    def __init__(self) -> None:
        self._by_type: dict[type, Wire] = {}
        self._by_name: dict[tuple[str, int], Wire] = {}

    def add(
        self, kind: type[Message], name: str, *, version: int = 1, lane: Lane = "control", to: Iterable[str] = ()
    ) -> None:
        """Enter a type that actors of the kinds ``to`` take (see ``Name.kind``).

        Raises `ValueError` when it is no frozen dataclass, or it or the name is entered already.
        """
        parameters = getattr(kind, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen:
            raise ValueError(f"{kind.__name__} is not a frozen dataclass")
        if kind in self._by_type or (name, version) in self._by_name:
            raise ValueError(f"{kind.__name__} or the wire name {name}/{version} is taken")
        if not name or len(name) > 100 or version < 1:
            raise ValueError(f"{name!r}/{version} is no wire name and version")
        answer = _answer_of(kind) if issubclass(kind, Request) else None
        self._by_type[kind] = self._by_name[name, version] = Wire(kind, name, version, lane, answer, frozenset(to))

    def of(self, kind: type) -> Wire:
        """Return how messages of a type travel; raises `Unsendable`."""
        wire = self._by_type.get(kind)
        if wire is None:
            raise Unsendable(f"{kind.__name__} has no wire name")
        return wire

    def read(self, name: str, version: int, fields: object) -> Message:
        """Make a message. Raises `UnknownType` or `Unreadable`."""
        wire = self._by_name.get((name, version))
        if wire is None:
            known = sorted(number for other, number in self._by_name if other == name)
            raise UnknownType(f"{name!r:.100} version {version}" + (f", versions {known} are known" if known else ""))
        message: Message = from_plain(fields, wire.type)
        return message


def to_plain(value: object) -> Any:
    """Return ``value`` as what CBOR has; raises `Unsendable`."""
    try:
        return msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=_encode_hook)
    except (TypeError, NotImplementedError, ValueError, RecursionError) as error:
        raise Unsendable(f"{type(value).__name__} can't be sent: {error}") from error


def from_plain(plain: object, kind: Any) -> Any:
    """Return a ``kind`` made of what `to_plain` returned; raises `Unreadable`."""
    try:
        return msgspec.convert(plain, kind, dec_hook=_decode_hook)
    except (msgspec.ValidationError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Unreadable(str(error)) from error


def _encode_hook(value: object) -> object:
    if isinstance(value, _AS_TEXT):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no form on the wire")


def _decode_hook(kind: type, plain: object) -> object:
    if issubclass(kind, _AS_TEXT):
        if not isinstance(plain, str):
            raise ValueError(f"{kind.__name__} is sent as text")
        return kind(plain)
    raise ValueError(f"{kind.__name__} has no form on the wire")


def _answer_of(kind: type) -> Any:
    """Return ``R`` of the ``Request[R]`` that a type derives from, resolved where that was written."""
    for base in kind.__mro__:
        for origin in base.__dict__.get("__orig_bases__", ()):
            if typing.get_origin(origin) is Request:
                (answer,) = typing.get_args(origin)
                return type(None) if answer is None else answer
    return Any
