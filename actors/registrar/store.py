"""What the presence actor needs of storage."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID


class PresenceStore(Protocol):
    """Signs of life."""

    async def heartbeat(self, node_id: UUID, generation: int) -> bool:
        """Write that the process of this generation lives; False when another generation has registered since."""
