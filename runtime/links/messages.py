"""What the actor that keeps links is told by its owner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from runtime.links.transport import Address
from runtime.message import Message, Request
from runtime.ref import Ref


@dataclass(frozen=True, slots=True)
class Want(Message):
    """Keep links to these hosts, and no longer to others that were wanted before."""

    peers: Mapping[UUID, Address]


@dataclass(frozen=True, slots=True)
class Learn(Message):
    """Where a host listens, for links on demand."""

    host: UUID
    address: Address


@dataclass(frozen=True, slots=True)
class Forget(Message):
    """A host is gone for good; with ``refuse`` it is not let in again either, whatever it shows."""

    host: UUID
    refuse: bool = False


@dataclass(frozen=True, slots=True)
class Admit(Message):
    """These hosts belong here: those of them that were refused are let in again."""

    hosts: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Follow(Message):
    """Tell ``ref`` of each `LinkUp` and `LinkDown` from now on."""

    ref: Ref


@dataclass(frozen=True, slots=True)
class Introduce(Request[UUID]):
    """Link with whoever listens at an address and answer which host that is; the link is one on demand.

    Fails with a `NoIntroduction`.
    """

    address: Address


class NoIntroduction(Exception):
    """Nobody there, or nobody who may be linked with. ``refused``: the machine answered that nobody listens."""

    code = "no-introduction"

    def __init__(self, detail: str, *, refused: bool = False) -> None:
        super().__init__(detail)
        self.refused = refused
        self.detail = detail
