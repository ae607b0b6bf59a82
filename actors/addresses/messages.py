"""What the addresses actor understands."""

from __future__ import annotations

from dataclasses import dataclass

from actors.model.network import OwnAddresses
from runtime import Message

#: The actor's name on every host.
NAME = "addresses"


@dataclass(frozen=True, slots=True)
class Follow(Message):
    """Begin to follow the kernel's events."""


@dataclass(frozen=True, slots=True)
class Seen(Message):
    """These are the machine's addresses now."""

    own: OwnAddresses


@dataclass(frozen=True, slots=True)
class Unfollowed(Message):
    """Following ended, which it should not."""

    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Record(Message):
    """Offer the database again what it did not take."""


@dataclass(frozen=True, slots=True)
class Recorded(Message):
    """The database holds these addresses now."""

    own: OwnAddresses


@dataclass(frozen=True, slots=True)
class RecordingFailed(Message):
    """The database did not take them; they are offered again with back-off."""

    error: Exception
