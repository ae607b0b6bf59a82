"""What the addresses actor needs of storage."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from actors.model.network import OwnAddresses


class AddressStore(Protocol):
    """Own addresses of nodes."""

    async def record_addresses(self, node_id: UUID, own: OwnAddresses) -> None:
        """Write a host's own addresses. While it has none, the one it was last called by stays."""
