"""`zeitwork.store.nodes` in memory, measurements of overhead and addresses aside."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv6Network
from uuid import UUID

from actors.model.errors import Conflict
from actors.model.network import HostNetwork
from actors.model.resources import Capacity
from actors.model.scheduling import Taint
from actors.model.states import NodeDesired, NodeState
from tests.simulation.store import tables
from tests.simulation.store.database import Transaction, moment, moment_or_none
from tests.simulation.store.leases import drop_pools, ensure_pools, forget_node, pools_of
from tests.simulation.store.node_rows import get_node, live_on, used, write_state
from tests.simulation.store.removal import remove
from tests.simulation.store.units import Units
from zeitwork.store.requirements import taints_to_json
from zeitwork.store.rows import HostRegistration, NodeRow, OverheadRow, RegionRow, ResourcesRow

#: A region's IPv6 network is drawn at random by the real store; one is as good as another.
_V6 = IPv6Network("fd7a:77::/48")


def resource_rows(tx: Transaction, node_id: UUID | None = None) -> tuple[ResourcesRow, ...]:
    """Return what is free on one node, or on each that is not terminated."""
    nodes = sorted(tx.database.nodes, key=lambda node: node.id)
    return tuple(
        _resources_row(tx, node)
        for node in nodes
        if node.id == node_id or (node_id is None and node.state is not NodeState.TERMINATED)
    )


def _resources_row(tx: Transaction, node: tables.Node) -> ResourcesRow:
    vcpu, memory = (node.capacity.vcpu, node.capacity.memory) if node.capacity else (0, 0)
    live = live_on(tx, node.id)
    vcpu_used, memory_used = used(tx, node.id)
    return ResourcesRow(
        node_id=node.id,
        hostname=node.hostname,
        state=node.state,
        capacity=node.capacity,
        vcpu=vcpu,
        memory=memory,
        vcpu_used=vcpu_used,
        memory_used=memory_used,
        vcpu_free=max(0, vcpu - vcpu_used),
        memory_free=max(0, memory - memory_used),
        placements=len(live),
        closed_reason=node.closed_reason,
        desired=node.desired,
        overhead=OverheadRow(sum(row.memory_overhead for row in live), 0, 0, 0),
    )


def node_row(tx: Transaction, node_id: UUID) -> NodeRow:
    """Return a node as it is handed out. Raises `NotFound`."""
    node = get_node(tx, node_id)
    region = tx.database.regions.get(node.region_id)
    assert region is not None
    pools = pools_of(tx, node_id)
    network = None
    # Those of one that is no more only rest.
    if 4 in pools and node.state is not NodeState.TERMINATED:
        v6 = pools[6].network if node.ipv6 and 6 in pools else None
        network = HostNetwork(v6, pools[4].network)  # type: ignore[arg-type]
    return NodeRow(
        id=node.id,
        hostname=node.hostname,
        region=RegionRow(region.id, region.name, region.v6, region.v4),
        ip_address=node.ip_address,
        addresses=(),
        desired=node.desired,
        desired_generation=node.desired_generation,
        state=node.state,
        reason=node.reason,
        generation=node.generation,
        boot_id=node.boot_id,
        version=node.version,
        network=network,
        capacity=node.capacity,
        closed_since=moment_or_none(node.closed_since),
        closed_reason=node.closed_reason,
        overhead_peaks={},
        labels=dict(node.labels),
        taints=node.taints,
        hypervisor=node.hypervisor,
        architecture=node.architecture,
        pressure=node.pressure,
        last_seen_at=moment_or_none(node.last_seen_at),
        created_at=moment(node.created_at),
        updated_at=moment(node.updated_at),
    )


def _ensure_region(tx: Transaction, host: HostRegistration) -> tables.Region:
    found = next((region for region in tx.database.regions if region.name == host.region), None)
    if found is None:
        found = tables.Region(tx.database.new_id(), host.region, host.region_v6 or _V6, host.region_v4)
        tx.database.regions.put(found.id, found)
        tx.record("host", "region.created", "region", found.id, {"name": found.name, "v6": str(found.v6)})
    return found


class Nodes:
    """Hosts."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def register(self, host: HostRegistration) -> NodeRow:
        """Write that this host's process starts, and return its node. Raises `Conflict`."""

        def unit(tx: Transaction) -> NodeRow:
            region = _ensure_region(tx, host)
            node = next((node for node in tx.database.nodes if node.host_id == host.host_id), None)
            if node is None:
                node = next(
                    (
                        node
                        for node in tx.database.nodes
                        if node.host_id is None
                        and node.hostname == host.hostname
                        and node.state is not NodeState.TERMINATED
                    ),
                    None,
                )
            if node is None:
                node = tables.Node(tx.database.new_id(), host.hostname, region.id, tx.now, tx.now)
            elif node.buried:
                raise Conflict(f"{node.hostname} was removed from the cluster for good", code="removed")
            elif node.region_id != region.id:
                _move(tx, node, region)
            node = tx.database.nodes.put(
                node.id,
                replace(
                    node,
                    host_id=host.host_id,
                    hostname=host.hostname,
                    region_id=region.id,
                    ip_address=host.ip_address or node.ip_address,
                    boot_id=host.boot_id,
                    version=host.version,
                    ipv6=host.ipv6,
                    labels=dict(host.labels),
                    architecture=host.architecture,
                    generation=node.generation + 1,
                    state=NodeState.BOOTING,
                    reason="",
                    down_since=None,
                    replace_after=None,
                    last_seen_at=tx.now,
                    updated_at=tx.now,
                ),
            )
            ensure_pools(tx, node.id, region, ipv6=host.ipv6)
            data = {"hostname": host.hostname, "generation": node.generation, "boot_id": host.boot_id}
            tx.record("host", "node.registered", "node", node.id, data)
            tx.announce("zw_nodes", node.id)
            return node_row(tx, node.id)

        return await self._units.run(unit, name="nodes.register")

    async def get(self, node_id: UUID) -> NodeRow:
        """Return a node. Raises `NotFound`."""
        return await self._units.read(lambda tx: node_row(tx, node_id), name="nodes.get")

    async def delete(self, node_id: UUID, *, dead: bool = False, who: str = "api") -> None:
        """Terminate a node and free its pools. Raises `Conflict` while placements are on it or its process lives.

        ``dead``: what is on it goes, what is wanted of that is placed anew, and its machine is not let in again.
        """
        await self._units.run(lambda tx: remove(tx, node_id, dead=dead, leaves=False, who=who), name="nodes.delete")

    async def leave(self, node_id: UUID, *, force: bool = False) -> None:
        """Terminate a node whose host leaves. Raises `Conflict` while placements are on it, unless with ``force``."""
        await self._units.run(lambda tx: remove(tx, node_id, dead=force, leaves=True, who="host"), name="nodes.leave")

    async def set_desired(self, node_id: UUID, desired: NodeDesired, *, who: str = "api") -> NodeRow:
        """Ask a node to be ready or to take nothing new."""

        def unit(tx: Transaction) -> NodeRow:
            node = get_node(tx, node_id)
            if node.state is NodeState.TERMINATED:
                raise Conflict(f"{node.hostname} is terminated")
            if node.desired is not desired:
                before = node.desired
                node = tx.database.nodes.put(
                    node_id,
                    replace(node, desired=desired, desired_generation=node.desired_generation + 1, updated_at=tx.now),
                )
                tx.record(who, "node.desired", "node", node_id, {"from": before, "to": desired})
                tx.announce("zw_nodes", node_id)
                if node.state in (NodeState.READY, NodeState.DRAINING):
                    write_state(tx, node, NodeState.READY, node.reason, who)
            return node_row(tx, node_id)

        return await self._units.run(unit, name="nodes.set_desired")

    async def set_state(self, node_id: UUID, state: NodeState, reason: str = "", *, who: str = "host") -> NodeRow:
        """Write what a node is. ``ready`` becomes ``draining`` while that is desired."""

        def unit(tx: Transaction) -> NodeRow:
            node = get_node(tx, node_id)
            if node.state is NodeState.TERMINATED:
                raise Conflict(f"{node.hostname} is terminated", fix="start `zeitwork run` there to bring it back")
            write_state(tx, node, state, reason, who)
            return node_row(tx, node_id)

        return await self._units.run(unit, name="nodes.set_state")

    async def set_taints(self, node_id: UUID, taints: Collection[Taint], *, who: str = "api") -> NodeRow:
        """Keep what does not tolerate these away from a node from now on. Raises `NotFound`."""
        wanted = tuple(sorted(set(taints)))

        def unit(tx: Transaction) -> NodeRow:
            node = get_node(tx, node_id)
            if node.taints != wanted:
                tx.database.nodes.put(node_id, replace(node, taints=wanted, updated_at=tx.now))
                data = {"from": taints_to_json(node.taints), "to": taints_to_json(wanted)}
                tx.record(who, "node.taints", "node", node_id, data)
                tx.announce("zw_nodes", node_id)
            return node_row(tx, node_id)

        return await self._units.run(unit, name="nodes.set_taints")

    async def record_condition(self, node_id: UUID, hypervisor: str | None, pressure: float) -> None:
        """Write what runs guests on a host, None while that is not known, and how long its tasks wait for a CPU."""

        def unit(tx: Transaction) -> None:
            node = get_node(tx, node_id)
            known = hypervisor or node.hypervisor
            if (node.hypervisor, node.pressure) == (known, pressure):
                return
            tx.database.nodes.put(node_id, replace(node, hypervisor=known, pressure=pressure))
            if node.hypervisor != known:
                data = {"from": node.hypervisor, "to": known}
                tx.record("resource-monitor", "node.hypervisor", "node", node_id, data)
                tx.announce("zw_nodes", node_id)

        await self._units.run(unit, name="nodes.record_condition")

    async def record_capacity(self, node_id: UUID, capacity: Capacity) -> None:
        """Write what the host can give."""

        def unit(tx: Transaction) -> None:
            node = get_node(tx, node_id)
            if node.capacity == capacity:
                return
            tx.database.nodes.put(node_id, replace(node, capacity=capacity, updated_at=tx.now))
            data = {"vcpu": capacity.vcpu, "memory": capacity.memory}
            tx.record("resource-monitor", "node.capacity", "node", node_id, data)
            tx.announce("zw_nodes", node_id)

        await self._units.run(unit, name="nodes.record_capacity")

    async def record_closed(self, node_id: UUID, reason: str) -> None:
        """Write why the host takes no new work, or with an empty ``reason`` that it does again."""

        def unit(tx: Transaction) -> None:
            node = get_node(tx, node_id)
            if bool(node.closed_reason) == bool(reason):
                return
            closed = tx.now if reason else None
            tx.database.nodes.put(node_id, replace(node, closed_reason=reason, closed_since=closed, updated_at=tx.now))
            what, data = ("node.closed", {"reason": reason}) if reason else ("node.opened", {})
            tx.record("resource-monitor", what, "node", node_id, data)
            tx.announce("zw_nodes", node_id)

        await self._units.run(unit, name="nodes.record_closed")

    async def resources(self, node_id: UUID | None = None) -> tuple[ResourcesRow, ...]:
        """Return capacity, use and what is free, of one node or of each that is not terminated."""
        return await self._units.read(lambda tx: resource_rows(tx, node_id), name="nodes.resources")


def _move(tx: Transaction, node: tables.Node, region: tables.Region) -> None:
    live = live_on(tx, node.id)
    if live:
        raise Conflict(
            f"this host cannot move to region {region.name} while {len(live)} placements are on it",
            field="region",
            fix="start it with the region it had, or stop its instances first",
        )
    forget_node(tx, node.id)
    drop_pools(tx, node.id)
