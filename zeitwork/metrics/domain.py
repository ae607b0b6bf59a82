"""Resources, nodes, instances, images, placements and leases, read from the store at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from prometheus_client.metrics_core import Metric as Family

from actors.ipam_lease.store import PoolUsage
from actors.model.health import HealthState, HealthType
from actors.model.states import ImageStatus, InstanceState, NodeState, PlacementState, SnapshotState
from actors.model.units import MIB
from zeitwork.metrics import catalogue
from zeitwork.metrics.families import family
from zeitwork.store.election import LeaderRow
from zeitwork.store.rows import ResourcesRow

if TYPE_CHECKING:
    from zeitwork.store import Store


@dataclass(frozen=True, slots=True)
class Domain:
    """What the database said, at one moment."""

    resources: tuple[ResourcesRow, ...]
    instances: dict[InstanceState, int]
    images: dict[ImageStatus, int]
    snapshots: dict[SnapshotState, int]
    placements: dict[PlacementState, int]
    health: dict[HealthState, int]
    pools: tuple[PoolUsage, ...]
    leader: LeaderRow | None


async def read(store: Store, node_id: UUID) -> Domain:
    """Read all of it. Raises `Unavailable` while the database is away."""
    found = await store.placements.placements(node_id)
    placements = Counter(placement.state for placement in found)
    health = Counter(
        placement.health_state
        for placement in found
        if placement.state is PlacementState.RUNNING and placement.health.type is not HealthType.NONE
    )
    return Domain(
        resources=await store.nodes.resources(),
        instances=await store.instances.counts(),
        images=await store.images.counts(),
        snapshots=await store.snapshots.counts(),
        placements={state: placements[state] for state in PlacementState if state is not PlacementState.REMOVED},
        health={state: health[state] for state in HealthState},
        pools=await store.leases.usage(node_id),
        leader=await store.election.leader(),
    )


def families(domain: Domain) -> Iterator[Family]:
    """Yield the families of one reading."""
    rows = {(str(row.node_id), row.hostname): row for row in domain.resources}
    yield family(catalogue.VCPU_CAPACITY, {labels: row.vcpu for labels, row in rows.items()})
    yield family(catalogue.VCPU_ALLOCATED, {labels: row.vcpu_used for labels, row in rows.items()})
    yield family(catalogue.VCPU_AVAILABLE, {labels: row.vcpu_free for labels, row in rows.items()})
    yield family(catalogue.MEMORY_CAPACITY, {labels: row.memory * MIB for labels, row in rows.items()})
    yield family(catalogue.MEMORY_ALLOCATED, {labels: row.memory_used * MIB for labels, row in rows.items()})
    yield family(catalogue.MEMORY_AVAILABLE, {labels: row.memory_free * MIB for labels, row in rows.items()})
    overheads = {labels: row.overhead for labels, row in rows.items()}
    yield family(catalogue.OVERHEAD_ALLOCATED, {labels: one.allocated * MIB for labels, one in overheads.items()})
    yield family(catalogue.OVERHEAD_MEASURED, {labels: one.measured * MIB for labels, one in overheads.items()})
    yield family(catalogue.OVERHEAD_EXCESS, {labels: one.excess * MIB for labels, one in overheads.items()})
    known = {labels: row.capacity for labels, row in rows.items() if row.capacity is not None}
    yield family(catalogue.OVERHEAD_CHARGED, {labels: one.memory_overhead * MIB for labels, one in known.items()})
    yield family(catalogue.NODE_PLACEMENTS, {labels: row.placements for labels, row in rows.items()})
    yield family(catalogue.NODE_CLOSED, {labels: 1 if row.closed_reason else 0 for labels, row in rows.items()})
    leader = domain.leader
    leads = str(leader.node_id) if leader is not None and leader.leading else None
    yield family(catalogue.LEADER, {labels: 1 if labels[0] == leads else 0 for labels in rows})
    yield family(catalogue.LEADER_EPOCH, leader.epoch if leader is not None else 0)
    states = Counter(row.state for row in domain.resources)
    yield family(
        catalogue.NODES, {(state.value,): states[state] for state in NodeState if state is not NodeState.TERMINATED}
    )
    yield family(catalogue.INSTANCES, {(state.value,): count for state, count in domain.instances.items()})
    yield family(catalogue.IMAGES, {(status.value,): count for status, count in domain.images.items()})
    yield family(catalogue.SNAPSHOTS, {(state.value,): count for state, count in domain.snapshots.items()})
    yield family(catalogue.PLACEMENTS, {(state.value,): count for state, count in domain.placements.items()})
    yield family(catalogue.HEALTH, {(state.value,): count for state, count in domain.health.items()})
    pools = {(f"ipv{pool.family}",): pool for pool in domain.pools}
    yield family(catalogue.LEASE_POOL, {labels: pool.size for labels, pool in pools.items()})
    yield family(catalogue.LEASED, {labels: pool.leased for labels, pool in pools.items()})
    yield family(catalogue.RESTING, {labels: pool.resting for labels, pool in pools.items()})
