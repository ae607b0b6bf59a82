"""What hosts have yet to carry out, and what was told to them. Writes no table but the journal's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from uuid import UUID

from actors.commands.messages import CommandKind
from actors.commands.store import Note, Order
from actors.model.states import InstanceDesired
from runtime.lease import Term
from zeitwork.store.cursor import by_index
from zeitwork.store.election import fence
from zeitwork.store.journal import record
from zeitwork.store.units import Cursor, Units

# What is wanted is what `zeitwork.store.placements` tells the host: it is the same question, asked for all hosts.
#
# It is asked only about placements that it can concern, each kind found by an index of its own: all that runs is
# far more. Those are what was not begun; what is there of instances that are to end; what is in the way of a generation
# that was not placed; what a successor has taken over from; and what was lost on a host that is back.
_COLUMNS = "p.id, p.instance_id, p.node_id, p.generation, p.kept, p.state, p.lost_at"
_OUTSTANDING = f"""
with p as (
    select {_COLUMNS} from placements p where p.state = 'assigned'
    union
    select {_COLUMNS} from (
        select id from instances where desired <> 'running' and state not in ('stopped', 'terminated')
        order by id offset 0) i
        cross join lateral (select * from placements where instance_id = i.id and state <> 'removed' offset 0) p
    union
    select {_COLUMNS} from (
        select id from instances where desired = 'running' and observed_generation < generation
        order by - priority, id offset 0) i
        cross join lateral (select * from placements where instance_id = i.id and state <> 'removed' offset 0) p
    union
    select {_COLUMNS} from placements p where p.released and p.state <> 'removed'
    union
    select {_COLUMNS} from nodes n join placements p on p.node_id = n.id
    where n.state not in ('down', 'terminated') and p.lost_at is not null and p.state <> 'removed')
select p.id, p.instance_id, p.node_id, p.generation, i.desired, w.wanted, i.stop_force,
    coalesce(i.stop_wait, i.stop_timeout) as stop_timeout, n.state not in ('ready', 'draining') as away
from p join instances i on i.id = p.instance_id join nodes n on n.id = p.node_id
    cross join lateral (select i.desired = 'running' and (p.generation = i.generation or p.kept) as wanted) w
where (not w.wanted or p.state = 'assigned') and p.node_id <> %s and n.state <> 'terminated'
    and not (n.state = 'down' and p.lost_at is not null)
order by away, p.id limit %s
""".encode()


#: What the journal is told of: the event's name, the kind and id of its subject, its data. And the same to compare.
_Event: TypeAlias = tuple[str, str, UUID, dict[str, Any]]
_Key: TypeAlias = tuple[str, str, UUID, tuple[tuple[str, Any], ...]]


class Commands:
    """`actors.commands.store.CommandStore` on Postgres."""

    def __init__(self, units: Units) -> None:
        self._units = units
        #: What was last tried to be written, if it is not known whether it was.
        self._doubtful: frozenset[Note] = frozenset()

    async def outstanding(self, own: UUID, term: Term, limit: int) -> tuple[Order, ...]:
        """Return up to ``limit`` orders for all hosts but ``own``, those for hosts that are down last.

        Raises `Fenced` when ``term`` is over.
        """

        def unit(cursor: Cursor) -> tuple[Order, ...]:
            fence(cursor, term)
            by_index(cursor, in_order=True)
            cursor.execute(_OUTSTANDING, (own, limit), prepare=False)
            return tuple(_order(row) for row in cursor)

        return await self._units.run(unit, name="commands.outstanding")

    async def record(self, notes: Sequence[Note], term: Term) -> None:
        """Write steps into the logs of their instances. Raises `Fenced` when ``term`` is over.

        Steps of which it is not known whether they were written may be given again: each is written once.
        """
        doubtful = self._doubtful

        def unit(cursor: Cursor) -> None:
            fence(cursor, term)
            written = _written(cursor, [event_of(note, term) for note in notes if note in doubtful])
            for event in (event_of(note, term) for note in notes):
                if _key(*event) not in written:
                    record(cursor, "dispatcher", *event)

        self._doubtful = doubtful | frozenset(notes)
        await self._units.run(unit, name="commands.record")
        # Only with an answer: whoever is cancelled, or loses the connection, can't know.
        self._doubtful = frozenset()


def event_of(note: Note, term: Term) -> _Event:
    """Return what the journal is told of a step: the event's name, the kind and id of its subject, and its data."""
    order = note.order
    data = {
        "command": order.kind,
        "placement_id": str(order.placement_id),
        "node_id": str(order.node_id),
        "generation": order.generation,
        "epoch": term.epoch,
        "attempts": note.attempts,
        "reason": note.reason,
    }
    return f"command.{note.step}", "instance", order.instance_id, data


def _written(cursor: Cursor, events: Sequence[_Event]) -> set[_Key]:
    """Return which of these events of this term are in the journal."""
    if not events:
        return set()
    cursor.execute(
        "select what, subject_kind, subject_id, data from unnest(%s::uuid[]) as s (id) cross join lateral "
        "(select * from events where subject_id = s.id and what like 'command.%%') e",
        (list({subject for _, _, subject, _ in events}),),
    )
    return {_key(row["what"], row["subject_kind"], row["subject_id"], row["data"]) for row in cursor}


def _key(what: str, kind: str, subject: UUID, data: Mapping[str, Any]) -> _Key:
    return what, kind, subject, tuple(sorted(data.items()))


def _order(row: Mapping[str, Any]) -> Order:
    if row["wanted"]:
        return Order(
            CommandKind.CREATE, row["instance_id"], row["id"], row["node_id"], row["generation"], away=row["away"]
        )
    return Order(
        CommandKind.DELETE if row["desired"] == InstanceDesired.TERMINATED else CommandKind.STOP,
        row["instance_id"],
        row["id"],
        row["node_id"],
        row["generation"],
        row["stop_force"],
        row["stop_timeout"],
        row["away"],
    )
