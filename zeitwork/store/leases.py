"""Addresses in use and at rest. Writes the table ``leases``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from actors.ipam_lease.store import PoolUsage
from zeitwork.store.arrays import addresses, uuids
from zeitwork.store.units import Cursor, Units

#: Seconds that a released address rests, so that what others remember of its last owner is gone before its next.
REST = 60.0


@dataclass(frozen=True, slots=True)
class NewLease:
    """An address of a node's pool for a placement."""

    address: str
    pool: str
    node_id: UUID
    placement_id: UUID


def lease(cursor: Cursor, leases: Collection[NewLease]) -> None:
    """Lease addresses that `zeitwork.store.pools` chose, taking over rows whose rest is over."""
    cursor.execute(
        _LEASE,
        (
            addresses(one.address for one in leases),
            addresses(one.pool for one in leases),
            uuids(one.node_id for one in leases),
            uuids(one.placement_id for one in leases),
        ),
    )
    if cursor.rowcount != len(leases):
        raise AssertionError("an address was chosen although it is in use")


_LEASE = """
insert into leases (address, pool, node_id, placement_id)
select * from unnest(%s::inet[], %s::cidr[], %s::uuid[], %s::uuid[])
on conflict (address) do update set state = 'leased', rest_until = null, leased_at = now(),
    node_id = excluded.node_id, placement_id = excluded.placement_id, pool = excluded.pool
    where leases.state = 'resting' and leases.rest_until <= now()
"""


def release(cursor: Cursor, placement_id: UUID, rest: float = REST) -> None:
    """Let the addresses of a removed placement rest."""
    cursor.execute(
        "update leases set state = 'resting', rest_until = now() + make_interval(secs => %s) "
        "where placement_id = %s and state = 'leased'",
        (rest, placement_id),
    )


def forget_node(cursor: Cursor, node_id: UUID) -> None:
    """Delete what rests on a node whose pools go."""
    cursor.execute("delete from leases where node_id = %s and state = 'resting'", (node_id,))


def forget_rested(cursor: Cursor) -> None:
    """Delete what has rested on nodes that are no more: nobody else looks after those."""
    cursor.execute(
        "delete from leases where state = 'resting' and rest_until <= now() "
        "and node_id in (select id from nodes where state = 'terminated')"
    )


class Leases:
    """`actors.ipam_lease.store.LeaseStore` on Postgres."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def usage(self, node_id: UUID) -> tuple[PoolUsage, ...]:
        """Return how full the host's pools are."""
        return (await self.usages(node_id)).get(node_id, ())

    async def usages(self, node_id: UUID | None = None) -> dict[UUID, tuple[PoolUsage, ...]]:
        """Return how full the pools of each host are, or of one; a host without pools, or no more, is not in it."""

        def unit(cursor: Cursor) -> dict[UUID, tuple[PoolUsage, ...]]:
            cursor.execute(
                "select node_id, family, network, last_offset - first_offset + 1 as size, "
                "(select count(*) from leases where pool = network and state = 'leased') as leased, "
                "(select count(*) from leases where pool = network and state = 'resting' and rest_until > now()) "
                "as resting from pools join nodes n on n.id = node_id and n.state <> 'terminated' "
                "where %(node)s::uuid is null or node_id = %(node)s order by node_id, family",
                {"node": node_id},
            )
            found: dict[UUID, tuple[PoolUsage, ...]] = {}
            for row in cursor:
                pool = PoolUsage(row["family"], str(row["network"]), row["size"], row["leased"], row["resting"])
                found[row["node_id"]] = (*found.get(row["node_id"], ()), pool)
            return found

        return await self._units.read(unit, name="leases.usage")

    async def expire_rested(self, node_id: UUID) -> int:
        """Delete leases whose rest is over; return how many."""

        def unit(cursor: Cursor) -> int:
            cursor.execute(
                "delete from leases where node_id = %s and state = 'resting' and rest_until <= now()", (node_id,)
            )
            return cursor.rowcount

        return await self._units.run(unit, name="leases.expire_rested")
