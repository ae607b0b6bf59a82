"""What must be so of hosts that are invited, that leave and that are removed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from actors.model.states import InstanceDesired, NodeState
from runtime.lease import Term
from runtime.membership.claim import State
from tests.simulation.store import tables

if TYPE_CHECKING:
    from tests.simulation.judge import Judge

#: Seconds without a sign of life after which a host may be removed.
SILENT = 30.0
#: Seconds after the end of its time within which an invitation is given up: a leader may have to be found first.
GIVEN_UP_WITHIN = 60.0


@dataclass
class Removals:
    """What a judge remembers of hosts that come and go.

    ``ended`` are nodes that were removed, with their last generation; ``abandoned`` what was placed there then, of
    which its machine may go on to hold something; ``before`` is what there was before a commit.
    """

    ended: dict[UUID, int] = field(default_factory=dict)
    abandoned: dict[UUID, None] = field(default_factory=dict)
    placements: dict[UUID, tables.Placement] = field(default_factory=dict)
    seen: dict[UUID, float | None] = field(default_factory=dict)
    wanted: dict[UUID, bool] = field(default_factory=dict)
    newest: dict[UUID, int] = field(default_factory=dict)


# --- after every commit


def hosts_are_removed_rightly(judge: Judge, term: Term | None) -> Iterator[str]:
    """A host is removed when nobody waits for what is placed there, or it is said to be dead and gives no sign of life;
    one that leaves by force has stopped what ran there."""
    database, known = judge.world.database, judge.removals
    for node in database.nodes:
        if node.state is NodeState.TERMINATED and node.id not in known.ended:
            known.ended[node.id] = node.generation
            there = [row for row in known.placements.values() if row.node_id == node.id]
            known.abandoned |= dict.fromkeys(row.id for row in there)
            yield from _wrongly_removed(judge, node, there)
    known.placements = {row.id: row for row in database.placements if row.live}
    known.seen = {node.id: node.last_seen_at for node in database.nodes}
    known.wanted = {row.id: row.desired is InstanceDesired.RUNNING for row in database.instances}
    known.newest = {row.id: row.generation for row in database.instances}


def _wrongly_removed(judge: Judge, node: tables.Node, there: list[tables.Placement]) -> Iterator[str]:
    known, now = judge.removals, judge.world.database.now()
    leaves, everything = "its host has left" in node.reason, "for good" in node.reason or "stopped" in node.reason
    seen = known.seen.get(node.id)
    if not leaves and seen is not None and now - seen < SILENT:
        yield f"{node.hostname} was removed {now - seen:.1f} s after a sign of life"
    for row in there if not everything else ():
        waits = not row.lost or row.exclusive or row.generation >= known.newest[row.instance_id]
        if waits and known.wanted[row.instance_id]:
            yield f"{node.hostname} was removed with {row.instance_id}, which is {row.state} there"
    for row in there if leaves else ():
        machine = judge.world.machine_of(row)
        if machine is not None and machine.running:
            yield f"{node.hostname} has left while {row.instance_id} runs there"


def who_was_removed_stays_away(judge: Judge, term: Term | None) -> Iterator[str]:
    """A node that was removed is none any more, and nothing is placed there, unless its machine is started anew as the
    host that it was; one that left, or was said to be dead, never is."""
    database, ended = judge.world.database, judge.removals.ended
    for node_id, generation in tuple(ended.items()):
        node = database.nodes.get(node_id)
        if node is None:
            yield f"node {node_id} was removed and is forgotten"
        elif node.state is not NodeState.TERMINATED:
            if node.buried or node.generation <= generation:
                yield f"{node.hostname} was removed in generation {generation}, is {node.state} in {node.generation}"
            del ended[node_id]
    for row in database.placements:
        if row.live and row.node_id in ended:
            yield f"{row.instance_id} is placed on {judge.world.host_name(row.node_id)}, which was removed"


def a_machine_is_one_node(judge: Judge, term: Term | None) -> Iterator[str]:
    """No machine is two nodes, and none is expected twice under one name."""
    machines: dict[UUID, UUID] = {}
    expected: dict[str, UUID] = {}
    for node in judge.world.database.nodes:
        if node.host_id is not None and machines.setdefault(node.host_id, node.id) != node.id:
            yield f"{node.hostname} is {machines[node.host_id]} and {node.id}"
        ends = node.state in (NodeState.TERMINATED, NodeState.ERROR)
        if node.host_id is None and not ends and expected.setdefault(node.hostname, node.id) != node.id:
            yield f"{node.hostname} is expected as {expected[node.hostname]} and {node.id}"


BELONGING_RULES = (hosts_are_removed_rightly, who_was_removed_stays_away, a_machine_is_one_node)


# --- once all is whole again


def invitations_have_ended(judge: Judge) -> Iterator[str]:
    """Who is invited becomes a host or is given up: nobody is waited for beyond the time that was set."""
    database = judge.world.database
    for row in database.invitations:
        node = database.nodes.get(row.node_id)
        name = node.hostname if node is not None else row.node_id
        if row.ended_at is None:
            yield f"{name} was invited {database.now() - row.asked_at:.0f} s ago and is waited for"
        elif node is not None and node.state is NodeState.BOOTING:
            yield f"{name} was given up and is {node.state}"
    for node in database.nodes:
        if node.state is NodeState.BOOTING and node.generation == 0 and database.invitations.get(node.id) is None:
            yield f"{node.hostname} is expected and was never invited"


def who_was_said_to_be_dead_stays_so(judge: Judge) -> Iterator[str]:
    """A host that was removed as dead is let in by nobody."""
    world = judge.world
    dead: dict[str, None] = {}
    for _, request in world.database.requests:
        _, kind, *_ = request.split()
        if kind == "remove" and request.endswith(" dead"):
            dead[request] = None
    buried = {node.id: node for node in world.database.nodes if node.buried}
    if dead and not buried:
        yield f"{', '.join(dead)} were accepted, and nobody is refused"
    for host in world.hosts:
        if host.life is None or host.life.linked is None or not host.belongs:
            continue
        for member in host.life.linked.members():
            if member.host in buried and member.state is State.ALIVE:
                yield f"{host.name} believes that {buried[member.host].hostname} is alive, which was removed"
        for link in host.life.linked._board.linked():
            if link.peer.host in buried:
                yield f"{host.name} is linked with {buried[link.peer.host].hostname}, which was removed"


def is_removed(judge: Judge, node_id: UUID | None) -> bool:
    """Whether a node is none any more: what its machine does is of no meaning then."""
    node = judge.world.database.nodes.get(node_id) if node_id is not None else None
    return node is not None and node.state is NodeState.TERMINATED


GUEST_END_RULES = (invitations_have_ended, who_was_said_to_be_dead_stays_so)
