"""What the store hands out: immutable copies of rows, and the values that ask it for new ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Generic, TypeVar
from uuid import UUID

from actors.model.health import NO_CHECK, HealthCheck, HealthState
from actors.model.image import ImageConfig
from actors.model.network import HostNetwork, OwnAddress
from actors.model.resources import Capacity, Resources
from actors.model.restart import ALWAYS, RestartPolicy
from actors.model.scheduling import ANYWHERE, ARCHITECTURE, DEFAULT_PRIORITY, Requirements, Taint
from actors.model.states import (
    ImageStatus,
    InstanceDesired,
    InstanceState,
    NodeDesired,
    NodeState,
    Outcome,
    PlacementState,
    SnapshotState,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, oldest first. ``next_cursor`` asks for the rest, None when there is none."""

    items: tuple[T, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """The cluster that this database is the truth of."""

    id: UUID
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RegionRow:
    """A region and the networks that its hosts' pools are carved from; ``v6`` is a /48."""

    id: UUID
    name: str
    v6: IPv6Network
    v4: IPv4Network


#: What a new region's hosts take their IPv4 pools from when nobody says otherwise.
DEFAULT_REGION_V4 = IPv4Network("10.128.0.0/16")


@dataclass(frozen=True, slots=True)
class HostRegistration:
    """What a host says of itself when its process starts.

    ``host_id`` is kept in its data directory, ``boot_id`` is the kernel's. ``region_v6`` (a /48; None = a random one
    by RFC 4193) and ``region_v4`` count only when the region is new. ``ipv6`` False leaves the host without a /64.
    ``labels`` are what it is to be found by; those of an earlier start are forgotten.
    """

    host_id: UUID
    hostname: str
    boot_id: str
    region: str = "default"
    region_v6: IPv6Network | None = None
    region_v4: IPv4Network = DEFAULT_REGION_V4
    ipv6: bool = True
    ip_address: IPv4Address | IPv6Address | None = None
    version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ARCHITECTURE


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A host. ``generation`` counts the starts of its process; 0 means that it never came.

    ``ip_address`` is what it is called by, ``addresses`` are all that it was last seen to have. ``closed_reason`` says
    why it takes no new work for now, empty while it does. ``overhead_peaks`` is the KiB that monitors of each
    hypervisor were seen to need on it. ``labels`` are its own, ``taints`` operators'; ``hypervisor`` is None until
    something was found that runs guests there; ``pressure`` is the share of the last minute in which its tasks waited
    for a CPU, 0 to 1.
    """

    id: UUID
    hostname: str
    region: RegionRow
    ip_address: IPv4Address | IPv6Address | None
    addresses: tuple[OwnAddress, ...]
    desired: NodeDesired
    desired_generation: int
    state: NodeState
    reason: str
    generation: int
    boot_id: str | None
    version: str
    network: HostNetwork | None
    capacity: Capacity | None
    closed_since: datetime | None
    closed_reason: str
    overhead_peaks: Mapping[str, int]
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    hypervisor: str | None
    architecture: str
    pressure: float
    last_seen_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class DrainRow:
    """What is left on a node that is to be emptied. ``pinned`` and ``restored`` ones (they go on from a snapshot that
    is there) can't run elsewhere; ``singletons`` move only once another host has room, since they stop first."""

    placements: int
    pinned: int
    restored: int
    singletons: int

    @property
    def bound(self) -> int:
        """Those that stay until somebody stops them."""
        return self.pinned + self.restored


@dataclass(frozen=True, slots=True)
class OverheadRow:
    """What virtual machines' monitors take on a node beside their guests, in MiB.

    ``allocated`` is what placements hold for it, ``measured`` what the ``monitors`` that were looked at take together,
    and ``excess`` how much of that is beyond what their own placements hold: it is not free, though nobody holds it.
    """

    allocated: int
    measured: int
    monitors: int
    excess: int


@dataclass(frozen=True, slots=True)
class ResourcesRow:
    """What a node has, what placements hold (overhead of their VMMs included) and what is free, never negative.

    ``vcpu`` and ``memory`` (MiB) are capacity x overcommit. All are zero while the node's capacity is unknown.
    """

    node_id: UUID
    hostname: str
    state: NodeState
    capacity: Capacity | None
    vcpu: int
    memory: int
    vcpu_used: int
    memory_used: int
    vcpu_free: int
    memory_free: int
    placements: int
    closed_reason: str
    overhead: OverheadRow
    desired: NodeDesired = NodeDesired.READY


@dataclass(frozen=True, slots=True)
class SampleRow:
    """Averages of a node from ``at`` on. Memory in MiB; ``cpus_used`` and ``memory_used`` are the whole machine's."""

    node_id: UUID
    at: datetime
    vcpu: float
    memory: float
    vcpu_allocated: float
    memory_allocated: float
    cpus_used: float
    memory_used: float
    memory_total: float
    placements: float
    overhead_allocated: float
    overhead_measured: float


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image. ``percent`` and ``message`` tell how far it is.

    ``used_by`` counts instances that are not terminated, snapshots that can be restored or are being taken, and groups.
    """

    id: UUID
    source: str
    status: ImageStatus
    digest: str | None
    config: ImageConfig | None
    size: int  # bytes of the squashfs
    percent: int
    message: str
    error: str | None
    error_field: str | None
    error_fix: str | None
    node_id: UUID | None  # the host that builds or has it
    used_by: int
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One change of an image's status."""

    at: datetime
    status: ImageStatus
    message: str
    who: str


@dataclass(frozen=True, slots=True)
class NewInstance:
    """An instance that someone wants. ``node_id`` pins it; ``id`` makes creating it again harmless.

    ``environment`` adds to the image's, ``command`` replaces its entrypoint and cmd when not empty, ``stop_timeout``
    is in seconds. ``snapshot_id`` makes its first generation go on from that snapshot, which must be of the same
    image, resources, environment and command, on the snapshot's host. ``singleton``: two of it must never run at once,
    so one whose host is dead is not replaced before that host says so, or somebody forces it.
    """

    image_id: UUID
    resources: Resources
    default_port: int
    name: str | None = None
    node_id: UUID | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    stop_timeout: float = 30.0
    id: UUID | None = None
    restart: RestartPolicy = ALWAYS
    health: HealthCheck = NO_CHECK
    snapshot_id: UUID | None = None
    priority: int = DEFAULT_PRIORITY
    singleton: bool = False
    requirements: Requirements = ANYWHERE


@dataclass(frozen=True, slots=True)
class NewGroup:
    """A group that someone wants: ``replicas`` instances like ``template``.

    The template's ``name``, ``id`` and ``node_id`` count for nothing. ``id`` makes creating it again harmless.
    """

    name: str
    template: NewInstance
    replicas: int = 1
    id: UUID | None = None


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group: ``replicas`` are wanted, ``members`` are its instances that are not terminated, ``running`` those that
    run, ``alive`` those that have something to lose; ``reason`` is what keeps the others back. ``failures`` is how
    often in a row members failed for good, ``retry_at`` when those are made anew. ``gone_at`` is since when nothing is
    left of a deleted one.
    """

    id: UUID
    name: str
    template: NewInstance
    image_source: str
    replicas: int
    generation: int
    members: int
    running: int
    alive: int
    reason: str
    failures: int
    retry_at: datetime | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    gone_at: datetime | None


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """An instance: what is desired (``desired``, ``generation``) and what is observed (``state`` and below).

    ``node_id``, ``placement_id`` and the addresses are those of its live placement, None when it has none.
    ``pinned_node_id`` is the user's wish. ``outcome`` and ``exit_status`` tell how it last ended. ``restarts`` counts
    new starts of its present placement, ``next_try_at`` is when the next one is due, None when none is. ``health`` is
    what the probes by ``health_check`` say. ``paused`` is whether it is wanted paused, ``snapshot_id`` what its present
    generation went on from, None when it booted. ``slot`` is its place in its group, None when it is in none.
    """

    id: UUID
    name: str | None
    image_id: UUID
    image_source: str
    pinned_node_id: UUID | None
    resources: Resources
    default_port: int
    environment: dict[str, str]
    command: tuple[str, ...]
    stop_timeout: float
    restart: RestartPolicy
    health_check: HealthCheck
    desired: InstanceDesired
    paused: bool
    generation: int
    snapshot_id: UUID | None
    priority: int
    singleton: bool
    requirements: Requirements
    group_id: UUID | None
    group_name: str | None
    slot: int | None
    state: InstanceState
    observed_generation: int
    reason: str
    outcome: Outcome | None
    exit_status: int | None
    restarts: int
    next_try_at: datetime | None
    health: HealthState
    health_reason: str
    health_changed_at: datetime | None
    node_id: UUID | None
    placement_id: UUID | None
    v4: IPv4Address | None
    v6: IPv6Address | None
    created_at: datetime
    updated_at: datetime
    state_changed_at: datetime


@dataclass(frozen=True, slots=True)
class PlacementRow:
    """One try of one instance on one host; its row stays after it ended.

    ``kept``: it serves on, although a newer generation is wanted, until that one runs. ``lost_at`` is when its host was
    found dead; until that host is heard of again, nobody knows whether it runs.
    """

    id: UUID
    instance_id: UUID
    generation: int
    node_id: UUID
    resources: Resources
    memory_overhead: int
    snapshot_id: UUID | None  # what its first start goes on from
    state: PlacementState
    reason: str
    outcome: Outcome | None
    exit_status: int | None
    hypervisor: str | None
    pid: int | None
    boot_id: str | None
    failures: int  # how often in a row it ended by itself
    health: HealthState
    health_reason: str
    health_changed_at: datetime | None
    restarts: int
    next_try_at: datetime | None
    v4: IPv4Address
    v6: IPv6Address | None
    created_at: datetime
    updated_at: datetime
    running_at: datetime | None
    removed_at: datetime | None
    kept: bool = False
    lost_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """What an instance's machine was at one moment; its files are on ``node_id`` only.

    What the instance was made of then is kept: whoever goes on from it is made of the same. ``size`` (bytes on the
    host's disk), ``hypervisor``, ``vmm_version``, ``guest`` and ``cpu`` are known once it is ready.
    """

    id: UUID
    name: str | None
    instance_id: UUID
    instance_name: str | None
    placement_id: UUID
    node_id: UUID
    image_id: UUID
    image_source: str
    image_digest: str
    resources: Resources
    default_port: int
    environment: dict[str, str]
    command: tuple[str, ...]
    stop_timeout: float
    restart: RestartPolicy
    health_check: HealthCheck
    state: SnapshotState
    reason: str
    size: int
    hypervisor: str | None
    vmm_version: str | None
    guest: str | None
    cpu: str | None
    created_at: datetime
    updated_at: datetime
    ready_at: datetime | None
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that changed: who did it, what it was, what it is about."""

    id: int
    at: datetime
    who: str
    what: str
    subject_kind: str  # instance, placement, image, node, region, snapshot, group
    subject_id: UUID
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class IdempotencyRow:
    """What is known of an Idempotency-Key.

    ``token`` is the id that the object this request creates must get: a repeated request gets the same token, so
    that creating it again is harmless even when the first answer was lost. ``status`` and ``body`` are the first
    answer, None while there is none; ``fresh`` is True for whoever began it just now and must do the work.
    """

    key: str
    token: UUID
    fresh: bool
    status: int | None = None
    body: bytes | None = None
