"""The networks that hosts give addresses from. Writes the table ``pools`` (a part of the nodes' aggregate)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar
from uuid import UUID

from actors.model.errors import Conflict
from zeitwork.store.problems import PoolExhausted
from zeitwork.store.rows import RegionRow
from zeitwork.store.units import Cursor

#: Prefix lengths of a host's pools.
HOST_V4, HOST_V6 = 22, 64
#: A /64 has more addresses than a bigint can count; a quarter of those are enough.
_V6_LAST = (1 << 62) - 1

Network = TypeVar("Network", IPv4Network, IPv6Network)


def first_free(region: Network, prefix: int, taken: Iterable[Network]) -> Network | None:
    """Return the first network of this prefix length in ``region`` that overlaps none that is taken."""
    used = [network for network in taken if network.overlaps(region)]
    candidates = region.subnets(new_prefix=max(prefix, region.prefixlen))
    for candidate in candidates:
        if not any(candidate.overlaps(network) for network in used):
            return candidate
    return None


def ensure_pools(cursor: Cursor, node_id: UUID, region: RegionRow, *, ipv6: bool) -> None:
    """Give a node the pools it lacks. The region must be locked. Raises `Conflict` when the region has none left."""
    cursor.execute("select family from pools where node_id = %s", (node_id,))
    has = {row["family"] for row in cursor}
    if 4 not in has:
        # Other regions' pools count too: an address must be unique in the whole table of leases.
        cursor.execute("select network from pools where family = 4")
        v4 = first_free(region.v4, HOST_V4, [row["network"] for row in cursor])
        if v4 is None:
            raise Conflict(
                f"the IPv4 network {region.v4} of region {region.name} has no free /{HOST_V4} for another host",
                field="region",
                fix="delete nodes that are gone, or start a region with a larger network",
            )
        last = max(0, v4.num_addresses - 2)
        _insert(cursor, v4, node_id, min(1, last), last)
    if ipv6 and 6 not in has:
        cursor.execute("select network from pools where network <<= %s", (region.v6,))
        v6 = first_free(region.v6, HOST_V6, [row["network"] for row in cursor])
        if v6 is None:
            raise Conflict(f"region {region.name} has no free /{HOST_V6} for another host", field="region")
        # 0 is the subnet's router anycast address, 1 is what people expect a router at.
        _insert(cursor, v6, node_id, 2, _V6_LAST)


def drop_pools(cursor: Cursor, node_id: UUID) -> None:
    """Free a node's networks for other hosts. Its leases must be gone."""
    cursor.execute("delete from pools where node_id = %s", (node_id,))


def pick(cursor: Cursor, node_id: UUID, family: int) -> tuple[IPv4Network | IPv6Network, IPv4Address | IPv6Address]:
    """Choose an address of a node's pool that nobody has and that does not rest; return it with its pool.

    The search begins after the last one chosen, so an address comes again as late as possible. The pool stays locked
    until the transaction ends: the choice is ours. Raises `PoolExhausted` with the numbers.
    """
    cursor.execute(
        "select network, first_offset, last_offset, next_offset from pools "
        "where node_id = %s and family = %s for update",
        (node_id, family),
    )
    pool = cursor.fetchone()
    if pool is None:
        raise PoolExhausted(f"the host has no IPv{family} pool")
    offset = _free(cursor, pool, pool["next_offset"])
    if offset is None:
        offset = _free(cursor, pool, pool["first_offset"])
    network: IPv4Network | IPv6Network = pool["network"]
    if offset is None:
        cursor.execute(
            "select count(*) filter (where state = 'leased') as leased, "
            "count(*) filter (where state = 'resting') as resting from leases where pool = %s",
            (network,),
        )
        counts = cursor.fetchone()
        assert counts is not None
        raise PoolExhausted(
            f"no free IPv{family} address in {network}: {counts['leased']} leased, {counts['resting']} resting"
        )
    cursor.execute("update pools set next_offset = %s where network = %s", (offset + 1, network))
    return network, network.network_address + offset


def _free(cursor: Cursor, pool: Mapping[str, Any], start: int) -> int | None:
    """Return the lowest free offset from ``start`` on, None when there is none.

    It is ``start`` itself or the one after an occupied address, so nothing needs to count through the whole pool.
    """
    cursor.execute(
        """
        with occupied as materialized (
            select address - network(%(network)s::cidr)::inet as place from leases
            where pool = %(network)s and (state = 'leased' or rest_until > now()))
        select min(candidate) as free from (
            select %(start)s::bigint as candidate
            union all
            select place + 1 from occupied where place >= %(start)s) candidates
        where candidate <= %(last)s and candidate not in (select place from occupied)
        """,
        {"network": pool["network"], "start": start, "last": pool["last_offset"]},
    )
    row = cursor.fetchone()
    assert row is not None
    free: int | None = row["free"]
    return free


def _insert(cursor: Cursor, network: IPv4Network | IPv6Network, node_id: UUID, first: int, last: int) -> None:
    cursor.execute(
        "insert into pools (network, node_id, first_offset, last_offset, next_offset) values (%s, %s, %s, %s, %s)",
        (network, node_id, first, last, first),
    )
