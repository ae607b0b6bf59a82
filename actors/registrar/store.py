"""What the presence actor and the leader's watch need of storage."""

from __future__ import annotations

from dataclasses import dataclass
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
    """The last sign of life of a node's process, at ``seen`` (Unix seconds by the database's clock)."""

    node_id: UUID
    hostname: str
    state: NodeState
    generation: int
    seen: float


class WatchStore(Protocol):
    """Signs of life of all hosts, as the leader looks at them."""

    async def beats(self) -> tuple[Beat, ...]:
        """Return the last sign of life of each node that has registered and is neither terminated nor down."""

    async def mark_down(self, beat: Beat, reason: str, term: Term) -> bool:
        """Write that a host is dead, which gives what ran there free to be replaced at once.

        False when it has given a sign of life since, or was started anew. Raises `Fenced` when ``term`` is over.
        """
