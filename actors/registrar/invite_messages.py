"""What the inviter understands."""

from __future__ import annotations

from dataclasses import dataclass

from actors.registrar.invite import Invited
from runtime import Message


@dataclass(frozen=True, slots=True)
class Look(Message):
    """Look at who is expected."""


@dataclass(frozen=True, slots=True)
class Found(Message):
    """Who is expected."""

    invited: tuple[Invited, ...]


@dataclass(frozen=True, slots=True)
class NotFound(Message):
    """The store could not be asked."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Tried(Message):
    """A try has ended, and how it went is written."""

    invited: Invited


@dataclass(frozen=True, slots=True)
class NotTried(Message):
    """A try broke off, or how it went could not be written: it will be made again."""

    invited: Invited
    error: Exception


@dataclass(frozen=True, slots=True)
class Written(Message):
    """What a look led to was written."""


@dataclass(frozen=True, slots=True)
class NotWritten(Message):
    """It was not: the next look leads to the same."""

    error: Exception
