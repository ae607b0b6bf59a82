"""Where hosts listen for links. Writes the table ``host_links``."""

from __future__ import annotations

from uuid import UUID

from zeitwork.store.units import Cursor, Units


class HostLinks:
    """Each host writes its own row; all read."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def announce(self, node: UUID, address: str | None) -> None:
        """Write where a host is reached (``HOST:PORT``), None when it has no links. Idempotent."""

        def unit(cursor: Cursor) -> None:
            if address is None:
                cursor.execute("delete from host_links where node_id = %s", (node,))
            else:
                cursor.execute(
                    "insert into host_links (node_id, address) values (%s, %s) "
                    "on conflict (node_id) do update set address = excluded.address, updated_at = now()",
                    (node, address),
                )

        await self._units.run(unit, name="links.announce")

    async def others(self, node: UUID) -> dict[UUID, str]:
        """Return where all other hosts of the cluster are reached, by node, in a fixed order."""

        def unit(cursor: Cursor) -> dict[UUID, str]:
            cursor.execute(
                "select l.node_id, l.address from host_links l join nodes n on n.id = l.node_id "
                "where l.node_id <> %s and n.state <> 'terminated' order by l.node_id",
                (node,),
            )
            return {row["node_id"]: row["address"] for row in cursor}

        return await self._units.read(unit, name="links.others")

    async def removed(self) -> frozenset[UUID]:
        """Return the hosts that were removed from the cluster."""

        def unit(cursor: Cursor) -> frozenset[UUID]:
            cursor.execute("select id from nodes where state = 'terminated' order by updated_at desc limit 10000")
            return frozenset(row["id"] for row in cursor)

        return await self._units.read(unit, name="links.removed")
