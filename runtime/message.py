"""What actors tell each other. Every message is a frozen dataclass deriving from one of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from runtime.ref import Ref

R_co = TypeVar("R_co", covariant=True)

ExitKind = Literal["normal", "stopped", "failed"]


class Message:
    """Base of all messages."""

    __slots__ = ()


class Request(Message, Generic[R_co]):
    """A message that is answered with an ``R``: ``class Acquire(Request[Lease])``."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Exit:
    """Why a life ended.

    ``normal``: it stopped itself. ``stopped``: somebody stopped it. ``failed``: it raised ``error``.
    """

    kind: ExitKind
    error: BaseException | None = None

    def __str__(self) -> str:
        if self.error is None:
            return self.kind
        return f"{self.kind}: {type(self.error).__name__}: {self.error}"


@dataclass(frozen=True, slots=True)
class Down(Message):
    """The monitored life of ``ref`` has ended. Told once per monitor, also when it had ended before."""

    ref: Ref
    reason: Exit
