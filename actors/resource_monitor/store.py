"""What the resource monitor needs of storage."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from actors.model.resources import Capacity


class CapacityStore(Protocol):
    """Capacity of nodes."""

    async def record_capacity(self, node_id: UUID, capacity: Capacity) -> None:
        """Write what the host can give. May be below what is placed: then free is zero, never negative."""
