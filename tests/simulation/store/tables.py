"""Rows of the double, one class for each table. Times are Unix seconds of the database's clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any
from uuid import UUID

from actors.model.health import NO_CHECK, HealthCheck, HealthState
from actors.model.image import ImageConfig
from actors.model.resources import Capacity, Resources
from actors.model.restart import RestartPolicy
from actors.model.scheduling import ANYWHERE, ARCHITECTURE, DEFAULT_PRIORITY, Requirements, Taint
from actors.model.states import (
    ImageStatus,
    InstanceDesired,
    InstanceState,
    NodeDesired,
    NodeState,
    Outcome,
    PlacementState,
)
from zeitwork.store.rows import NewInstance


@dataclass(frozen=True, slots=True)
class Region:
    id: UUID
    name: str
    v6: IPv6Network
    v4: IPv4Network


@dataclass(frozen=True, slots=True)
class Node:
    id: UUID
    hostname: str
    region_id: UUID
    created_at: float
    updated_at: float
    host_id: UUID | None = None
    ip_address: IPv4Address | IPv6Address | None = None
    ipv6: bool = True
    version: str = ""
    desired: NodeDesired = NodeDesired.READY
    desired_generation: int = 1
    state: NodeState = NodeState.BOOTING
    reason: str = ""
    generation: int = 0
    boot_id: str | None = None
    capacity: Capacity | None = None
    closed_since: float | None = None
    closed_reason: str = ""
    epoch_seen: int = 0
    last_seen_at: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    hypervisor: str | None = None
    architecture: str = ARCHITECTURE
    pressure: float = 0.0
    down_since: float | None = None
    replace_after: float | None = None
    #: Nobody is let in as this node again.
    buried: bool = False


@dataclass(frozen=True, slots=True)
class Invitation:
    node_id: UUID
    address: str
    code: str | None
    coded: bool
    timeout: float
    asked_at: float
    tries: int = 0
    reason: str = ""
    accepted_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class JoinToken:
    id: UUID
    secret_hash: bytes
    expires_at: float
    node_id: UUID | None = None
    used_by: UUID | None = None
    used_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    network: IPv4Network | IPv6Network
    node_id: UUID
    first: int
    last: int
    next: int

    @property
    def family(self) -> int:
        return self.network.version


@dataclass(frozen=True, slots=True)
class Image:
    id: UUID
    source: str
    created_at: float
    updated_at: float
    status: ImageStatus = ImageStatus.PENDING
    digest: str | None = None
    config: ImageConfig | None = None
    size: int = 0
    percent: int = 0
    message: str = ""
    error: str | None = None
    error_field: str | None = None
    error_fix: str | None = None
    node_id: UUID | None = None
    deleted_at: float | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    id: UUID
    name: str | None
    image_id: UUID
    pinned_node_id: UUID | None
    resources: Resources
    default_port: int
    environment: Mapping[str, str]
    command: tuple[str, ...]
    stop_timeout: float
    restart: RestartPolicy
    created_at: float
    updated_at: float
    state_changed_at: float
    pending_since: float
    health: HealthCheck = NO_CHECK
    group_id: UUID | None = None
    slot: int | None = None
    priority: int = DEFAULT_PRIORITY
    singleton: bool = False
    requirements: Requirements = ANYWHERE
    desired: InstanceDesired = InstanceDesired.RUNNING
    generation: int = 1
    stop_force: bool = False
    stop_wait: float | None = None
    drop_volumes: bool = False
    paused: bool = False
    retry_asked_at: float | None = None
    state: InstanceState = InstanceState.PENDING
    observed_generation: int = 0
    reason: str = ""
    outcome: Outcome | None = None
    exit_status: int | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    id: UUID
    instance_id: UUID
    generation: int
    node_id: UUID
    resources: Resources
    memory_overhead: int
    v4: IPv4Address
    v6: IPv6Address | None
    epoch: int
    created_at: float
    updated_at: float
    exclusive: bool = False
    kept: bool = False
    asked: bool = False
    lost_at: float | None = None
    state: PlacementState = PlacementState.ASSIGNED
    reason: str = ""
    outcome: Outcome | None = None
    exit_status: int | None = None
    hypervisor: str | None = None
    pid: int | None = None
    boot_id: str | None = None
    failures: int = 0
    restarts: int = 0
    next_try_at: float | None = None
    health: HealthState = HealthState.UNKNOWN
    health_reason: str = ""
    health_changed_at: float | None = None
    running_at: float | None = None
    removed_at: float | None = None

    @property
    def live(self) -> bool:
        return self.state is not PlacementState.REMOVED

    @property
    def lost(self) -> bool:
        return self.lost_at is not None


@dataclass(frozen=True, slots=True)
class Group:
    id: UUID
    name: str
    template: NewInstance
    replicas: int
    created_at: float
    updated_at: float
    generation: int = 1
    failures: int = 0
    retry_at: float | None = None
    deleted_at: float | None = None
    gone_at: float | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """A row of ``leases``; ``rest_until`` is None while it is leased."""

    address: IPv4Address | IPv6Address
    pool: IPv4Network | IPv6Network
    node_id: UUID
    placement_id: UUID
    leased_at: float
    rest_until: float | None = None


@dataclass(frozen=True, slots=True)
class Leadership:
    epoch: int
    node_id: UUID
    generation: int
    boot: UUID
    elected_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Event:
    id: int
    at: float
    who: str
    what: str
    subject_kind: str
    subject_id: UUID
    data: Mapping[str, Any] = field(default_factory=dict)
