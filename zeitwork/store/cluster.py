"""The cluster's identity and its regions. Writes the tables ``cluster`` and ``regions``."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from zeitwork.store.rows import ClusterRow, RegionRow
from zeitwork.store.units import Units


class Cluster:
    """Who this database is the truth of."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def identity(self) -> ClusterRow:
        """Return the cluster's id, made when the database was."""
        raise NotImplementedError

    async def regions(self) -> tuple[RegionRow, ...]:
        """Return every region, by name."""
        raise NotImplementedError

    async def region(self, name: str, *, v6: IPv6Network | None = None, v4: IPv4Network | None = None) -> RegionRow:
        """Return the region of that name, made with these networks when it is new (a random ULA /48 when None)."""
        raise NotImplementedError
