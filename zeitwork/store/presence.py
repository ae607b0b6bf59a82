"""Signs of life: what hosts write, what the leader makes of their absence, and what a return undoes."""

from __future__ import annotations

from uuid import UUID

from actors.model.states import NodeState
from actors.registrar.store import Beat
from runtime.lease import Term
from zeitwork.store.current import COUNTS
from zeitwork.store.election import fence
from zeitwork.store.instance_rows import announce_desired
from zeitwork.store.journal import announce, record
from zeitwork.store.node_rows import lock_node
from zeitwork.store.nodes import hasten, write_awaited, write_beat, write_state
from zeitwork.store.placement_rows import write_found
from zeitwork.store.succession import settle
from zeitwork.store.units import Cursor, Units

# What was decided to do without stays lost: its host finds that it is not wanted there.
_LOST_HERE = f"""
select c.id, c.instance_id from placements c join instances i on i.id = c.instance_id
where c.node_id = %s and c.lost_at is not null and {COUNTS}
"""
_BEATS = """
select id, hostname, state, generation, extract(epoch from last_seen_at)::float8 as seen,
    extract(epoch from now() - last_seen_at)::float8 as age,
    case when state = 'down' then extract(epoch from replace_after - now())::float8 end as replace_in
from nodes where generation > 0 and last_seen_at is not null
    and case state when 'terminated' then false when 'down' then replace_after > now() else true end order by id
"""


class Presence:
    """`actors.registrar.store.PresenceStore` and ``WatchStore`` on Postgres."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def heartbeat(self, node_id: UUID, generation: int) -> bool:
        """Write that the process of this generation lives; False when another generation has registered since.

        A host that was found dead is back by it, and what is still wanted of what it runs is no longer lost.
        """

        def unit(cursor: Cursor) -> tuple[bool, bool]:
            state = write_beat(cursor, node_id, generation)
            if state is None:
                return False, False
            if state is NodeState.DOWN:
                return True, True
            cursor.execute(f"{_LOST_HERE} limit 1".encode(), (node_id,))
            return True, cursor.fetchone() is not None

        # It asks whatever is known of the database: no sign is late because somebody else found no answer before.
        ours, away = await self._units.run(unit, name="presence.heartbeat", insist=True)
        if away:
            # In a transaction of its own, which locks what it needs in the order that everybody keeps. Whatever keeps
            # it from being done is found by the next sign of life.
            await self._units.run(lambda cursor: _come_back(cursor, node_id, generation), name="presence.return")
        return ours

    async def beats(self) -> tuple[Beat, ...]:
        """Return the last sign of life of each node that has registered and is not terminated.

        Of those that are down only those whose replacement is still to come.
        """

        def unit(cursor: Cursor) -> tuple[Beat, ...]:
            cursor.execute(_BEATS)
            return tuple(
                Beat(
                    node_id=row["id"],
                    hostname=row["hostname"],
                    state=NodeState(row["state"]),
                    generation=row["generation"],
                    seen=row["seen"],
                    age=row["age"],
                    replace_in=row["replace_in"],
                )
                for row in cursor
            )

        return await self._units.read(unit, name="presence.beats")

    async def mark_down(self, beat: Beat, reason: str, term: Term, *, grace: float = 0.0) -> bool:
        """Write that a host is dead, which gives what ran there free to be replaced after ``grace`` seconds.

        Of one that is down already the time until then may become shorter by it, never longer. False when nothing has
        changed by it, and when the host has given a sign of life since or was started anew. Raises `Fenced` when
        ``term`` is over.
        """

        def unit(cursor: Cursor) -> bool:
            fence(cursor, term)
            row = lock_node(cursor, beat.node_id)
            if row is None or row["state"] == NodeState.TERMINATED:
                return False
            cursor.execute(
                "select from nodes where id = %s and generation = %s and extract(epoch from last_seen_at)::float8 = %s",
                (beat.node_id, beat.generation, beat.seen),
            )
            if cursor.fetchone() is None:
                return False
            if row["state"] == NodeState.DOWN:
                return hasten(cursor, row, reason, "registrar", grace)
            write_state(cursor, row, NodeState.DOWN, reason, "registrar", grace=grace)
            return True

        return await self._units.run(unit, name="presence.mark_down")


def _come_back(cursor: Cursor, node_id: UUID, generation: int) -> None:
    """Undo what was decided about a host because it was found dead, as far as it still can be."""
    cursor.execute(_LOST_HERE.encode(), (node_id,))
    wanted = [row["instance_id"] for row in cursor]
    cursor.execute("select * from instances where id = any(%s) order by id for no key update", (wanted,))
    instances = {row["id"]: row for row in cursor}
    # Once more under their locks: another may have been decided about meanwhile.
    cursor.execute(
        f"{_LOST_HERE} and i.id = any(%s) order by c.id for no key update of c".encode(), (node_id, list(instances))
    )
    found = cursor.fetchall()
    node = lock_node(cursor, node_id)
    if node is None or node["generation"] != generation or node["state"] == NodeState.TERMINATED:
        return
    if node["state"] == NodeState.DOWN:
        write_state(cursor, node, NodeState.READY, "", "host")
    for row in found:
        write_found(cursor, row["id"])
        data = {"instance_id": str(row["instance_id"]), "node_id": str(node_id)}
        record(cursor, "host", "placement.found", "placement", row["id"], data)
        settle(cursor, instances[row["instance_id"]], "", who="host")
        announce_desired(cursor, row["instance_id"])
    announce(cursor, "zw_nodes", node_id)


def await_return(cursor: Cursor, reason: str, who: str, grace: float) -> None:
    """Hold every host that has ever run for down, and let what runs there be replaced ``grace`` seconds from now at
    the earliest: when it is not known of any of them whether it runs, and all are about to be started.
    """
    cursor.execute("select * from nodes where generation > 0 and state <> 'terminated' order by id for no key update")
    for row in cursor.fetchall():
        write_awaited(cursor, row["id"], reason, grace)
        data = {"from": row["state"], "to": NodeState.DOWN, "reason": reason}
        record(cursor, who, "node.state", "node", row["id"], data)
        announce(cursor, "zw_nodes", row["id"])
