"""Every metric there is: its name, what it counts, its labels. The documentation's table is made from this."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Prometheus' types that are used here."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. A counter's ``name`` is without the ``_total`` that it is shown with."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The name that is queried."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
_NODE = ("node_id", "hostname")

# Of prometheus-client's own process collector.
PROCESS = (
    Metric("process_virtual_memory_bytes", _G, "Virtual memory size in bytes."),
    Metric("process_resident_memory_bytes", _G, "Resident memory size in bytes."),
    Metric("process_start_time_seconds", _G, "Start time of the process since unix epoch in seconds."),
    Metric("process_cpu_seconds", _C, "Total user and system CPU time spent in seconds."),
    Metric("process_open_fds", _G, "Number of open file descriptors."),
    Metric("process_max_fds", _G, "Maximum number of open file descriptors."),
)

INFO = Metric("zeitwork_info", _G, "Always 1; says which version runs on which node.", ("version", "node_id"))

HTTP_REQUESTS = Metric(
    "zeitwork_http_requests",
    _C,
    "Answered requests of the control endpoint; status 499 is a client that left, or a stop, before the answer.",
    ("route", "method", "status"),
)
HTTP_SECONDS = Metric(
    "zeitwork_http_request_seconds", _H, "Seconds from a request to the end of its answer.", ("route", "method")
)

ACTORS = Metric("zeitwork_actors", _G, "Living actors, by the first part of their name.", ("kind",))
ACTOR_DEPTH = Metric("zeitwork_actor_mailbox_messages", _G, "Messages that wait in mailboxes.", ("kind",))
ACTOR_OLDEST = Metric(
    "zeitwork_actor_mailbox_oldest_seconds", _G, "Age of the message that has waited longest in a mailbox.", ("kind",)
)
ACTOR_HANDLED = Metric("zeitwork_actor_messages", _C, "Messages that actors handled.", ("kind",))
ACTOR_RESTARTS = Metric("zeitwork_actor_restarts", _C, "Actors that failed and were started again.", ("kind",))
DEAD_LETTERS = Metric("zeitwork_dead_letters", _C, "Messages and replies that reached nobody, by why.", ("cause",))

STORE_UP = Metric("zeitwork_store_up", _G, "1 when the database answered this scrape, else 0.")
STORE_UNITS = Metric("zeitwork_store_units", _C, "Units of work that ended, by name.", ("unit",))
STORE_FAILURES = Metric("zeitwork_store_failures", _C, "Units of work that ended with an error.", ("unit",))
STORE_SECONDS = Metric(
    "zeitwork_store_unit_seconds", _H, "Seconds a unit of work took, waiting for a connection included.", ("unit",)
)
STORE_RETRIES = Metric("zeitwork_store_retries", _C, "Repeats after serialization failures and deadlocks.")
STORE_CANCELLED = Metric("zeitwork_store_cancelled", _C, "Units of work whose caller gave up.")
STORE_UNKNOWN = Metric("zeitwork_store_unknown_outcomes", _C, "Commits whose answer was lost with the connection.")
STORE_REFUSED = Metric(
    "zeitwork_store_refused", _C, "Units of work that failed at once because the database was known not to answer."
)
STORE_CONNECTS = Metric("zeitwork_store_connects", _C, "Connections opened to the database.")
STORE_CONNECT_FAILURES = Metric("zeitwork_store_connect_failures", _C, "Connections that could not be opened.")
STORE_NOTIFICATIONS = Metric("zeitwork_store_notifications", _C, "Notifications received from the database.")
STORE_RECONNECTS = Metric("zeitwork_store_listener_reconnects", _C, "Times the listening connection was renewed.")
STORE_IN_FLIGHT = Metric("zeitwork_store_units_in_flight", _G, "Units of work being done now.")
STORE_WAITING = Metric("zeitwork_store_units_waiting", _G, "Units of work that wait for a thread.")
STORE_CONNECTIONS = Metric("zeitwork_store_connections", _G, "Open connections to the database.")
STORE_LISTENING = Metric("zeitwork_store_listening", _G, "1 while notifications can arrive, else 0.")
STORE_SILENT = Metric("zeitwork_store_silent", _G, "1 while the database is known not to answer, else 0.")

VCPU_CAPACITY = Metric("zeitwork_vcpu_capacity", _G, "Virtual CPUs a node can give, overcommit included.", _NODE)
VCPU_ALLOCATED = Metric("zeitwork_vcpu_allocated", _G, "Virtual CPUs that placements hold.", _NODE)
VCPU_AVAILABLE = Metric("zeitwork_vcpu_available", _G, "Virtual CPUs that are free.", _NODE)
MEMORY_CAPACITY = Metric("zeitwork_memory_capacity_bytes", _G, "Memory a node can give, overcommit included.", _NODE)
MEMORY_ALLOCATED = Metric(
    "zeitwork_memory_allocated_bytes", _G, "Memory that placements hold, overhead of their VMMs included.", _NODE
)
MEMORY_AVAILABLE = Metric("zeitwork_memory_available_bytes", _G, "Memory that is free.", _NODE)
OVERHEAD_ALLOCATED = Metric(
    "zeitwork_overhead_allocated_bytes", _G, "Memory that placements hold for their VMMs beside the guests'.", _NODE
)
OVERHEAD_MEASURED = Metric(
    "zeitwork_overhead_measured_bytes", _G, "Memory that running VMMs were seen to take beside their guests'.", _NODE
)
OVERHEAD_EXCESS = Metric(
    "zeitwork_overhead_excess_bytes", _G, "What VMMs take beyond what their placements hold; not available.", _NODE
)
OVERHEAD_CHARGED = Metric(
    "zeitwork_overhead_charged_bytes", _G, "Memory that a new placement holds for its VMM on a node.", _NODE
)
NODE_PLACEMENTS = Metric("zeitwork_node_placements", _G, "Placements on a node that are not removed.", _NODE)
NODE_CLOSED = Metric("zeitwork_node_closed", _G, "1 while memory pressure closes a node to new work, else 0.", _NODE)
LEADER = Metric("zeitwork_leader", _G, "1 for the node whose host leads the cluster, else 0.", _NODE)
LEADER_EPOCH = Metric(
    "zeitwork_leader_epoch", _G, "Number of the present or last leader's term; grows with each election."
)
SCHEDULER_EVALUATIONS = Metric(
    "zeitwork_scheduler_evaluations",
    _C,
    "Evaluations by this host's scheduler while it led, by how they ended.",
    ("result",),
)
SCHEDULER_SECONDS = Metric("zeitwork_scheduler_seconds", _C, "Seconds that this host's scheduler evaluated for.")
SCHEDULER_DECISIONS = Metric(
    "zeitwork_scheduler_decisions",
    _C,
    "What this host's scheduler decided: instances placed, postponed with a new reason, refused by the database, moved "
    "off a host, and members of groups made or ended.",
    ("decision",),
)
SCHEDULER_PENDING = Metric(
    "zeitwork_scheduler_pending_instances",
    _G,
    "Instances that wanted to be placed when this host's scheduler last looked.",
)
COMMANDS = Metric(
    "zeitwork_commands",
    _C,
    "Commands that this host sent to others while it led, and their answers; `wrong` did not belong to its command.",
    ("step",),
)
COMMANDS_OUTSTANDING = Metric(
    "zeitwork_commands_outstanding",
    _G,
    "Placements that other hosts had yet to begin or to end when this host, leading, last looked.",
)
MEMBERS = Metric(
    "zeitwork_members", _G, "Hosts that this one knows by gossip, itself included, by what it believes.", ("state",)
)
MEMBER_HEALTH = Metric(
    "zeitwork_member_health", _G, "How badly this host does at gossip itself, from 0 (well) to 8 (it accuses slowly)."
)
NODES = Metric("zeitwork_nodes", _G, "Nodes that are not terminated, by state.", ("state",))
INSTANCES = Metric("zeitwork_instances", _G, "Instances by observed state.", ("state",))
IMAGES = Metric("zeitwork_images", _G, "Images that are not deleted, by status.", ("status",))
SNAPSHOTS = Metric("zeitwork_snapshots", _G, "Snapshots that are not deleted, by state.", ("state",))
PLACEMENTS = Metric("zeitwork_placements", _G, "Placements of this host that are not removed, by state.", ("state",))
HEALTH = Metric(
    "zeitwork_checked_apps", _G, "Apps of this host that run with a health check, by what it says.", ("health",)
)
LEASE_POOL = Metric("zeitwork_lease_pool_addresses", _G, "Addresses that this host's pool can lease.", ("family",))
LEASED = Metric("zeitwork_leases", _G, "Addresses of this host in use.", ("family",))
RESTING = Metric(
    "zeitwork_leases_resting", _G, "Addresses of this host that rest before they are used again.", ("family",)
)

CATALOGUE: tuple[Metric, ...] = (
    INFO,
    HTTP_REQUESTS,
    HTTP_SECONDS,
    ACTORS,
    ACTOR_DEPTH,
    ACTOR_OLDEST,
    ACTOR_HANDLED,
    ACTOR_RESTARTS,
    DEAD_LETTERS,
    STORE_UP,
    STORE_UNITS,
    STORE_FAILURES,
    STORE_SECONDS,
    STORE_RETRIES,
    STORE_CANCELLED,
    STORE_UNKNOWN,
    STORE_REFUSED,
    STORE_CONNECTS,
    STORE_CONNECT_FAILURES,
    STORE_NOTIFICATIONS,
    STORE_RECONNECTS,
    STORE_IN_FLIGHT,
    STORE_WAITING,
    STORE_CONNECTIONS,
    STORE_LISTENING,
    STORE_SILENT,
    MEMBERS,
    MEMBER_HEALTH,
    NODES,
    VCPU_CAPACITY,
    VCPU_ALLOCATED,
    VCPU_AVAILABLE,
    MEMORY_CAPACITY,
    MEMORY_ALLOCATED,
    MEMORY_AVAILABLE,
    OVERHEAD_ALLOCATED,
    OVERHEAD_MEASURED,
    OVERHEAD_EXCESS,
    OVERHEAD_CHARGED,
    NODE_PLACEMENTS,
    NODE_CLOSED,
    LEADER,
    LEADER_EPOCH,
    SCHEDULER_EVALUATIONS,
    SCHEDULER_SECONDS,
    SCHEDULER_DECISIONS,
    SCHEDULER_PENDING,
    COMMANDS,
    COMMANDS_OUTSTANDING,
    INSTANCES,
    IMAGES,
    SNAPSHOTS,
    PLACEMENTS,
    HEALTH,
    LEASE_POOL,
    LEASED,
    RESTING,
    *PROCESS,
)


def markdown() -> str:
    """Return the catalogue as a Markdown table, one metric a line."""
    lines = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for metric in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.shown}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"
