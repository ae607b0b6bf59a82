"""Where a test may kill the host process in the middle of a machine's start or stop; see `runtime.crash`.

Each name is reached in exactly one place. A test kills at every one of them and looks that the next process makes all
good, so a new name needs no more than its line here, its call, and what leads there in that test's table.
"""

from __future__ import annotations

from enum import StrEnum


class CrashPoint(StrEnum):
    """A place, named by what has just happened."""

    # The database, once for each state that is told to it.
    REPORT_DUE = "report-due"  # something happened that the database does not know yet
    REPORT_WRITTEN = "report-written"  # it knows, and nobody here has heard that it does

    # The writable disk.
    TEMPLATE_FORMATTED = "template-formatted"  # under its scratch name
    DISK_WRITTEN = "disk-written"  # under its temporary name
    DISK_MADE = "disk-made"

    # The network.
    TAP_CREATED = "tap-created"  # no address, route or note whose it is
    TAP_MADE = "tap-made"  # its rules may be missing
    TAP_READY = "tap-ready"  # rules and all, and nobody has heard of it

    # The monitor.
    CONFIG_WRITTEN = "config-written"  # run directory with the config drive, no intent
    INTENT_WRITTEN = "intent-written"
    JAIL_BEGUN = "jail-begun"  # nothing but its root directory
    JAIL_FILLED = "jail-filled"  # drives linked; log, socket and TAP are not
    GROUP_MADE = "group-made"  # jail and cgroup stand, no process
    SPAWNED = "spawned"  # a process that only its cgroup knows
    PID_WRITTEN = "pid-written"  # it is not configured
    CONFIGURED = "configured"  # its guest is not started
    GUEST_STARTED = "guest-started"  # the PID file does not say so
    BOOT_NOTED = "boot-noted"  # the actor does not know
    APP_STARTED = "app-started"  # the PID file does not say so
    APP_NOTED = "app-noted"  # the database does not know

    # Held still, for a snapshot above all.
    SNAPSHOT_BEGUN = "snapshot-begun"  # an empty directory, and nothing was done to the guest
    GUEST_HELD = "guest-held"  # frozen and paused
    STATE_SAVED = "state-saved"  # its disk is not
    DISK_SAVED = "disk-saved"  # the guest is still held
    GUEST_RELEASED = "guest-released"  # it goes on, frozen; the snapshot has no manifest
    SNAPSHOT_KEPT = "snapshot-kept"  # under its own name, and the database does not know
    SNAPSHOT_TOLD = "snapshot-told"

    # Restored.
    INTRODUCED = "introduced"  # it knows who it is, and is frozen

    # Its end.
    STOP_ASKED = "stop-asked"  # the guest was asked to end
    MONITOR_ENDED = "monitor-ended"  # nothing of what it held is dropped
    PARKED = "parked"  # the intent says so, the database does not
    DISK_DROPPED = "disk-dropped"
    TAP_DROPPED = "tap-dropped"  # its rules are there
    JAIL_DROPPED = "jail-dropped"  # run directory and cgroup are there
    RUN_DROPPED = "run-dropped"  # the cgroup is there
    MACHINE_DROPPED = "machine-dropped"
    FILES_FORGOTTEN = "files-forgotten"  # all but the intent
    FORGOTTEN = "forgotten"  # the actor does not know
