"""The states that the API shows. The SQL checks and OpenAPI enums are tested equal to these."""

from __future__ import annotations

from enum import StrEnum


class InstanceDesired(StrEnum):
    """What a person asked an instance to be."""

    RUNNING = "running"
    STOPPED = "stopped"
    TERMINATED = "terminated"


class Volumes(StrEnum):
    """What becomes of an instance's volumes when it is deleted."""

    KEEP = "keep"
    DELETE = "delete"


class InstanceState(StrEnum):
    """What an instance is, as last observed."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    CRASH_LOOP = "crash_loop"
    UNKNOWN = "unknown"
    TERMINATED = "terminated"


class PlacementState(StrEnum):
    """What one try on one host is, as that host last wrote it. ``removed`` means: nothing of it is left there."""

    ASSIGNED = "assigned"
    PREPARING = "preparing"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    WAITING = "waiting"  # it ended by itself and is started again, in place, at a known time
    REMOVED = "removed"


class SnapshotState(StrEnum):
    """What a snapshot is: only ``ready`` ones can be restored."""

    CREATING = "creating"
    READY = "ready"
    FAILED = "failed"
    DELETING = "deleting"  # its host still has the files
    DELETED = "deleted"


class ImageStatus(StrEnum):
    """What an image is: only ``ready`` ones can be started."""

    PENDING = "pending"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


class NodeDesired(StrEnum):
    """What a person asked a node to be."""

    READY = "ready"
    CORDONED = "cordoned"  # nothing new is placed on it
    DRAINING = "draining"  # nor does what is on it stay


class NodeState(StrEnum):
    """What a node is."""

    BOOTING = "booting"
    READY = "ready"
    DRAINING = "draining"
    DOWN = "down"
    TERMINATED = "terminated"
    ERROR = "error"
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """Why a placement ended."""

    EXITED = "exited"  # the app ended by itself; the status says how
    SIGNALED = "signaled"  # the app was ended by a signal inside the guest
    STOPPED = "stopped"  # asked to stop, and did within its time
    KILLED = "killed"  # asked to stop, and was killed at the deadline
    START_FAILED = "start_failed"  # never came to run the app
    VMM_DIED = "vmm_died"  # the virtual machine monitor ended without a word from the guest
    PANIC = "panic"  # the guest kernel panicked
    OOM_KILLED = "oom_killed"  # memory was used up: the app in its guest, or the monitor on its host
    UNHEALTHY = "unhealthy"  # it did not answer its health check and was ended for it
    UNKNOWN = "unknown"
