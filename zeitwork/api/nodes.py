"""Nodes: the hosts."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from ipaddress import ip_address
from typing import Annotated
from uuid import UUID

import msgspec

from actors.model.errors import Conflict, InvalidInput, Problem
from actors.model.states import NodeDesired, NodeState
from zeitwork.api.call import Answer, Call
from zeitwork.api.decode import Input
from zeitwork.api.desired import wish
from zeitwork.api.members import Membership, membership_of, overview_of
from zeitwork.api.paging import PageQuery
from zeitwork.api.requirements import MOST, GivenTaint, WantedTaint, given_taints, taints_of
from zeitwork.config import LINK_PORT
from zeitwork.store.rows import DrainRow, NodeRow, ResourcesRow

Hostname = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$(?!\n)", max_length=253)
]


class NodeQuery(PageQuery):
    """Parameters of the list of nodes; terminated ones only when ``state`` asks for them."""

    state: NodeState | None = None


class NewNode(Input):
    """A host that is expected to join. It is invited at its address for ``timeout`` seconds, then in error.

    ``code`` is what the unclaimed host there printed, taken through the unix socket only; one that was given a join
    token instead needs none. It is shown to nobody, and kept until it is used.
    """

    hostname: Hostname
    ip_address: Annotated[str, msgspec.Meta(max_length=45, description="IPv6 or IPv4 address")]
    region_id: UUID | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = LINK_PORT
    code: Annotated[str, msgspec.Meta(max_length=100)] | None = None
    timeout: Annotated[int, msgspec.Meta(ge=10, le=24 * 3600)] = 600


class AskedNodeState(StrEnum):
    """States of nodes: ``ready``, ``cordoned`` and ``draining`` can be asked for, the others are observed."""

    READY = "ready"
    CORDONED = "cordoned"
    DRAINING = "draining"
    BOOTING = "booting"
    DOWN = "down"
    TERMINATED = "terminated"
    ERROR = "error"
    UNKNOWN = "unknown"


class NodeWish(Input):
    """``ready``, ``cordoned`` (takes nothing new) or ``draining`` (and what is there moves elsewhere)."""

    state: AskedNodeState


class RemovalQuery(Input):
    """``dead``: the host never comes back. What ran there is placed anew at once, even what is never to run twice."""

    dead: bool = False


class Leaving(Input):
    """``force``: stop what runs on this host; it is placed anew elsewhere."""

    force: bool = False


class Taints(Input):
    """All taints that the node shall have: it takes only what tolerates each of them. What is there stays."""

    taints: Annotated[list[WantedTaint], msgspec.Meta(max_length=MOST)]


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


class NodeDrain(msgspec.Struct, frozen=True, kw_only=True):
    """What is left on a node that is to be emptied.

    Of ``placements``, ``pinned`` ones and ``restored`` ones (they go on from a snapshot that is there) can't run
    elsewhere: they stay until somebody stops them. ``singletons`` move only once another host has room for them.
    """

    placements: int
    pinned: int
    restored: int
    singletons: int


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A host. ``generation`` counts the starts of its process; 0 means that it never came.

    ``ip_address`` is what the host is called by, ``addresses`` are all of its own that reach beyond one link.
    ``reason`` tells of its state, or why it is ``closed``: ready, but too busy to take new work for now. ``labels`` are
    its own, ``taints`` operators'. ``hypervisor`` is null until something was found that runs guests there.
    ``pressure`` is the share of the last minute in which tasks waited for a CPU, 0 to 1. ``drain`` is null unless it is
    to be emptied. ``membership`` is what the host that answers knows of it by gossip: null without links, and of one
    that has none or is long gone.
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
    labels: dict[str, str]
    taints: list[GivenTaint]
    hypervisor: str | None
    architecture: str
    pressure: float
    resources: NodeResources
    drain: NodeDrain | None
    membership: Membership | None
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


def present(
    row: NodeRow,
    resources: ResourcesRow | None,
    drain: DrainRow | None = None,
    membership: Membership | None = None,
) -> Node:
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
        labels=dict(row.labels),
        taints=given_taints(row.taints),
        hypervisor=row.hypervisor,
        architecture=row.architecture,
        # As it was written: the database keeps it in single precision.
        pressure=round(row.pressure, 2),
        resources=resources_of(resources),
        drain=None
        if drain is None
        else NodeDrain(
            placements=drain.placements,
            pinned=drain.pinned,
            restored=drain.restored,
            singletons=drain.singletons,
        ),
        membership=membership,
        last_seen_at=row.last_seen_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def listing(call: Call) -> Answer:
    """GET /api/v1/nodes."""
    query: NodeQuery = call.query
    page = await call.deps.store.nodes.list(state=query.state, limit=query.limit, cursor=query.cursor)
    resources = {row.node_id: row for row in await call.deps.store.nodes.resources()}
    drains = await call.deps.store.nodes.drains()
    known = overview_of(call).by_id()
    items = [
        present(row, resources.get(row.id), drains.get(row.id), membership_of(known.get(row.id))) for row in page.items
    ]
    return Answer(NodePage(items=items, next_cursor=page.next_cursor))


async def create(call: Call) -> Answer:
    """POST /api/v1/nodes."""
    body: NewNode = call.body
    try:
        address = ip_address(body.ip_address)
    except ValueError:
        raise InvalidInput(f"{body.ip_address!r} is not an IP address", field="ip_address") from None
    if address.is_unspecified or address.is_multicast:
        raise InvalidInput(f"{body.ip_address} is no host's address", field="ip_address")
    code = None
    if body.code is not None:
        if call.request.scope.get("server") is not None:
            # Whoever may bring in a host of their own reads all there is: as with join tokens.
            raise Problem(
                "hosts are invited with a code through the unix socket only",
                field="code",
                fix="run zeitwork nodes add on a host of the cluster, as root or a member of the socket's group",
                code="socket-only",
                status=HTTPStatus.FORBIDDEN,
            )
        # What reads certificates takes a while to import; most hosts never do.
        from zeitwork.trust.invitation import parse_code

        code = str(parse_code(body.code))
    row = await call.deps.store.invitations.create(
        body.hostname,
        ip_address=address,
        address=f"[{address}]:{body.port}" if address.version == 6 else f"{address}:{body.port}",
        code=code,
        timeout=body.timeout,
        region_id=body.region_id,
        id=call.token,
    )
    return Answer(present(row, None), status=201)


async def get(call: Call) -> Answer:
    """GET /api/v1/nodes/{id}."""
    return Answer(await _shown(call, await call.deps.store.nodes.get(call.id)))


async def delete(call: Call) -> Answer:
    """DELETE /api/v1/nodes/{id}."""
    query: RemovalQuery = call.query
    await call.deps.store.nodes.delete(call.id, dead=query.dead)
    return Answer(None, status=204)


async def leave(call: Call) -> Answer:
    """POST /api/v1/leave."""
    if call.deps.leave is None:
        raise Conflict("this host can't leave", code="not-a-member")
    body: Leaving = call.body or Leaving()
    await call.deps.leave(force=body.force)
    return Answer(await _shown(call, await call.deps.store.nodes.get(call.deps.node_id)))


async def put_state(call: Call) -> Answer:
    """PUT /api/v1/nodes/{id}/state."""
    body: NodeWish = call.body
    if body.state is AskedNodeState.READY:
        # One that was given up is asked for again by that.
        await call.deps.store.invitations.again(call.id)
    row = await call.deps.store.nodes.set_desired(call.id, wish(body.state, NodeDesired, "a node"))
    return Answer(await _shown(call, row), status=202)


async def put_taints(call: Call) -> Answer:
    """PUT /api/v1/nodes/{id}/taints."""
    body: Taints = call.body
    row = await call.deps.store.nodes.set_taints(call.id, taints_of(body.taints, "taints"))
    return Answer(await _shown(call, row))


async def _shown(call: Call, row: NodeRow) -> Node:
    nodes = call.deps.store.nodes
    resources = await nodes.resources(row.id)
    drains = await nodes.drains(row.id) if row.desired is NodeDesired.DRAINING else {}
    membership = membership_of(overview_of(call).by_id().get(row.id))
    return present(row, resources[0] if resources else None, drains.get(row.id), membership)
