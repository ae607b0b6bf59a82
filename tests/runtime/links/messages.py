"""Messages that the tests of links send, and who sends them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from uuid import UUID

from runtime import Message, Request
from runtime.links.frames import Hello, Identity
from runtime.links.registry import Registry

CLUSTER = UUID(int=0xC1)
LOW, HIGH, THIRD = UUID(int=1), UUID(int=2), UUID(int=3)


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Note(Message):
    text: str = ""
    address: IPv6Address | None = None
    who: UUID | None = None
    parts: tuple[Part, ...] = ()
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Double(Request[int]):
    number: int


@dataclass(frozen=True, slots=True)
class Describe(Request[Part]):
    name: str
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Unlisted(Message):
    """Has no wire name."""


@dataclass(frozen=True, slots=True)
class Gossip(Message):
    """Of the system's lane."""

    text: str = ""


def registry() -> Registry:
    made = Registry()
    made.add(Note, "test.note")
    made.add(Double, "test.double")
    made.add(Describe, "test.describe")
    made.add(Gossip, "test.gossip", lane="system")
    return made


def hello(host: UUID = LOW, generation: int = 1, **more) -> Hello:  # type: ignore[no-untyped-def]
    return Hello(more.pop("cluster", CLUSTER), Identity(host, generation), **more)
