"""What the leader's dispatcher needs of storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from actors.commands.messages import CommandKind
from runtime.lease import Term


@dataclass(frozen=True, slots=True)
class Order:
    """A placement of which something else is wanted than was last observed, and what its host should be told.

    ``away``: its host is down, so that telling it has to wait. ``stop_timeout`` in seconds.
    """

    kind: CommandKind
    instance_id: UUID
    placement_id: UUID
    node_id: UUID
    generation: int
    force: bool = False
    stop_timeout: float = 0.0
    away: bool = False


#: Steps of a command that are written into its instance's log. That it was carried out is written by its host.
Step = Literal["sent", "taken", "refused", "unreachable"]


@dataclass(frozen=True, slots=True)
class Note:
    """A step of a command. ``attempts`` is how often it was sent by then; ``reason`` is for people."""

    step: Step
    order: Order
    attempts: int = 0
    reason: str = ""


class CommandStore(Protocol):
    """What hosts have yet to carry out. Methods raise `Fenced` when ``term`` is over, and `Unavailable`."""

    async def outstanding(self, own: UUID, term: Term, limit: int) -> tuple[Order, ...]:
        """Return up to ``limit`` orders for all hosts but ``own``, those for hosts that are down last.

        A placement that its host has not begun is to be created; one that is not wanted is to be ended until its host
        says that nothing of it is left. What was decided to do without on a host that is down is not among them.
        """

    async def record(self, notes: Sequence[Note], term: Term) -> None:
        """Write steps into the logs of their instances."""
