"""Rows of ``nodes``, read and locked as a part of what others do too."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import ip_interface
from typing import Any
from uuid import UUID

from actors.model.errors import NotFound
from actors.model.network import HostNetwork, OwnAddress
from actors.model.resources import Capacity
from actors.model.states import NodeDesired, NodeState
from zeitwork.store.arrays import uuids
from zeitwork.store.requirements import taints_from_json
from zeitwork.store.rows import NodeRow, OverheadRow, RegionRow, ResourcesRow
from zeitwork.store.units import Cursor

SELECT = """
select n.*, r.name as region_name, r.v6 as region_v6, r.v4 as region_v4,
    (select network from pools where node_id = n.id and family = 4 and n.state <> 'terminated') as pool_v4,
    (select network from pools where node_id = n.id and family = 6 and n.state <> 'terminated') as pool_v6
from nodes n join regions r on r.id = n.region_id
"""
# One pass over what is placed, when all nodes are asked about: so many of those as there are would take longer.
_RESOURCES = """
select n.*, coalesce(u.vcpu, 0) as vcpu_used, coalesce(u.memory, 0) as memory_used, coalesce(u.count, 0) as count,
    coalesce(u.overhead, 0) as overhead_allocated
from nodes n left join (
    select node_id, sum(vcpu) as vcpu, sum(memory + memory_overhead) as memory, count(*) as count,
        sum(memory_overhead) as overhead
    from placements where state <> 'removed' {of_one} group by node_id) u on u.node_id = n.id
where {which} order by n.id
"""
_RESOURCES_OF_ALL = _RESOURCES.format(of_one="", which="n.state <> 'terminated'").encode()
_RESOURCES_OF_ONE = _RESOURCES.format(of_one="and node_id = %(id)s", which="n.id = %(id)s").encode()
_LOCK_SEVERAL = """
select id, hostname, state, desired, closed_since, closed_reason, ipv6, vcpu_capacity, memory_capacity,
    coalesce(memory_overhead, 0) as memory_overhead, overhead_excess
from nodes where id = any(%s::uuid[]) order by id for no key update
"""
_USE = """
select node_id, sum(vcpu) as vcpu, sum(memory + memory_overhead) as memory
from placements where node_id = any(%s::uuid[]) and state <> 'removed' group by node_id
"""
CAPACITY_FIELDS = (
    "vcpu_total",
    "memory_total",
    "vcpu_reserved",
    "memory_reserved",
    "vcpu_overcommit",
    "memory_overcommit",
    "memory_overhead",
)


def capacity_of(row: Mapping[str, Any]) -> Capacity | None:
    """Return a node's capacity, None while it is not known."""
    if row["vcpu_total"] is None:
        return None
    return Capacity(**{name: row[name] for name in CAPACITY_FIELDS})


def lock_node(cursor: Cursor, node_id: UUID) -> dict[str, Any] | None:
    """Return a node's row, locked until the transaction ends, None when there is none."""
    cursor.execute("select * from nodes where id = %s for no key update", (node_id,))
    return cursor.fetchone()


def lock_nodes(cursor: Cursor, node_ids: Collection[UUID]) -> dict[UUID, dict[str, Any]]:
    """Return nodes' rows by id, locked until the transaction ends. In the order of ids, as everyone locks several."""
    cursor.execute(_LOCK_SEVERAL, (uuids(node_ids),))
    return {row["id"]: row for row in cursor}


def use_of(cursor: Cursor, node_ids: Collection[UUID]) -> dict[UUID, tuple[int, int]]:
    """Return the vCPU and MiB that placements hold on nodes. True until the transaction ends if those are locked."""
    cursor.execute(_USE, (uuids(node_ids),))
    return {row["node_id"]: (row["vcpu"], row["memory"]) for row in cursor}


def resource_rows(cursor: Cursor, node_id: UUID | None = None) -> tuple[ResourcesRow, ...]:
    """Return what is free on one node, or on each that is not terminated."""
    if node_id is None:
        cursor.execute(_RESOURCES_OF_ALL)
    else:
        cursor.execute(_RESOURCES_OF_ONE, {"id": node_id})
    return tuple(_resources_row(row) for row in cursor)


def _resources_row(row: Mapping[str, Any]) -> ResourcesRow:
    vcpu, memory = row["vcpu_capacity"] or 0, row["memory_capacity"] or 0
    # sum() of integers is a bigint here, but numeric over bigints: int() makes both the same to callers.
    vcpu_used, memory_used = int(row["vcpu_used"]), int(row["memory_used"])
    return ResourcesRow(
        node_id=row["id"],
        hostname=row["hostname"],
        state=NodeState(row["state"]),
        desired=NodeDesired(row["desired"]),
        capacity=capacity_of(row),
        vcpu=vcpu,
        memory=memory,
        vcpu_used=vcpu_used,
        memory_used=memory_used,
        vcpu_free=max(0, vcpu - vcpu_used),
        memory_free=max(0, memory - memory_used - row["overhead_excess"]),
        placements=row["count"],
        closed_reason=row["closed_reason"],
        overhead=OverheadRow(
            allocated=int(row["overhead_allocated"]),
            measured=row["overhead_measured"],
            monitors=row["overhead_monitors"],
            excess=row["overhead_excess"],
        ),
    )


def node_row(row: Mapping[str, Any]) -> NodeRow:
    """Return a row of `SELECT` as what is handed out."""
    v4 = row["pool_v4"]
    return NodeRow(
        id=row["id"],
        hostname=row["hostname"],
        region=RegionRow(row["region_id"], row["region_name"], row["region_v6"], row["region_v4"]),
        ip_address=row["ip_address"],
        addresses=tuple(
            OwnAddress(item["interface"], ip_interface(item["address"]), item["primary"]) for item in row["addresses"]
        ),
        desired=NodeDesired(row["desired"]),
        desired_generation=row["desired_generation"],
        state=NodeState(row["state"]),
        reason=row["reason"],
        generation=row["generation"],
        boot_id=row["boot_id"],
        version=row["version"],
        network=None if v4 is None else HostNetwork(row["pool_v6"] if row["ipv6"] else None, v4),
        capacity=capacity_of(row),
        closed_since=row["closed_since"],
        closed_reason=row["closed_reason"],
        overhead_peaks=row["overhead_peaks"],
        labels=row["labels"],
        taints=taints_from_json(row["taints"]),
        hypervisor=row["hypervisor"],
        architecture=row["architecture"],
        pressure=row["pressure"],
        last_seen_at=row["last_seen_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def get_node(cursor: Cursor, node_id: UUID) -> NodeRow:
    """Return a node. Raises `NotFound`."""
    cursor.execute(f"{SELECT} where n.id = %s".encode(), (node_id,))
    row = cursor.fetchone()
    if row is None:
        raise missing_node(node_id)
    return node_row(row)


def missing_node(node_id: UUID) -> NotFound:
    """Return the refusal of an id that no node has."""
    return NotFound(f"there is no node {node_id}", fix="`zeitwork nodes` lists them")
