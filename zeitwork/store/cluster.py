"""The cluster's identity and its regions. Writes the tables ``cluster`` and ``regions``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from uuid import UUID

from actors.model.errors import InvalidInput
from zeitwork.store.identifiers import new_id
from zeitwork.store.journal import record
from zeitwork.store.rows import DEFAULT_REGION_V4, ClusterRow, RegionRow
from zeitwork.store.units import Cursor, Units

_REGION_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def random_ula() -> IPv6Network:
    """Return a /48 of unique local addresses: fd and 40 random bits (RFC 4193, section 3.2)."""
    return IPv6Network((b"\xfd" + os.urandom(5) + bytes(10), 48))


def region_row(row: Mapping[str, Any]) -> RegionRow:
    """Return a row of ``regions`` as what is handed out."""
    return RegionRow(id=row["id"], name=row["name"], v6=row["v6"], v4=row["v4"])


def ensure_cluster(cursor: Cursor) -> None:
    """Give the cluster its id when it has none yet."""
    cursor.execute("insert into cluster (id) values (%s) on conflict do nothing", (new_id(),))


def ensure_region(
    cursor: Cursor, name: str, v6: IPv6Network | None, v4: IPv4Network | None, who: str = "host"
) -> RegionRow:
    """Return the region of that name, made when it is new, and locked: its networks are handed out one at a time."""
    if _REGION_NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"{name!r} is not a region's name", field="region", fix="use lower-case letters, digits and dashes"
        )
    if v6 is not None and v6.prefixlen != 48:
        raise InvalidInput(f"{v6} is not a /48", field="region.v6")
    cursor.execute(
        "insert into regions (id, name, v6, v4) values (%s, %s, %s, %s) on conflict (name) do nothing returning id",
        (new_id(), name, v6 or random_ula(), v4 or DEFAULT_REGION_V4),
    )
    made = cursor.fetchone()
    cursor.execute("select * from regions where name = %s for no key update", (name,))
    row = cursor.fetchone()
    assert row is not None
    if made is not None:
        record(cursor, who, "region.created", "region", row["id"], {"name": name, "v6": str(row["v6"])})
    return region_row(row)


def default_region_id(cursor: Cursor) -> UUID:
    """Return the oldest region's id; one is made when there is none."""
    cursor.execute("select id from regions order by id limit 1")
    row = cursor.fetchone()
    return row["id"] if row is not None else ensure_region(cursor, "default", None, None).id


class Cluster:
    """Who this database is the truth of."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def identity(self) -> ClusterRow:
        """Return the cluster's id, made when the database was."""

        def unit(cursor: Cursor) -> ClusterRow:
            cursor.execute("select id, created_at from cluster")
            row = cursor.fetchone()
            assert row is not None  # written when the store is opened
            return ClusterRow(row["id"], row["created_at"])

        return await self._units.read(unit, name="cluster.identity")

    async def regions(self) -> tuple[RegionRow, ...]:
        """Return every region, by name."""

        def unit(cursor: Cursor) -> tuple[RegionRow, ...]:
            cursor.execute("select * from regions order by name")
            return tuple(region_row(row) for row in cursor)

        return await self._units.read(unit, name="cluster.regions")

    async def region(self, name: str, *, v6: IPv6Network | None = None, v4: IPv4Network | None = None) -> RegionRow:
        """Return the region of that name, made with these networks when it is new (a random ULA /48 when None)."""
        return await self._units.run(lambda cursor: ensure_region(cursor, name, v6, v4), name="cluster.region")
