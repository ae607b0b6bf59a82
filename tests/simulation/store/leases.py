"""`zeitwork.store.leases` and `zeitwork.store.pools` in memory."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from uuid import UUID

from actors.ipam_lease.store import PoolUsage
from actors.model.errors import Conflict
from actors.model.states import NodeState
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.database import Transaction
from tests.simulation.store.units import Units
from zeitwork.store.pools import HOST_V4, HOST_V6, first_free

_V6_LAST = (1 << 62) - 1


class PoolExhausted(Exception):
    """A node's pool has no address to give; the message has the numbers."""


def pools_of(tx: Transaction, node_id: UUID) -> dict[int, tables.Pool]:
    """Return a node's pools by family."""
    return {pool.family: pool for pool in tx.database.pools if pool.node_id == node_id}


def ensure_pools(tx: Transaction, node_id: UUID, region: tables.Region, *, ipv6: bool) -> None:
    """Give a node the pools it lacks. Raises `Conflict` when the region has none left."""
    _drop_rested(tx)
    has = pools_of(tx, node_id)
    if 4 not in has:
        taken = [pool.network for pool in tx.database.pools if isinstance(pool.network, IPv4Network)]
        v4 = first_free(region.v4, HOST_V4, taken)
        if v4 is None:
            raise Conflict(
                f"the IPv4 network {region.v4} of region {region.name} has no free /{HOST_V4} for another host",
                field="region",
                fix="delete nodes that are gone (their networks are free a minute later)",
            )
        last = max(0, v4.num_addresses - 2)
        tx.database.pools.put(v4, tables.Pool(v4, node_id, min(1, last), last, _begin(tx, v4, min(1, last))))
    if ipv6 and 6 not in has:
        taken6 = [pool.network for pool in tx.database.pools if isinstance(pool.network, IPv6Network)]
        v6 = first_free(region.v6, HOST_V6, [network for network in taken6 if network.subnet_of(region.v6)])
        if v6 is None:
            raise Conflict(f"region {region.name} has no free /{HOST_V6} for another host", field="region")
        tx.database.pools.put(v6, tables.Pool(v6, node_id, 2, _V6_LAST, _begin(tx, v6, 2)))


def drop_pools(tx: Transaction, node_id: UUID) -> None:
    """Free a node's networks for other hosts."""
    for pool in list(pools_of(tx, node_id).values()):
        _free_pool(tx, pool)


def _free_pool(tx: Transaction, pool: tables.Pool) -> None:
    tx.database.pools.remove(pool.network)
    tx.database.freed_pools.put(pool.network, pool.next)


def _begin(tx: Transaction, network: IPv4Network | IPv6Network, first: int) -> int:
    """Return where the search for a free address begins: where the last host with that network has ended."""
    freed = tx.database.freed_pools.get(network)
    if freed is None:
        return first
    tx.database.freed_pools.remove(network)
    return freed


def _drop_rested(tx: Transaction) -> None:
    """Free the networks of nodes that are no more once none of their addresses rests."""
    ended = {node.id for node in tx.database.nodes if node.state is NodeState.TERMINATED}
    for row in [row for row in tx.database.leases if row.node_id in ended]:
        if row.rest_until is not None and row.rest_until <= tx.now:
            tx.database.leases.remove(row.address)
    resting = {row.pool for row in tx.database.leases}
    for pool in [pool for pool in tx.database.pools if pool.node_id in ended and pool.network not in resting]:
        _free_pool(tx, pool)


def pick(tx: Transaction, node_id: UUID, family: int) -> tuple[tables.Pool, IPv4Address | IPv6Address]:
    """Choose an address of a node's pool that nobody has and that does not rest. Raises `PoolExhausted`."""
    pool = pools_of(tx, node_id).get(family)
    if pool is None:
        raise PoolExhausted(f"the host has no IPv{family} pool")
    base = int(pool.network.network_address)
    mine = [row for row in tx.database.leases if row.pool == pool.network]
    occupied = {int(row.address) - base for row in mine if row.rest_until is None or row.rest_until > tx.now}
    if Bug.NO_REST in tx.bugs:
        occupied = {int(row.address) - base for row in mine if row.rest_until is None}
    start = pool.first if Bug.NO_REST in tx.bugs else pool.next
    offset = _free(occupied, start, pool.last)
    if offset is None:
        offset = _free(occupied, pool.first, pool.last)
    if offset is None:
        leased = sum(1 for row in mine if row.rest_until is None)
        resting = len(occupied) - leased
        raise PoolExhausted(f"no free IPv{family} address in {pool.network}: {leased} leased, {resting} resting")
    return pool, pool.network.network_address + offset


def _free(occupied: set[int], start: int, last: int) -> int | None:
    while start in occupied:
        start += 1
    return start if start <= last else None


def lease(
    tx: Transaction, pool: tables.Pool, address: IPv4Address | IPv6Address, node_id: UUID, placement_id: UUID
) -> None:
    """Lease an address that `pick` chose."""
    before = tx.database.leases.get(address)
    ready = before is None or (before.rest_until is not None and before.rest_until <= tx.now)
    assert ready or Bug.NO_REST in tx.bugs, f"{address} was chosen although it is in use"
    tx.database.leases.put(address, tables.Address(address, pool.network, node_id, placement_id, tx.now))
    # The next search begins after it, so that each address comes again as late as possible.
    tx.database.pools.put(pool.network, replace(pool, next=int(address) - int(pool.network.network_address) + 1))


def release(tx: Transaction, placement_id: UUID, rest: float) -> None:
    """Let the addresses of a removed placement rest."""
    if Bug.LEASE_LEAKED in tx.bugs:
        return
    for row in [row for row in tx.database.leases if row.placement_id == placement_id and row.rest_until is None]:
        tx.database.leases.put(row.address, replace(row, rest_until=tx.now + rest))


def forget_node(tx: Transaction, node_id: UUID) -> None:
    """Delete what rests on a node whose pools go."""
    for row in [row for row in tx.database.leases if row.node_id == node_id and row.rest_until is not None]:
        tx.database.leases.remove(row.address)


class Leases:
    """`actors.ipam_lease.store.LeaseStore`."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def usage(self, node_id: UUID) -> tuple[PoolUsage, ...]:
        """Return how full the host's pools are."""

        def unit(tx: Transaction) -> tuple[PoolUsage, ...]:
            found = []
            node = tx.database.nodes.get(node_id)
            if node is None or node.state is NodeState.TERMINATED:
                return ()
            for family, pool in sorted(pools_of(tx, node_id).items()):
                rows = [row for row in tx.database.leases if row.pool == pool.network]
                leased = sum(1 for row in rows if row.rest_until is None)
                resting = sum(1 for row in rows if row.rest_until is not None and row.rest_until > tx.now)
                found.append(PoolUsage(family, str(pool.network), pool.last - pool.first + 1, leased, resting))
            return tuple(found)

        return await self._units.read(unit, name="leases.usage")

    async def expire_rested(self, node_id: UUID) -> int:
        """Delete leases whose rest is over; return how many."""

        def unit(tx: Transaction) -> int:
            over = [
                row
                for row in tx.database.leases
                if row.node_id == node_id and row.rest_until is not None and row.rest_until <= tx.now
            ]
            for row in over:
                tx.database.leases.remove(row.address)
            return len(over)

        return await self._units.run(unit, name="leases.expire_rested")
