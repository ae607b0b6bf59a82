"""What leader and hosts say to each other about placements. Names on the wire: `zeitwork.wire`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from runtime import Message, Request

#: The actor that takes commands, on every host, and the leader's that sends them.
NAME, DISPATCHER = "commands", "dispatcher"


class CommandKind(StrEnum):
    """What a host is told about one of its placements."""

    CREATE = "create"
    STOP = "stop"  # end it: it is wanted stopped, or another one follows
    DELETE = "delete"  # end it: its instance is terminated


@dataclass(frozen=True, slots=True)
class Taken(Message):
    """The answer to a `Command`: the host reads its placements again. Ids, generation and epoch are the command's.

    ``state`` is the phase of the placement's virtual machine there until now, None when there was none. ``superseded``:
    nothing follows from the command, because the host knows of a newer one.
    """

    placement_id: UUID
    generation: int
    epoch: int
    state: str | None = None
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class Command(Request[Taken]):
    """A hint for the host ``node_id``. What is really to be done it reads in Postgres, and decides there.

    ``generation`` is the placement's, ``epoch`` the sender's term of office. Seconds: ``deadline`` is for how long it
    is of use from when it was sent, ``stop_timeout`` what the app gets to end by itself, nothing with ``force``.
    """

    kind: CommandKind
    instance_id: UUID
    placement_id: UUID
    node_id: UUID
    generation: int
    epoch: int
    deadline: float
    force: bool = False
    stop_timeout: float = 0.0


@dataclass(frozen=True, slots=True)
class Dispatch(Message):
    """Look for what hosts have to be told, now. ``reason`` is for the log."""

    reason: str = "timer"
