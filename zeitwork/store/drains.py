"""How far hosts are that are to be emptied: what is left there, and what keeps it."""

from __future__ import annotations

from uuid import UUID

from zeitwork.store.cursor import Cursor
from zeitwork.store.rows import DrainRow

# What is bound to its host is looked at in the generation that is wanted; an older one is on its way out.
_DRAINS = """
select n.id as node_id, count(p.id) as placements,
    count(p.id) filter (where p.generation = i.generation and i.desired = 'running'
        and i.pinned_node_id = n.id) as pinned,
    count(p.id) filter (where p.generation = i.generation and i.desired = 'running'
        and i.pinned_node_id is distinct from n.id and i.snapshot_generation = i.generation) as restored,
    count(p.id) filter (where p.generation = i.generation and i.desired = 'running'
        and i.pinned_node_id is distinct from n.id and i.snapshot_generation is distinct from i.generation
        and i.singleton) as singletons
from nodes n left join placements p on p.node_id = n.id and p.state <> 'removed'
    left join instances i on i.id = p.instance_id
where n.desired = 'draining' and n.state <> 'terminated' and (%(id)s::uuid is null or n.id = %(id)s) group by n.id
"""


def drains(cursor: Cursor, node_id: UUID | None = None) -> dict[UUID, DrainRow]:
    """Return what is left on one node, or on each, of those that are to be emptied."""
    cursor.execute(_DRAINS, {"id": node_id})
    return {
        row["node_id"]: DrainRow(row["placements"], row["pinned"], row["restored"], row["singletons"]) for row in cursor
    }
