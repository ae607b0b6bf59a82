"""Nodes: the hosts."""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address
from typing import Annotated
from uuid import UUID

import msgspec

from actors.model.errors import InvalidInput
from actors.model.states import NodeDesired, NodeState
from zeitwork.api.call import Answer, Call
from zeitwork.api.decode import Input
from zeitwork.api.desired import wish
from zeitwork.api.paging import PageQuery
from zeitwork.store.rows import NodeRow, ResourcesRow

Hostname = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$(?!\n)", max_length=253)
]


class NodeQuery(PageQuery):
    """Parameters of the list of nodes; terminated ones only when ``state`` asks for them."""

    state: NodeState | None = None


class NewNode(Input):
    """A host that is expected to join."""

    hostname: Hostname
    ip_address: Annotated[str, msgspec.Meta(max_length=45, description="IPv6 or IPv4 address")]
    region_id: UUID | None = None


class NodeWish(Input):
    """``ready`` or ``draining`` (takes nothing new)."""

    state: NodeState


class NodeResources(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in MiB. ``available`` is capacity minus what placements hold, never below zero."""

    vcpu: int
    memory: int
    vcpu_allocated: int
    memory_allocated: int
    vcpu_available: int
    memory_available: int
    placements: int


class NodeAddress(msgspec.Struct, frozen=True, kw_only=True):
    """An address of the host itself. ``primary``: the one that others reach it by in this family."""

    interface: str
    address: str
    prefix_length: int
    primary: bool


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A host. ``generation`` counts the starts of its process; 0 means that it never came.

    ``ip_address`` is what the host is called by, ``addresses`` are all of its own that reach beyond one link.
    ``reason`` tells of its state, or why it is ``closed``: ready, but too busy to take new work for now.
    """

    id: UUID
    hostname: str
    region_id: UUID
    region: str
    ip_address: str | None
    addresses: list[NodeAddress]
    state: NodeState
    desired_state: NodeDesired
    reason: str
    closed: bool
    closed_since: datetime | None
    generation: int
    version: str
    ipv6_prefix: str | None
    ipv4_pool: str | None
    resources: NodeResources
    last_seen_at: datetime | None
    created_at: datetime
    updated_at: datetime


class NodePage(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes, oldest first."""

    items: list[Node]
    next_cursor: str | None


def resources_of(row: ResourcesRow | None) -> NodeResources:
    """Return a node's resources; all zero while nothing is known of them."""
    if row is None:
        return NodeResources(
            vcpu=0,
            memory=0,
            vcpu_allocated=0,
            memory_allocated=0,
            vcpu_available=0,
            memory_available=0,
            placements=0,
        )
    return NodeResources(
        vcpu=row.vcpu,
        memory=row.memory,
        vcpu_allocated=row.vcpu_used,
        memory_allocated=row.memory_used,
        vcpu_available=row.vcpu_free,
        memory_available=row.memory_free,
        placements=row.placements,
    )


def present(row: NodeRow, resources: ResourcesRow | None) -> Node:
    """Return a node as the API shows it."""
    network = row.network
    return Node(
        id=row.id,
        hostname=row.hostname,
        region_id=row.region.id,
        region=row.region.name,
        ip_address=None if row.ip_address is None else str(row.ip_address),
        addresses=[
            NodeAddress(
                interface=item.interface,
                address=str(item.address.ip),
                prefix_length=item.address.network.prefixlen,
                primary=item.primary,
            )
            for item in row.addresses
        ],
        state=row.state,
        desired_state=row.desired,
        reason=row.reason or row.closed_reason,
        closed=row.closed_since is not None,
        closed_since=row.closed_since,
        generation=row.generation,
        version=row.version,
        ipv6_prefix=str(network.v6) if network and network.v6 else None,
        ipv4_pool=str(network.v4) if network else None,
        resources=resources_of(resources),
        last_seen_at=row.last_seen_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def listing(call: Call) -> Answer:
    """GET /api/v1/nodes."""
    query: NodeQuery = call.query
    page = await call.deps.store.nodes.list(state=query.state, limit=query.limit, cursor=query.cursor)
    resources = {row.node_id: row for row in await call.deps.store.nodes.resources()}
    items = [present(row, resources.get(row.id)) for row in page.items]
    return Answer(NodePage(items=items, next_cursor=page.next_cursor))


async def create(call: Call) -> Answer:
    """POST /api/v1/nodes."""
    body: NewNode = call.body
    try:
        address = ip_address(body.ip_address)
    except ValueError:
        raise InvalidInput(f"{body.ip_address!r} is not an IP address", field="ip_address") from None
    row = await call.deps.store.nodes.create(body.hostname, ip_address=address, region_id=body.region_id, id=call.token)
    return Answer(present(row, None), status=201)


async def get(call: Call) -> Answer:
    """GET /api/v1/nodes/{id}."""
    return Answer(await _shown(call, await call.deps.store.nodes.get(call.id)))


async def delete(call: Call) -> Answer:
    """DELETE /api/v1/nodes/{id}."""
    await call.deps.store.nodes.delete(call.id)
    return Answer(None, status=204)


async def put_state(call: Call) -> Answer:
    """PUT /api/v1/nodes/{id}/state."""
    body: NodeWish = call.body
    row = await call.deps.store.nodes.set_desired(call.id, wish(body.state, NodeDesired, "a node"))
    return Answer(await _shown(call, row), status=202)


async def _shown(call: Call, row: NodeRow) -> Node:
    resources = await call.deps.store.nodes.resources(row.id)
    return present(row, resources[0] if resources else None)
