"""What must be so between hosts that are linked: what they believe of each other, and what they answer each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

import trio

from actors.commands.messages import Command, CommandKind
from actors.model.states import NodeState
from runtime.lease import Term
from runtime.membership.claim import State
from runtime.membership.events import Notice, Superseded
from tests.simulation.echo import Heard

if TYPE_CHECKING:
    from tests.simulation.host import SimulatedHost
    from tests.simulation.judge import Judge
    from tests.simulation.reach import ProcessLife

#: Seconds after the last trouble of or between hosts for which it excuses that one is believed dead.
EXCUSED = 30.0

# --- after every commit


def who_answers_others_is_given_time(judge: Judge, term: Term | None) -> Iterator[str]:
    """A leader does without a host at once only if others don't reach it either: one that they have reached for a while
    lives and lacks the database only, and what it runs is replaced after a grace."""
    world, database = judge.world, judge.world.database
    before, judge.replacing = judge.replacing, {node.id: node.replace_after for node in database.nodes}
    row = database.leadership.get(True)
    leader = world.host_of(row.node_id) if row is not None and term is not None else None
    if leader is None or leader.life is None or leader.life.linked is None:
        return
    for node in database.nodes:
        at_once = node.replace_after is not None and node.replace_after <= database.now() + 1.0
        if not at_once or node.replace_after == before.get(node.id):
            continue
        for member in leader.life.linked.members():
            if member.host != node.id or member.generation != node.generation or member.state is not State.ALIVE:
                continue
            reached = trio.current_time() - member.since
            if reached >= EXCUSED:
                yield f"{leader.name} does without {node.hostname}, which it has reached for {reached:.0f} s"


# --- when membership tells something


def nobody_is_called_dead_without_a_cause(
    judge: Judge, host: SimulatedHost, life: ProcessLife, notice: Notice | Superseded
) -> Iterator[str]:
    """Where no host and nothing between hosts was in trouble lately, none that lives is believed dead."""
    world = judge.world
    calm = trio.current_time() - world.faults.troubled
    if isinstance(notice, Superseded) or notice.kind != "dead" or calm <= EXCUSED:
        return
    about = world.host_of(notice.member.host)
    node = world.database.nodes.get(notice.member.host)
    if about is None or about.life is None or about.life.dead or about.life.linked is None or node is None:
        return
    if node.state is NodeState.TERMINATED:
        return  # nobody speaks with it any more
    if node.generation == notice.member.generation:
        yield f"{host.name} believes that {about.name} is dead, {calm:.0f} s after all"


def the_dead_come_back_by_their_own_word(
    judge: Judge, host: SimulatedHost, life: ProcessLife, notice: Notice | Superseded
) -> Iterator[str]:
    """Whoever was told that a host is dead believes it alive only under an incarnation that only the host itself can
    have made since, never by what others have heard before."""
    if isinstance(notice, Superseded):
        return
    member = notice.member
    key, said = (host.name, host.lives, member.host), (member.generation, member.incarnation)
    if notice.kind in ("dead", "left"):
        judge.deaths[key] = max(said, judge.deaths.get(key, said))
    elif notice.kind in ("joined", "alive") and said <= judge.deaths.get(key, (-1, 0)):
        yield f"{host.name} believes that {judge.world.host_name(member.host)} lives, after its death in {said}"


def nobody_believes_in_a_life_that_never_was(
    judge: Judge, host: SimulatedHost, life: ProcessLife, notice: Notice | Superseded
) -> Iterator[str]:
    """No generation of a host is told of that it has not had."""
    about = host.node_id if isinstance(notice, Superseded) else notice.member.host
    node = judge.world.database.nodes.get(about) if about is not None else None
    told = notice.generation if isinstance(notice, Superseded) else notice.member.generation
    if node is None or told > node.generation:
        yield f"{host.name} is told of generation {told} of {node.hostname if node else about}"


NOTICE_RULES = (
    nobody_is_called_dead_without_a_cause,
    the_dead_come_back_by_their_own_word,
    nobody_believes_in_a_life_that_never_was,
)


# --- when a host asks another one


def requests_are_carried_out_once(judge: Judge, host: SimulatedHost, token: str) -> Iterator[str]:
    """A request to another host is carried out at most once, and not at all once its asker was told so."""
    if token in judge.carried_out:
        yield f"{host.name} carries out request {token}, and {judge.carried_out[token]} has"
    if token in judge.unsent:
        yield f"{host.name} carries out request {token}, which was not sent"
    judge.carried_out[token] = host.name


def what_was_not_sent(judge: Judge, host: SimulatedHost, token: str) -> Iterator[str]:
    """See `requests_are_carried_out_once`."""
    judge.unsent[token] = None
    if token in judge.carried_out:
        yield f"{host.name} is told that {token} was not carried out, and {judge.carried_out[token]} has"


def answers_are_those_of_their_requests(
    judge: Judge, host: SimulatedHost, asked: UUID, token: str, heard: Heard
) -> Iterator[str]:
    """An answer is to the request that it is given for, by the host that was asked."""
    if (heard.host, heard.token) != (asked, token):
        name = judge.world.host_name
        yield f"{host.name} asked {name(asked)} {token} and is answered {heard.token} of {name(heard.host)}"


def why_late(judge: Judge, host: SimulatedHost, command: Command) -> str:
    """Return why a host must not heed a command that has come, "" if it may."""
    epoch, instances = judge.heeded.get((host.name, host.lives), (0, {}))
    newest, ended = instances.get(command.instance_id, (0, 0)) if command.epoch == epoch else (0, 0)
    if command.epoch < max(epoch, host.epoch):
        return f"of epoch {command.epoch} after {max(epoch, host.epoch)}"
    if command.kind is CommandKind.CREATE and (command.generation < newest or command.generation <= ended):
        return f"of generation {command.generation} after {newest}, {ended} of which was ended"
    return "" if command.node_id == host.node_id else "for another host"


def late_commands_are_refused(
    judge: Judge, host: SimulatedHost, life: int, command: Command, late: str
) -> Iterator[str]:
    """A host heeds no command of a leader whose successor it knows of, and none to create what it was told to end."""
    if late:
        yield f"{host.name} heeds {command.kind} of placement {command.placement_id} {late}"
    epoch, instances = judge.heeded.get((host.name, life), (0, {}))
    if command.epoch > epoch:
        epoch, instances = command.epoch, {}
    newest, ended = instances.get(command.instance_id, (0, 0))
    ends = command.kind is not CommandKind.CREATE
    instances[command.instance_id] = max(newest, command.generation), max(ended, command.generation * ends)
    judge.heeded[host.name, life] = epoch, instances


ANSWER_RULES = (
    requests_are_carried_out_once,
    answers_are_those_of_their_requests,
    late_commands_are_refused,
)


# --- once all is whole again


def hosts_see_each_other(judge: Judge) -> Iterator[str]:
    """Hosts that are linked believe each other alive, each in its present life."""
    world = judge.world
    hosts = [host for host in world.hosts if host.belongs]
    for host in hosts if world.linked else ():
        if host.life is None or host.life.linked is None:
            yield f"{host.name} has no links"
            continue
        seen = {member.host: member for member in host.life.linked.members()}
        for other in hosts:
            node = world.database.nodes.get(other.node_id) if other.node_id is not None else None
            member = seen.get(other.node_id) if other.node_id is not None else None
            if other is host or node is None:
                continue
            if member is None:
                yield f"{host.name} does not know {other.name}"
            elif member.state is not State.ALIVE or member.generation != node.generation:
                found = f"{member.state.name.lower()} in generation {member.generation}"
                yield f"{host.name} believes {other.name}, which lives in generation {node.generation}, {found}"
