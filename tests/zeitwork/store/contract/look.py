"""What there is, on each side, in full."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from actors.model.states import InstanceState, NodeState
from tests.simulation.store.database import Transaction
from tests.simulation.store.groups import group_row
from tests.simulation.store.instance_rows import instance_row
from tests.simulation.store.placements import placement_row
from tests.zeitwork.store.contract.plain import Plain
from tests.zeitwork.store.contract.sides import Memory, Postgres, drive
from zeitwork.store.instance_rows import SELECT as SELECT_INSTANCES
from zeitwork.store.instance_rows import instance_row as real_instance_row
from zeitwork.store.node_rows import SELECT as SELECT_NODES
from zeitwork.store.node_rows import node_row as real_node_row
from zeitwork.store.placement_rows import placement_row as real_placement_row

_TERMINATED, _GONE = InstanceState.TERMINATED, NodeState.TERMINATED
_KINDS = ("nodes", "images", "instances", "groups")
#: What of an instance, a node and a placement no row that is handed out tells.
_INSTANCE = ("stop_force", "stop_wait", "drop_volumes", "retry_asked_at", "pending_since")
_NODE = ("down_since", "replace_after", "epoch_seen")
_PLACEMENT = ("exclusive", "epoch", "kept", "asked", "lost_at")
_INVITATION = ("node_id", "coded", "tries", "reason", "accepted_at", "ended_at")
_ALL_IDS = """
select 'nodes' as kind, id, null::uuid as of, 0::bigint as generation from nodes
union all select 'images', id, null, 0 from images union all select 'instances', id, null, 0 from instances
union all select 'groups', id, null, 0 from instance_groups
union all select 'placements', id, instance_id, generation from placements
union all select 'regions', id, null, 0 from regions
"""
#: What `look_real` reads by itself, because there is no list of all of it.
_EVERYTHING = (
    f"{SELECT_INSTANCES} order by i.state = 'terminated', i.id",
    f"{SELECT_NODES} order by n.state = 'terminated', n.id",
    "select * from placements order by id",
    f"select id, {', '.join(_INSTANCE)} from instances",
    f"select id, {', '.join(_NODE)} from nodes",
    "select address, pool, node_id, placement_id, rest_until from leases order by address",
    "select image_id, node_id from node_images order by 1, 2",
    "select network, node_id, first_offset, last_offset, next_offset from pools order by network",
    f"select {', '.join(_INVITATION)} from invitations order by node_id",
    "select id, node_id, used_by from join_tokens order by id",
)


class Ids:
    """The ids of a side in the order in which they were made, and what each is called on both."""

    def __init__(self) -> None:
        self.lists: dict[str, list[UUID]] = {kind: [] for kind in _KINDS}
        self.placements: dict[tuple[int, int], UUID] = {}
        self.names: dict[UUID, str] = {}

    def learn(self, kind: str, found: list[UUID]) -> None:
        """Take note of all ids of a kind; they only grow."""
        self.lists[kind] = sorted(found)
        for place, identifier in enumerate(self.lists[kind]):
            self.names[identifier] = f"{kind[:-1]} {place}"

    def learn_placements(self, found: list[tuple[UUID, UUID, int]]) -> None:
        """Take note of all placements: their ids, instances and generations."""
        places = {identifier: place for place, identifier in enumerate(self.lists["instances"])}
        for identifier, instance_id, generation in found:
            self.placements[places[instance_id], generation] = identifier
            self.names[identifier] = f"placement {places[instance_id]}.{generation}"


def learn_real(side: Postgres, ids: Ids) -> None:
    """Read the ids of Postgres."""
    found: dict[str, list[UUID]] = {kind: [] for kind in _KINDS}
    placements = []
    for row in side.rows(_ALL_IDS)[0]:
        if row["kind"] == "placements":
            placements.append((row["id"], row["of"], row["generation"]))
        elif row["kind"] == "regions":
            ids.names[row["id"]] = "a region"
        else:
            found[row["kind"]].append(row["id"])
    for kind, kept in found.items():
        ids.learn(kind, kept)
    ids.learn_placements(placements)


def learn_double(side: Memory, ids: Ids) -> None:
    """Read the ids of the double."""
    for kind in _KINDS:
        ids.learn(kind, [row.id for row in getattr(side.database, kind)])
    ids.learn_placements([(row.id, row.instance_id, row.generation) for row in side.database.placements])
    ids.names |= {row.id: "a region" for row in side.database.regions}


def _asked(side: Postgres | Memory, ids: Ids) -> dict[str, Any]:
    """Return what actors are told."""
    store, plain = side.store, Plain(ids.names, side.now)
    nodes = ids.lists["nodes"]
    return {
        "leader": plain.of(drive(store.election.leader())),
        "views of nodes": plain.of(drive(store.scheduling.nodes())),
        "pending": plain.of(drive(store.scheduling.pending())),
        "views of groups": plain.of(drive(store.scheduling.groups())),
        "displaced": plain.of(drive(store.scheduling.displaced())),
        "for hosts": {ids.names[one]: plain.of(drive(store.placements.placements(one))) for one in nodes},
        "beats": plain.of(drive(store.presence.beats())),
        "resources": plain.of(drive(store.nodes.resources())),
        "expected": plain.of(drive(store.invitations.expected())),
        "counts": plain.of(drive(store.instances.counts())),
    }


def look_real(side: Postgres, ids: Ids) -> dict[str, Any]:
    """Return everything that Postgres has."""
    with side.units.look():
        found = _asked(side, ids)
        store, plain = side.store, Plain(ids.names, side.now)
        found["images"] = plain.of([*drive(store.images.list(limit=1000)).items])
        found["usage"] = plain.of(drive(store.leases.usages()))
        found["groups"] = plain.of([*drive(store.groups.list(limit=1000)).items])
        instances, nodes, placements, of_instances, of_nodes, leases, cached, pools, *guests = side.rows(*_EVERYTHING)
    found["instances"] = [plain.of(real_instance_row(row)) for row in instances]
    found["node rows"] = [plain.of(real_node_row(row)) for row in nodes]
    found["placements"] = {ids.names[row["id"]]: plain.of(real_placement_row(row)) for row in placements}
    for kind, rows, names in (
        ("placements", placements, _PLACEMENT),
        ("instances", of_instances, _INSTANCE),
        ("nodes", of_nodes, _NODE),
    ):
        found[f"of {kind}"] = {ids.names[row["id"]]: [plain.of(row[name]) for name in names] for row in rows}
    found["leases"] = [plain.of(row) for row in leases]
    found["cached"] = [plain.of(list(row.values())) for row in cached]
    found["pools"] = [plain.of(list(row.values())) for row in pools]
    found["guests"] = [[plain.of(list(row.values())) for row in rows] for rows in guests]
    return found


def look_double(side: Memory, ids: Ids) -> dict[str, Any]:
    """Return everything that the double has."""
    found = _asked(side, ids)
    database, plain = side.database, Plain(ids.names, side.now)
    tx = Transaction(database)
    rows = sorted(database.instances, key=lambda row: (row.state is _TERMINATED, row.id))
    found["instances"] = plain.of([instance_row(tx, row.id) for row in rows])
    nodes = sorted(database.nodes, key=lambda row: (row.state is _GONE, row.id))
    found["node rows"] = plain.of([drive(side.store.nodes.get(row.id)) for row in nodes])
    found["images"] = [plain.of(drive(side.store.images.get(one))) for one in ids.lists["images"]]
    usage = {node.id: drive(side.store.leases.usage(node.id)) for node in nodes}
    found["usage"] = plain.of({node_id: pools for node_id, pools in usage.items() if pools})
    groups = sorted((row for row in database.groups if row.gone_at is None), key=lambda row: row.id)
    found["groups"] = plain.of([group_row(tx, row.id) for row in groups])
    found["placements"] = {ids.names[row.id]: plain.of(placement_row(row)) for row in database.placements}
    for kind, table, names in (
        ("placements", database.placements, _PLACEMENT),
        ("instances", database.instances, _INSTANCE),
        ("nodes", database.nodes, _NODE),
    ):
        found[f"of {kind}"] = {ids.names[row.id]: [plain.of(getattr(row, name)) for name in names] for row in table}
    leases = sorted(database.leases, key=lambda row: (row.address.version, int(row.address)))
    found["leases"] = [
        plain.of({name: getattr(row, name) for name in ("address", "pool", "node_id", "placement_id", "rest_until")})
        for row in leases
    ]
    found["cached"] = [plain.of(key) for key in sorted(key for key, _ in database.node_images.items())]
    pools = sorted(database.pools, key=lambda row: (row.family, int(row.network.network_address)))
    found["pools"] = [plain.of([row.network, row.node_id, row.first, row.last, row.next]) for row in pools]
    invitations = sorted(database.invitations, key=lambda row: row.node_id)
    found["guests"] = [
        [plain.of([getattr(row, name) for name in _INVITATION]) for row in invitations],
        [plain.of([row.id, row.node_id, row.used_by]) for row in sorted(database.tokens, key=lambda row: row.id)],
    ]
    return found
