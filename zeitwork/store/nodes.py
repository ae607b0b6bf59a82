"""Hosts. Writes the tables ``nodes`` and ``pools``."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from actors.model.resources import Capacity
from actors.model.states import NodeDesired, NodeState
from zeitwork.store.rows import HostRegistration, NodeRow, Page, ResourcesRow
from zeitwork.store.units import Units


class Nodes:
    """Hosts; also `actors.resource_monitor.store.CapacityStore`."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def register(self, host: HostRegistration) -> NodeRow:
        """Write that this host's process starts, and return its node.

        The same ``host_id`` gets the same node with ``generation`` + 1. A new one takes over a node that was created
        through the API under its hostname and never came, else it is a new node; either way it gets its pools.
        """
        raise NotImplementedError

    async def create(
        self,
        hostname: str,
        *,
        ip_address: IPv4Address | IPv6Address | None = None,
        region_id: UUID | None = None,
        id: UUID | None = None,
        who: str = "api",
    ) -> NodeRow:
        """Write that a host is expected; it is ``booting`` until its process registers."""
        raise NotImplementedError

    async def get(self, node_id: UUID) -> NodeRow:
        """Return a node. Raises `NotFound`."""
        raise NotImplementedError

    async def list(
        self, *, state: NodeState | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[NodeRow]:
        """Return nodes, oldest first; terminated ones only when ``state`` asks for them."""
        raise NotImplementedError

    async def delete(self, node_id: UUID, *, who: str = "api") -> None:
        """Terminate a node and free its pools. Raises `Conflict` while placements are on it or its process lives."""
        raise NotImplementedError

    async def set_desired(self, node_id: UUID, desired: NodeDesired, *, who: str = "api") -> NodeRow:
        """Ask a node to be ready or to take nothing new (draining)."""
        raise NotImplementedError

    async def set_state(self, node_id: UUID, state: NodeState, reason: str = "", *, who: str = "host") -> NodeRow:
        """Write what a node is. ``ready`` becomes ``draining`` while that is desired."""
        raise NotImplementedError

    async def heartbeat(self, node_id: UUID, generation: int) -> bool:
        """Write that the process of this generation lives; False when another generation has registered since."""
        raise NotImplementedError

    async def record_capacity(self, node_id: UUID, capacity: Capacity) -> None:
        """Write what the host can give. May be below what is placed: then free is zero, never negative."""
        raise NotImplementedError

    async def resources(self, node_id: UUID | None = None) -> tuple[ResourcesRow, ...]:
        """Return capacity, use and what is free, of one node or of each that is not terminated."""
        raise NotImplementedError
