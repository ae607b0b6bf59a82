"""What the presence actor and the leader's watch need of storage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from actors.model.states import NodeState
from runtime.lease import Term


class PresenceStore(Protocol):
    """Signs of life."""

    async def heartbeat(self, node_id: UUID, generation: int) -> bool:
        """Write that the process of this generation lives; False when another generation has registered since."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The last sign of life of a node's process, at ``seen`` (Unix seconds by the database's clock).

    When it was read that was ``age`` seconds ago, by the same clock. ``replace_in``: seconds until what ran on a host
    that is down is replaced, None of one that is not down.
    """

    node_id: UUID
    hostname: str
    state: NodeState
    generation: int
    seen: float
    age: float = field(default=0.0, compare=False)
    replace_in: float | None = field(default=None, compare=False)


class WatchStore(Protocol):
    """Signs of life of all hosts, as the leader looks at them."""

    async def beats(self) -> tuple[Beat, ...]:
        """Return the last sign of life of each node that has registered and is not terminated.

        Of those that are down only those whose replacement is still to come.
        """

    async def mark_down(self, beat: Beat, reason: str, term: Term, *, grace: float = 0.0) -> bool:
        """Write that a host is dead, which gives what ran there free to be replaced after ``grace`` seconds.

        Of one that is down already the time until then may become shorter by it, never longer. False when nothing has
        changed by it, and when the host has given a sign of life since or was started anew. Raises `Fenced` when
        ``term`` is over.
        """
