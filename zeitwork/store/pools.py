"""The networks that hosts give addresses from. Writes ``pools`` and ``freed_pools``, a part of the nodes' aggregate."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar
from uuid import UUID

from actors.model.errors import Conflict
from zeitwork.store.arrays import addresses, numbers, uuids
from zeitwork.store.leases import forget_rested
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
    _drop_rested(cursor)
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
                fix="delete nodes that are gone (their networks are free a minute later), or start a region with a "
                "larger network",
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
    """Free a node's networks for other hosts at once. Its leases must be gone.

    Nothing rests in them then. Instead their next host gives addresses from where this one has ended: what was given
    last comes again as late as in one pool.
    """
    cursor.execute(_DROP % "node_id = %s", (node_id,))


def _drop_rested(cursor: Cursor) -> None:
    """Free the networks of nodes that are no more once none of their addresses rests.

    Not when such a node goes: whoever got its network then would give addresses that others take for its machines'.
    Their next host, too, goes on from where this one has ended.
    """
    forget_rested(cursor)
    cursor.execute(_DROP % _RESTED)


@dataclass(slots=True)
class Supply:
    """Free addresses of one locked pool, in the order in which they are to be given; each is given once."""

    network: str
    offsets: list[int]
    given: int = 0
    _family: int = field(init=False)
    _base: int = field(init=False)

    def __post_init__(self) -> None:
        """Read the network. Not by `ipaddress`: that would take most of the time that placing takes here."""
        address = self.network.partition("/")[0]
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._base = int.from_bytes(socket.inet_pton(self._family, address))

    def peek(self) -> str | None:
        """Return the next free address, None when there is none left. It is taken by counting it as ``given``."""
        return self.address(self.offsets[self.given]) if self.given < len(self.offsets) else None

    def address(self, offset: int) -> str:
        """Return an address of the pool."""
        length = 16 if self._family == socket.AF_INET6 else 4
        return socket.inet_ntop(self._family, (self._base + offset).to_bytes(length))


def find_free(cursor: Cursor, wanted: Mapping[tuple[UUID, int], int]) -> dict[tuple[UUID, int], Supply]:
    """Find so many addresses of each node and family as are wanted, or as are free, that nobody has and none rests.

    A search begins after the last address given, so that each comes again as late as possible. The pools stay locked
    until the transaction ends: the choice is ours. What was taken must be told to `keep_places`. A node without a pool
    of that family is left out.
    """
    cursor.execute(_LOCK_POOLS, _keys(wanted), prepare=False)
    supplies: dict[tuple[UUID, int], Supply] = {}
    asked: list[str] = []
    for row in cursor:
        key = (row["node_id"], row["family"])
        first, size = row["first_offset"], row["last_offset"] - row["first_offset"] + 1
        begin = row["next_offset"] - first
        offsets = [first + (begin + step) % size for step in range(min(wanted[key], size))]
        supply = supplies[key] = Supply(row["network"], offsets)
        asked += map(supply.address, offsets)
    cursor.execute(_TAKEN, (addresses(asked),))
    networks = {row["pool"] for row in cursor}
    if networks:
        # Some of the next ones are taken.
        short = [key for key, supply in supplies.items() if supply.network in networks]
        cursor.execute(_FREE, (*_keys(short), numbers(wanted[key] for key in short)), prepare=False)
        for row in cursor:
            supplies[row["node_id"], row["family"]].offsets = row["free"]
    return supplies


def _keys(pools: Collection[tuple[UUID, int]]) -> tuple[str, str]:
    return uuids(node for node, _ in pools), numbers(family for _, family in pools)


def keep_places(cursor: Cursor, supplies: Mapping[tuple[UUID, int], Supply]) -> None:
    """Begin the next search in each pool after what was taken from it now."""
    used = {key: supply.offsets[supply.given - 1] + 1 for key, supply in supplies.items() if supply.given}
    cursor.execute(_KEEP, (*_keys(used), numbers(used.values())), prepare=False)


def leap(cursor: Cursor) -> None:
    """Begin the next search in each pool far behind the last address given.

    What was given since a backup was made comes right after what that knows of, and may still be in use by machines
    that a restored database does not know.
    """
    cursor.execute(
        "update pools set next_offset = first_offset + (next_offset - first_offset + least(size / 2, %s)) %% size "
        "from (select network as key, last_offset - first_offset + 1 as size from pools) s where network = s.key",
        (_LEAP,),
    )


def exhausted(cursor: Cursor, supply: Supply) -> str:
    """Return what to say about a pool of which all that was free is given."""
    cursor.execute(_COUNT, (supply.network,))
    row = cursor.fetchone()
    assert row is not None
    family, leased = 6 if ":" in supply.network else 4, row["leased"] + supply.given
    return f"no free IPv{family} address in {supply.network}: {leased} leased, {row['resting']} resting"


_DROP = """
with dropped as (delete from pools p where %s returning network, next_offset)
insert into freed_pools (network, next_offset) select network, next_offset from dropped
on conflict (network) do update set next_offset = excluded.next_offset
"""
_RESTED = """
node_id in (select id from nodes where state = 'terminated')
    and not exists (select from leases l where l.node_id = p.node_id and l.family = p.family)
"""
#: Addresses that are left out at most: an IPv6 pool has more than anybody can count.
_LEAP = 1 << 20
_LOCK_POOLS = """
select p.network::text, p.node_id, p.family, p.first_offset, p.last_offset, p.next_offset
from unnest(%s::uuid[], %s::smallint[]) as w (node_id, family)
    join pools p on p.node_id = w.node_id and p.family = w.family
order by p.node_id, p.family for no key update of p
"""
_TAKEN = """
select distinct pool::text from leases where address = any(%s::inet[]) and (state = 'leased' or rest_until > now())
"""
# In a pool of which n addresses are taken, n more than are wanted hold enough that are free: nothing needs to look
# through the whole pool.
_FREE = """
with pool as materialized (
    select p.*, p.last_offset - p.first_offset + 1 as size, w.count
    from unnest(%s::uuid[], %s::smallint[], %s::bigint[]) as w (node_id, family, count)
        join pools p on p.node_id = w.node_id and p.family = w.family),
taken as materialized (
    select pool, address - network(pool)::inet as place from leases
    where pool in (select network from pool) and (state = 'leased' or rest_until > now()))
select p.node_id, p.family, array(
    select c.place from (
        select step, p.first_offset + (p.next_offset - p.first_offset + step) %% p.size as place
        from generate_series(0, least(p.size, p.count + (select count(*) from taken where pool = p.network)) - 1)
            as step) c
    where not exists (select from taken where pool = p.network and place = c.place)
    order by c.step limit p.count) as free
from pool p
"""
_KEEP = """
update pools p set next_offset = u.next
from unnest(%s::uuid[], %s::smallint[], %s::bigint[]) as u (node_id, family, next)
where p.node_id = u.node_id and p.family = u.family
"""
_COUNT = """
select count(*) filter (where state = 'leased') as leased,
    count(*) filter (where state = 'resting' and rest_until > now()) as resting
from leases where pool = %s::cidr
"""


def _insert(cursor: Cursor, network: IPv4Network | IPv6Network, node_id: UUID, first: int, last: int) -> None:
    cursor.execute("delete from freed_pools where network = %s returning next_offset", (network,))
    freed = cursor.fetchone()
    begin = first if freed is None else freed["next_offset"]
    cursor.execute(
        "insert into pools (network, node_id, first_offset, last_offset, next_offset) values (%s, %s, %s, %s, %s)",
        (network, node_id, first, last, begin),
    )
