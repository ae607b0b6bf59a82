"""What hosts had, gave away and used, minute by minute for a day. Writes the table ``resource_samples``."""

from __future__ import annotations

from uuid import UUID

from actors.model.errors import NotFound
from actors.resource_monitor.store import Usage
from zeitwork.store.node_rows import resource_rows
from zeitwork.store.rows import SampleRow
from zeitwork.store.units import Cursor, Units

#: Seconds that samples are kept.
KEEP_SECONDS = 24 * 3600


class History:
    """Samples of resources; also `actors.resource_monitor.store.HistoryStore`."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def record_sample(self, node_id: UUID, usage: Usage) -> None:
        """Write this minute's sample of a host, replacing an earlier one, and forget those that are a day old.

        Raises `NotFound`.
        """

        def unit(cursor: Cursor) -> None:
            rows = resource_rows(cursor, node_id)
            if not rows:
                raise NotFound(f"there is no node {node_id}")
            cursor.execute(
                "insert into resource_samples (node_id, at, vcpu_capacity, memory_capacity, vcpu_allocated, "
                "memory_allocated, cpus_used, memory_used, memory_total, placements, overhead_allocated, "
                "overhead_measured) values (%s, date_trunc('minute', now()), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
                "on conflict (node_id, at) do update set "
                "vcpu_capacity = excluded.vcpu_capacity, memory_capacity = excluded.memory_capacity, "
                "vcpu_allocated = excluded.vcpu_allocated, memory_allocated = excluded.memory_allocated, "
                "cpus_used = excluded.cpus_used, memory_used = excluded.memory_used, "
                "memory_total = excluded.memory_total, placements = excluded.placements, "
                "overhead_allocated = excluded.overhead_allocated, overhead_measured = excluded.overhead_measured",
                (
                    node_id,
                    rows[0].vcpu,
                    rows[0].memory,
                    rows[0].vcpu_used,
                    rows[0].memory_used,
                    usage.cpus,
                    usage.memory,
                    usage.memory_total,
                    rows[0].placements,
                    rows[0].overhead.allocated,
                    rows[0].overhead.measured,
                ),
            )
            cursor.execute(
                "delete from resource_samples where node_id = %s and at <= now() - make_interval(secs => %s)",
                (node_id, KEEP_SECONDS),
            )

        await self._units.run(unit, name="history.record_sample")

    async def samples(self, seconds: int, step: int) -> tuple[SampleRow, ...]:
        """Return the last ``seconds`` of each node that is not terminated, averaged over ``step`` seconds.

        Ordered by node, then by time.
        """

        def unit(cursor: Cursor) -> tuple[SampleRow, ...]:
            cursor.execute(
                "select s.node_id, date_bin(make_interval(secs => %(step)s), s.at, timestamptz '2020-01-01Z') as since,"
                " avg(s.vcpu_capacity)::float8 as vcpu, avg(s.memory_capacity)::float8 as memory,"
                " avg(s.vcpu_allocated)::float8 as vcpu_allocated, avg(s.memory_allocated)::float8 as memory_allocated,"
                " avg(s.cpus_used)::float8 as cpus_used, avg(s.memory_used)::float8 as memory_used,"
                " avg(s.memory_total)::float8 as memory_total, avg(s.placements)::float8 as placements,"
                " avg(s.overhead_allocated)::float8 as overhead_allocated,"
                " avg(s.overhead_measured)::float8 as overhead_measured "
                "from resource_samples s join nodes n on n.id = s.node_id "
                "where n.state <> 'terminated' and s.at > now() - make_interval(secs => %(seconds)s) "
                "group by 1, 2 order by 1, 2",
                {"seconds": seconds, "step": step},
            )
            return tuple(
                SampleRow(
                    node_id=row["node_id"],
                    at=row["since"],
                    vcpu=row["vcpu"],
                    memory=row["memory"],
                    vcpu_allocated=row["vcpu_allocated"],
                    memory_allocated=row["memory_allocated"],
                    cpus_used=row["cpus_used"],
                    memory_used=row["memory_used"],
                    memory_total=row["memory_total"],
                    placements=row["placements"],
                    overhead_allocated=row["overhead_allocated"],
                    overhead_measured=row["overhead_measured"],
                )
                for row in cursor
            )

        return await self._units.read(unit, name="history.samples")

    async def prune(self) -> int:
        """Forget samples that are a day old, those of hosts that write none any more too; return how many."""

        def unit(cursor: Cursor) -> int:
            cursor.execute(
                "delete from resource_samples where at <= now() - make_interval(secs => %s)", (KEEP_SECONDS,)
            )
            return cursor.rowcount

        return await self._units.run(unit, name="history.prune")
