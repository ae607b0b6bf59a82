"""Rows that actors read: immutable copies of what the database holds, never live objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from actors.model.health import NO_CHECK, HealthCheck, HealthState
from actors.model.image import ImageConfig
from actors.model.network import Lease
from actors.model.resources import Resources
from actors.model.restart import NEVER, RestartPolicy
from actors.model.scheduling import ANYWHERE, DEFAULT_PRIORITY, Requirements
from actors.model.states import ImageStatus, InstanceDesired, Outcome, PlacementState


@dataclass(frozen=True, slots=True)
class Placement:
    """One try to run one generation of an instance on one host, with all that the host needs to carry it out.

    ``wanted`` is False once the instance no longer wants this placement (stopped, terminated, moved, newer
    generation): the host then stops it and confirms removal. ``stop_timeout`` is in seconds; ``force`` skips it.
    ``boot_id`` is the kernel boot that its VMM was started under, None before the first start. ``failures`` is how
    often in a row it ended by itself; ``next_try_at`` (Unix seconds) is when a waiting one is started again, None: now.
    ``paused`` is whether it is wanted paused, ``snapshots`` are those that are to be taken of it now, oldest first, and
    ``restore`` is the snapshot that its first start goes on from instead of booting. ``image_source`` is what its image
    was made from, for a host that does not have it yet.
    """

    id: UUID
    instance_id: UUID
    generation: int
    node_id: UUID
    wanted: bool
    image_id: UUID
    image_digest: str
    image_config: ImageConfig
    resources: Resources
    lease: Lease
    default_port: int
    state: PlacementState
    hostname: str
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()  # replaces the image's entrypoint and cmd when not empty
    stop_timeout: float = 30.0
    force: bool = False
    boot_id: str | None = None
    restart: RestartPolicy = NEVER
    failures: int = 0
    next_try_at: float | None = None
    health: HealthCheck = NO_CHECK
    health_state: HealthState = HealthState.UNKNOWN
    running_at: float | None = None  # Unix seconds of its present start
    paused: bool = False
    snapshots: tuple[UUID, ...] = ()
    restore: UUID | None = None
    image_source: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotMade:
    """A snapshot that a host has taken, and what may restore it. ``size`` is the bytes it takes on the host's disk.

    ``hypervisor`` with ``vmm_version``, ``guest`` (version of kernel and init) and ``cpu`` (the host's model name) are
    those that it was taken with.
    """

    size: int
    hypervisor: str
    vmm_version: str
    guest: str
    cpu: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What a host saw of a placement: the new state, a sentence for people, and once it ended, how.

    ``exit_status`` is the app's own status (0-255) or, with `Outcome.SIGNALED`, the signal's number. ``failures`` is
    how often in a row it ended by itself, None when that did not change; ``next_try_at`` (Unix seconds) goes with
    `PlacementState.WAITING`.
    """

    state: PlacementState
    reason: str = ""
    outcome: Outcome | None = None
    exit_status: int | None = None
    hypervisor: str | None = None
    pid: int | None = None
    boot_id: str | None = None
    failures: int | None = None
    next_try_at: float | None = None


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image as the database knows it. ``source`` is what was asked for, ``digest`` what was found (manifest)."""

    id: UUID
    source: str
    status: ImageStatus
    digest: str | None = None
    config: ImageConfig | None = None
    size: int = 0  # bytes of the squashfs
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PendingInstance:
    """An instance that wants to run and has no placement of its generation yet.

    ``waiting`` is the seconds since it wants to be placed, ``reason`` what it says about that now. ``singleton``: two
    of it must never run at once. ``leaves`` is the node on which it serves until it runs on another one.
    ``image_nodes`` are the only ones that have its image, None when every node can fetch it.
    """

    id: UUID
    generation: int
    node_id: UUID | None  # pinned by the user, or None
    image_id: UUID
    image_status: ImageStatus
    image_error: str | None
    resources: Resources
    desired: InstanceDesired = InstanceDesired.RUNNING
    priority: int = DEFAULT_PRIORITY
    requirements: Requirements = ANYWHERE
    group_id: UUID | None = None
    singleton: bool = False
    waiting: float = 0.0
    reason: str = ""
    leaves: UUID | None = None
    image_nodes: frozenset[UUID] | None = None
