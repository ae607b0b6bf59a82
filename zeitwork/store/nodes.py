"""Hosts. Writes the table ``nodes`` and, through `zeitwork.store.pools`, ``pools``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from actors.model.errors import Conflict, InvalidInput
from actors.model.network import OwnAddresses
from actors.model.resources import Capacity
from actors.model.scheduling import Taint
from actors.model.states import NodeDesired, NodeState
from zeitwork.store.cluster import default_region_id, ensure_region
from zeitwork.store.drains import drains
from zeitwork.store.identifiers import new_id
from zeitwork.store.journal import announce, record
from zeitwork.store.leases import forget_node
from zeitwork.store.node_rows import (
    CAPACITY_FIELDS,
    SELECT,
    capacity_of,
    get_node,
    lock_node,
    missing_node,
    node_row,
    resource_rows,
)
from zeitwork.store.paging import check_limit, page, parse_cursor
from zeitwork.store.pools import drop_pools, ensure_pools
from zeitwork.store.removal import bury, clear, lock_instances, locked, refuse_living
from zeitwork.store.requirements import taints_to_json
from zeitwork.store.rows import DrainRow, HostRegistration, NodeRow, Page, RegionRow, ResourcesRow
from zeitwork.store.units import Cursor, Units

#: A host that was heard of less than this many seconds ago is alive.
ALIVE_WITHIN = 30.0
#: Seconds that a host which said goodbye may be away before what runs on it is replaced: its machine is up, and with it
#: what its process left running.
GRACE = 60.0


def write_beat(cursor: Cursor, node_id: UUID, generation: int) -> NodeState | None:
    """Write a sign of life of the process of that generation; return its node's state, None when it is not its.

    The unit's commit waits for no disk: the next sign of life makes good one that is lost in a crash.
    """
    cursor.execute("set local synchronous_commit = off")
    cursor.execute(
        "update nodes set last_seen_at = clock_timestamp() where id = %s and generation = %s "
        "and state <> 'terminated' returning state",
        (node_id, generation),
    )
    row = cursor.fetchone()
    return None if row is None else NodeState(row["state"])


def report_epoch(cursor: Cursor, node_id: UUID, epoch: int) -> None:
    """Write the highest epoch that a host has seen; it only grows."""
    cursor.execute("update nodes set epoch_seen = %s where id = %s and epoch_seen < %s", (epoch, node_id, epoch))


def buried(hostname: str) -> Conflict:
    """Return the refusal of a host of which an operator said that it never comes back."""
    return Conflict(
        f"{hostname} was removed from the cluster for good",
        code="removed",
        fix="zeitwork leave --force on that machine makes it one that can join anew",
    )


def write_state(
    cursor: Cursor, row: Mapping[str, Any], state: NodeState, reason: str, who: str, *, grace: float = GRACE
) -> None:
    """Write a node's state when it differs; the row must be locked.

    What runs on one that goes down is replaced after ``grace`` seconds.
    """
    if state is NodeState.READY and row["desired"] == NodeDesired.DRAINING:
        state = NodeState.DRAINING
    if (row["state"], row["reason"]) == (state, reason):
        return
    down = state is NodeState.DOWN
    cursor.execute(
        "update nodes set state = %(state)s, reason = %(reason)s, updated_at = now(), "
        "down_since = case when %(down)s then coalesce(down_since, now()) end, "
        "replace_after = case when %(down)s then least(replace_after, now() + make_interval(secs => %(grace)s)) end "
        "where id = %(id)s",
        {"state": state, "reason": reason, "down": down, "grace": grace, "id": row["id"]},
    )
    record(cursor, who, "node.state", "node", row["id"], {"from": row["state"], "to": state, "reason": reason})
    announce(cursor, "zw_nodes", row["id"])


def hasten(cursor: Cursor, row: Mapping[str, Any], reason: str, who: str, grace: float) -> bool:
    """Have what ran on a node that is down replaced ``grace`` seconds from now; the row must be locked.

    False when that would be no sooner than it is to be anyway.
    """
    cursor.execute(
        "update nodes set reason = %(reason)s, updated_at = now(), "
        "replace_after = now() + make_interval(secs => %(grace)s) "
        "where id = %(id)s and replace_after > now() + make_interval(secs => %(grace)s)",
        {"reason": reason, "grace": grace, "id": row["id"]},
    )
    if not cursor.rowcount:
        return False
    data = {"from": row["state"], "to": row["state"], "reason": reason}
    record(cursor, who, "node.state", "node", row["id"], data)
    announce(cursor, "zw_nodes", row["id"])
    return True


def write_awaited(cursor: Cursor, node_id: UUID, reason: str, grace: float) -> None:
    """Write that a (locked) node is down and awaited: what runs there is not replaced for ``grace`` seconds at least.

    Unlike anywhere else, that may be later than it was to be before.
    """
    cursor.execute(
        "update nodes set state = 'down', reason = %(reason)s, updated_at = now(), "
        "down_since = coalesce(down_since, now()), "
        "replace_after = greatest(replace_after, now() + make_interval(secs => %(grace)s)) where id = %(id)s",
        {"reason": reason, "grace": grace, "id": node_id},
    )


def expect(
    cursor: Cursor,
    node_id: UUID,
    hostname: str,
    region_id: UUID | None,
    ip_address: IPv4Address | IPv6Address | None,
    who: str,
) -> bool:
    """Write that a host is expected; False when this very node is there already. As `Nodes.create` does."""
    region = region_id or default_region_id(cursor)
    cursor.execute("select from regions where id = %s", (region,))
    if cursor.fetchone() is None:
        raise InvalidInput(f"there is no region {region}", field="region_id")
    cursor.execute(
        "insert into nodes (id, hostname, region_id, ip_address) values (%s, %s, %s, %s) on conflict do nothing",
        (node_id, hostname, region, ip_address),
    )
    if cursor.rowcount:
        record(cursor, who, "node.created", "node", node_id, {"hostname": hostname})
        announce(cursor, "zw_nodes", node_id)
        return True
    cursor.execute("select from nodes where id = %s", (node_id,))
    if cursor.fetchone() is None:
        raise Conflict(
            f"a node with hostname {hostname} is expected already",
            field="hostname",
            fix="wait for it, or remove that node first",
        )
    return False


def write_host(cursor: Cursor, node_id: UUID, host_id: UUID | None) -> None:
    """Write which machine a (locked) node is, None when it is no longer any."""
    cursor.execute("update nodes set host_id = %s, updated_at = now() where id = %s", (host_id, node_id))


def write_address(cursor: Cursor, node_id: UUID, ip_address: IPv4Address | IPv6Address) -> None:
    """Write where a (locked) node is said to be that has never come."""
    cursor.execute("update nodes set ip_address = %s where id = %s", (ip_address, node_id))


class Nodes:
    """Hosts; also the stores of `actors.resource_monitor` but its history, and that of `actors.addresses`."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def register(self, host: HostRegistration) -> NodeRow:
        """Write that this host's process starts, and return its node.

        The same ``host_id`` gets the same node with ``generation`` + 1. A new one takes over a node that was created
        through the API under its hostname and never came, else it is a new node; either way it gets its pools. Its
        state is ``booting`` until `set_state`. Raises `Conflict` when the region has no network left for it, or an
        operator said that it never comes back.
        """

        def unit(cursor: Cursor) -> NodeRow:
            region = ensure_region(cursor, host.region, host.region_v6, host.region_v4)
            cursor.execute(
                "select id, region_id, state, buried_at from nodes where host_id = %(host)s or (host_id is null "
                "and hostname = %(name)s and state <> 'terminated') order by host_id nulls last limit 1 for update",
                {"host": host.host_id, "name": host.hostname},
            )
            known = cursor.fetchone()
            if known is None:
                node_id = new_id()
                cursor.execute(
                    "insert into nodes (id, hostname, region_id) values (%s, %s, %s)",
                    (node_id, host.hostname, region.id),
                )
            else:
                node_id = known["id"]
                if known["buried_at"] is not None:
                    raise buried(host.hostname)
                if known["region_id"] != region.id:
                    _move(cursor, node_id, region)
            cursor.execute(
                "update nodes set host_id = %s, hostname = %s, ip_address = coalesce(%s, ip_address), boot_id = %s, "
                "version = %s, ipv6 = %s, labels = %s, architecture = %s, "
                "generation = generation + 1, state = 'booting', reason = '', "
                "down_since = null, replace_after = null, last_seen_at = now(), updated_at = now() where id = %s "
                "returning generation",
                (
                    host.host_id,
                    host.hostname,
                    host.ip_address,
                    host.boot_id,
                    host.version,
                    host.ipv6,
                    Jsonb(dict(host.labels)),
                    host.architecture,
                    node_id,
                ),
            )
            row = cursor.fetchone()
            assert row is not None
            ensure_pools(cursor, node_id, region, ipv6=host.ipv6)
            data = {"hostname": host.hostname, "generation": row["generation"], "boot_id": host.boot_id}
            record(cursor, "host", "node.registered", "node", node_id, data)
            announce(cursor, "zw_nodes", node_id)
            return get_node(cursor, node_id)

        return await self._units.run(unit, name="nodes.register")

    async def create(
        self,
        hostname: str,
        *,
        ip_address: IPv4Address | IPv6Address | None = None,
        region_id: UUID | None = None,
        id: UUID | None = None,
        who: str = "api",
    ) -> NodeRow:
        """Write that a host is expected; it is ``booting`` until its process registers.

        Raises `InvalidInput` for an unknown region and `Conflict` when that host is expected already. Creating the
        same ``id`` again returns what there is.
        """
        node_id = id or new_id()

        def unit(cursor: Cursor) -> NodeRow:
            expect(cursor, node_id, hostname, region_id, ip_address, who)
            return get_node(cursor, node_id)

        return await self._units.run(unit, name="nodes.create")

    async def get(self, node_id: UUID) -> NodeRow:
        """Return a node. Raises `NotFound`."""
        return await self._units.read(lambda cursor: get_node(cursor, node_id), name="nodes.get")

    async def list(
        self, *, state: NodeState | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[NodeRow]:
        """Return nodes, oldest first; terminated ones only when ``state`` asks for them."""
        after = parse_cursor(cursor)
        check_limit(limit)

        def unit(cursor: Cursor) -> Page[NodeRow]:
            cursor.execute(
                f"{SELECT} where n.id > %(after)s and case when %(state)s::text is null "
                "then n.state <> 'terminated' else n.state = %(state)s end order by n.id limit %(limit)s".encode(),
                {"after": after, "state": state, "limit": limit + 1},
            )
            return page(cursor.fetchall(), limit, node_row)

        return await self._units.read(unit, name="nodes.list")

    async def delete(self, node_id: UUID, *, dead: bool = False, who: str = "api") -> None:
        """Terminate a node and give up its snapshots; its pools are free once its addresses have rested.

        What is left on one that is down and that nobody waits for goes with it: what was replaced, and what is wanted
        stopped or terminated. Raises `Conflict` while other placements are on it, its process lives, or a snapshot
        there has yet to be restored. ``dead``: an operator says that it never comes back, so that all goes, what is
        wanted is placed anew (what is never to run twice, too), and its machine is not let in again as this node.
        """

        def unit(cursor: Cursor) -> None:
            self._remove(cursor, node_id, dead=dead, leaves=False, who=who)

        await self._units.run(unit, name="nodes.delete")

    async def leave(self, node_id: UUID, *, force: bool = False) -> None:
        """Terminate a node because its host, which lives, says that it leaves. Harmless when it has left.

        Raises `Conflict` while placements are on it or a snapshot there has yet to be restored; with ``force`` all of
        that goes and is placed anew elsewhere: its host has stopped what ran there.
        """

        def unit(cursor: Cursor) -> None:
            self._remove(cursor, node_id, dead=force, leaves=True, who="host")

        await self._units.run(unit, name="nodes.leave")

    @staticmethod
    def _remove(cursor: Cursor, node_id: UUID, *, dead: bool, leaves: bool, who: str) -> None:
        # Instances before nodes, as everyone who locks both does.
        instances = lock_instances(cursor, node_id, dead=dead)
        row = locked(lock_node(cursor, node_id), node_id)
        if row["state"] != NodeState.TERMINATED:
            cursor.execute(
                "select last_seen_at > now() - make_interval(secs => %s) as alive from nodes where id = %s",
                (ALIVE_WITHIN, node_id),
            )
            seen = cursor.fetchone()
            assert seen is not None
            if dead:
                refuse_living(row, seen["alive"] and not leaves, dead=True)
                bury(cursor, row, instances, who)
            else:
                clear(cursor, row, instances, who, leaves=leaves)
                refuse_living(row, seen["alive"] and not leaves, dead=False)
            write_state(cursor, row, NodeState.TERMINATED, _ENDS[dead, leaves], who)
        if (dead or leaves) and row["buried_at"] is None:
            cursor.execute("update nodes set buried_at = now() where id = %s", (node_id,))

    async def set_desired(self, node_id: UUID, desired: NodeDesired, *, who: str = "api") -> NodeRow:
        """Ask a node to be ready, to take nothing new (cordoned), or to be emptied too (draining)."""

        def unit(cursor: Cursor) -> NodeRow:
            row = lock_node(cursor, node_id)
            if row is None:
                raise missing_node(node_id)
            if row["state"] == NodeState.TERMINATED:
                raise Conflict(f"{row['hostname']} is terminated")
            if row["desired"] != desired:
                cursor.execute(
                    "update nodes set desired = %s, desired_generation = desired_generation + 1, updated_at = now() "
                    "where id = %s",
                    (desired, node_id),
                )
                record(cursor, who, "node.desired", "node", node_id, {"from": row["desired"], "to": desired})
                announce(cursor, "zw_nodes", node_id)
                if row["state"] in (NodeState.READY, NodeState.DRAINING):
                    write_state(cursor, {**row, "desired": desired}, NodeState.READY, row["reason"], who)
            return get_node(cursor, node_id)

        return await self._units.run(unit, name="nodes.set_desired")

    async def set_taints(self, node_id: UUID, taints: Collection[Taint], *, who: str = "api") -> NodeRow:
        """Keep what does not tolerate these away from a node from now on; what is there stays. Raises `NotFound`."""
        wanted = taints_to_json(sorted(set(taints)))

        def unit(cursor: Cursor) -> NodeRow:
            row = lock_node(cursor, node_id)
            if row is None:
                raise missing_node(node_id)
            if row["taints"] != wanted:
                cursor.execute(
                    "update nodes set taints = %s, updated_at = now() where id = %s", (Jsonb(wanted), node_id)
                )
                record(cursor, who, "node.taints", "node", node_id, {"from": row["taints"], "to": wanted})
                announce(cursor, "zw_nodes", node_id)
            return get_node(cursor, node_id)

        return await self._units.run(unit, name="nodes.set_taints")

    async def drains(self, node_id: UUID | None = None) -> dict[UUID, DrainRow]:
        """Return what is left on one node, or on each, of those that are to be emptied."""
        return await self._units.read(lambda cursor: drains(cursor, node_id), name="nodes.drains")

    async def set_state(self, node_id: UUID, state: NodeState, reason: str = "", *, who: str = "host") -> NodeRow:
        """Write what a node is. ``ready`` becomes ``draining`` while that is desired."""

        def unit(cursor: Cursor) -> NodeRow:
            row = lock_node(cursor, node_id)
            if row is None:
                raise missing_node(node_id)
            if row["state"] == NodeState.TERMINATED:
                raise Conflict(f"{row['hostname']} is terminated", fix="start `zeitwork run` there to bring it back")
            write_state(cursor, row, state, reason, who)
            return get_node(cursor, node_id)

        return await self._units.run(unit, name="nodes.set_state")

    async def record_capacity(self, node_id: UUID, capacity: Capacity) -> None:
        """Write what the host can give. May be below what is placed: then free is zero, never negative."""

        def unit(cursor: Cursor) -> None:
            row = lock_node(cursor, node_id)
            if row is None:
                raise missing_node(node_id)
            if capacity_of(row) == capacity:
                return
            assignments = ", ".join(f"{name} = %({name})s" for name in CAPACITY_FIELDS)
            values = {name: getattr(capacity, name) for name in CAPACITY_FIELDS}
            cursor.execute(
                f"update nodes set {assignments}, updated_at = now() where id = %(id)s".encode(),
                {**values, "id": node_id},
            )
            data = {"vcpu": capacity.vcpu, "memory": capacity.memory}
            record(cursor, "resource-monitor", "node.capacity", "node", node_id, data)
            announce(cursor, "zw_nodes", node_id)

        await self._units.run(unit, name="nodes.record_capacity")

    async def record_overhead(self, node_id: UUID, readings: Mapping[UUID, int], peaks: Mapping[str, int]) -> None:
        """Write the KiB that each placement's monitor takes, and the most that each hypervisor's were seen to need.

        What they take together beyond what their placements hold for it is not free any more. Placements that are
        gone count nothing. Raises `NotFound`.
        """

        def unit(cursor: Cursor) -> None:
            row = lock_node(cursor, node_id)
            if row is None:
                raise missing_node(node_id)
            cursor.execute(
                "select coalesce(ceil(sum(r.kib) / 1024.0), 0)::integer as measured, count(*)::integer as monitors, "
                "coalesce(sum(p.memory_overhead), 0)::integer as held from placements p "
                "join unnest(%s::uuid[], %s::bigint[]) as r (id, kib) on p.id = r.id "
                "where p.node_id = %s and p.state <> 'removed'",
                (list(readings), list(readings.values()), node_id),
            )
            found = cursor.fetchone()
            assert found is not None
            excess = max(0, found["measured"] - found["held"])
            seen = (found["measured"], found["monitors"], excess, dict(peaks))
            known = (row["overhead_measured"], row["overhead_monitors"], row["overhead_excess"], row["overhead_peaks"])
            if known == seen:
                return
            cursor.execute(
                "update nodes set overhead_measured = %s, overhead_monitors = %s, overhead_excess = %s, "
                "overhead_peaks = %s where id = %s",
                (*seen[:3], Jsonb(seen[3]), node_id),
            )
            if excess != row["overhead_excess"]:
                data = {"measured": found["measured"], "allocated": found["held"], "excess": excess}
                record(cursor, "resource-monitor", "node.overhead", "node", node_id, data)
                announce(cursor, "zw_nodes", node_id)

        await self._units.run(unit, name="nodes.record_overhead")

    async def record_condition(self, node_id: UUID, hypervisor: str | None, pressure: float) -> None:
        """Write what runs guests on a host, None while that is not known, and how long its tasks wait for a CPU."""

        def unit(cursor: Cursor) -> None:
            row = lock_node(cursor, node_id)
            if row is None:
                raise missing_node(node_id)
            known = hypervisor or row["hypervisor"]
            if (row["hypervisor"], row["pressure"]) == (known, pressure):
                return
            cursor.execute("update nodes set hypervisor = %s, pressure = %s where id = %s", (known, pressure, node_id))
            if row["hypervisor"] != known:
                data = {"from": row["hypervisor"], "to": known}
                record(cursor, "resource-monitor", "node.hypervisor", "node", node_id, data)
                announce(cursor, "zw_nodes", node_id)

        await self._units.run(unit, name="nodes.record_condition")

    async def closed(self, node_id: UUID) -> str:
        """Return why the host takes no new work, empty when it does. Raises `NotFound`."""

        def unit(cursor: Cursor) -> str:
            cursor.execute("select closed_reason from nodes where id = %s", (node_id,))
            row = cursor.fetchone()
            if row is None:
                raise missing_node(node_id)
            return str(row["closed_reason"])

        return await self._units.read(unit, name="nodes.closed")

    async def record_closed(self, node_id: UUID, reason: str) -> None:
        """Write why the host takes no new work, or with an empty ``reason`` that it does again."""

        def unit(cursor: Cursor) -> None:
            row = lock_node(cursor, node_id)
            if row is None:
                raise missing_node(node_id)
            if bool(row["closed_reason"]) == bool(reason):
                return
            cursor.execute(
                "update nodes set closed_reason = %(reason)s, updated_at = now(), "
                "closed_since = case when %(reason)s <> '' then now() end where id = %(id)s",
                {"reason": reason, "id": node_id},
            )
            what, data = ("node.closed", {"reason": reason}) if reason else ("node.opened", {})
            record(cursor, "resource-monitor", what, "node", node_id, data)
            announce(cursor, "zw_nodes", node_id)

        await self._units.run(unit, name="nodes.record_closed")

    async def record_addresses(self, node_id: UUID, own: OwnAddresses) -> None:
        """Write a host's own addresses. While it has none, the one it was last called by stays."""
        listed = [
            {"interface": item.interface, "address": str(item.address), "primary": item.primary} for item in own.items
        ]

        def unit(cursor: Cursor) -> None:
            row = lock_node(cursor, node_id)
            if row is None:
                raise missing_node(node_id)
            called = own.main.address.ip if own.main else row["ip_address"]
            if (row["addresses"], row["ip_address"]) == (listed, called):
                return
            cursor.execute(
                "update nodes set addresses = %s, ip_address = %s, updated_at = now() where id = %s",
                (Jsonb(listed), called, node_id),
            )
            data = {"ip_address": str(called) if called else None, "addresses": listed}
            record(cursor, "addresses", "node.addresses", "node", node_id, data)
            announce(cursor, "zw_nodes", node_id)

        await self._units.run(unit, name="nodes.record_addresses")

    async def resources(self, node_id: UUID | None = None) -> tuple[ResourcesRow, ...]:
        """Return capacity, use and what is free, of one node or of each that is not terminated."""
        return await self._units.read(lambda cursor: resource_rows(cursor, node_id), name="nodes.resources")


#: Why a node is terminated, by whether all that was on it was given up and whether its host said so itself.
_ENDS = {
    (False, False): "deleted",
    (True, False): "removed for good: an operator said that it never comes back",
    (False, True): "its host has left the cluster",
    (True, True): "its host has left the cluster, with what ran there stopped",
}


def _move(cursor: Cursor, node_id: UUID, region: RegionRow) -> None:
    """Take a node to another region: its pools go, which its leases must allow."""
    cursor.execute("select count(*) as live from placements where node_id = %s and state <> 'removed'", (node_id,))
    row = cursor.fetchone()
    if row is not None and row["live"]:
        raise Conflict(
            f"this host cannot move to region {region.name} while {row['live']} placements are on it",
            field="region",
            fix="start it with the region it had, or stop its instances first",
        )
    forget_node(cursor, node_id)
    drop_pools(cursor, node_id)
    cursor.execute("update nodes set region_id = %s where id = %s", (region.id, node_id))
