"""What must be so once all that was broken is whole again. Like the judge's other rules, each in one function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from actors.model.states import InstanceDesired, InstanceState, NodeDesired, NodeState, Outcome, PlacementState
from tests.simulation.belonging import GUEST_END_RULES
from tests.simulation.between import hosts_see_each_other
from tests.simulation.people import replicas_wanted
from tests.simulation.store import tables

if TYPE_CHECKING:
    from tests.simulation.judge import Judge


def requests_are_not_lost(judge: Judge) -> Iterator[str]:
    """Whatever was answered to a person as accepted was committed, and what was committed last is what is wanted."""
    database = judge.world.database
    committed = {request for _, request in database.requests}
    for request in judge.world.people.accepted:
        if request not in committed:
            yield f"{request} was accepted and never committed"
    for number, replicas in replicas_wanted(database.requests).items():
        group = database.groups.get(judge.world.group_id(number))
        found = None if group is None or group.deleted_at is not None else group.replicas
        if group is None or found != replicas:
            yield f"group {number} shall have {replicas} members and has {found}"
    for number, desired in judge.world.people.wanted(database.requests).items():
        instance = database.instances.get(judge.world.instance_id(number))
        if instance is None or instance.desired is not desired:
            yield f"instance {number} shall be {desired} and is wanted {instance.desired if instance else 'nowhere'}"


def instances_are_as_wanted(judge: Judge) -> Iterator[str]:
    """What shall run runs, once, in its newest generation; what shall not run has no placement."""
    database = judge.world.database
    for instance in database.instances:
        live = [row for row in database.placements if row.instance_id == instance.id and row.live]
        where = ", ".join(f"{row.generation} {row.state} on {judge.world.host_name(row.node_id)}" for row in live)
        found = f"instance {judge.world.number_of(instance.id)} ({instance.id}) wanted {instance.desired} "
        found += f"generation {instance.generation} is {instance.state} {instance.observed_generation} [{where}]"
        found += f" {instance.reason!r}"
        if instance.desired is not InstanceDesired.RUNNING:
            if live or instance.state.value != instance.desired.value:
                yield found
            continue
        if _ended_for_good(instance, live) or _waits_for_room(judge, instance, live):
            continue
        if (
            instance.state is not InstanceState.RUNNING
            or instance.observed_generation != instance.generation
            or [(row.generation, row.state) for row in live] != [(instance.generation, PlacementState.RUNNING)]
        ):
            yield found


def _ended_for_good(instance: tables.Instance, live: list[tables.Placement]) -> bool:
    """Whether its policy says that an end like this one is the last."""
    ended = instance.state in (InstanceState.FAILED, InstanceState.STOPPED)
    if live or not ended or instance.observed_generation != instance.generation:
        return False
    quiet = instance.outcome is Outcome.EXITED and instance.exit_status == 0
    return instance.restart.mode == "never" or (instance.restart.mode == "on-failure" and quiet)


def _waits_for_room(judge: Judge, instance: tables.Instance, live: list[tables.Placement]) -> bool:
    """Whether nothing of its newest generation is placed since no host that takes new work has room for it."""
    if any(row.generation == instance.generation for row in live) or not instance.reason:
        return False
    if live and not (len(live) == 1 and live[0].kept and live[0].state is PlacementState.RUNNING):
        return False
    return judge.fits_nowhere(instance, leaving=live[0].node_id if live else None)


def groups_are_as_wanted(judge: Judge) -> Iterator[str]:
    """A group has as many members as it shall, none of which has ended for good; nothing is left of a deleted one."""
    database = judge.world.database
    for group in database.groups:
        members = [
            row for row in database.instances if row.group_id == group.id and row.state is not InstanceState.TERMINATED
        ]
        slots = [row.slot for row in members]
        if len(set(slots)) != len(slots):
            yield f"group {group.name} has members in slots {slots}"
        if group.deleted_at is not None:
            if members or group.gone_at is None:
                yield f"group {group.name} is deleted and has {len(members)} members"
            continue
        well = [row for row in members if row.desired is InstanceDesired.RUNNING and not _ended_for_good(row, [])]
        if len(well) != group.replicas or len(members) != group.replicas:
            found = [(row.slot, row.desired.value, row.state.value) for row in members]
            yield f"group {group.name} shall have {group.replicas} members and has {found}, failures {group.failures}"


def drained_hosts_are_empty(judge: Judge) -> Iterator[str]:
    """On a host that is to be emptied is only what can be nowhere else."""
    database = judge.world.database
    for node in database.nodes:
        if node.desired is not NodeDesired.DRAINING:
            continue
        for row in database.placements:
            if not row.live or row.node_id != node.id:
                continue
            instance = database.instances.get(row.instance_id)
            assert instance is not None
            if instance.pinned_node_id != node.id and not judge.fits_nowhere(instance, leaving=node.id):
                yield f"{node.hostname} is to be emptied and has {row.instance_id} ({row.state}), {instance.reason!r}"


def machines_are_as_placed(judge: Judge) -> Iterator[str]:
    """A running placement has one machine, which runs; of what has no placement nothing is left on any host."""
    database = judge.world.database
    for host in judge.world.hosts:
        if host.claimed and not host.belongs:
            continue  # what is on a machine that is let in no more stays until it forgets that it was a host
        for placement_id, machine in host.machines.items():
            placement = database.placements.get(placement_id)
            live = placement is not None and placement.live
            if live and placement is not None and placement.state is PlacementState.RUNNING:
                if len(machine.running) != 1 or not machine.running[0].configured:
                    yield f"placement {placement_id} on {host.name} is running and has {len(machine.running)} machines"
            elif not live and (machine.held() or machine.intent or machine.logs):
                left = sorted(machine.held()) + ["intent"] * bool(machine.intent) + ["logs"] * machine.logs
                yield f"placement {placement_id} is gone from {host.name}, which still has {left}"


def hosts_are_known_as_they_are(judge: Judge) -> Iterator[str]:
    """Every host that belongs to the cluster has a process, its node says so, and somebody leads."""
    database = judge.world.database
    for host in judge.world.hosts:
        if not host.belongs:
            continue
        node = database.nodes.get(host.node_id) if host.node_id is not None else None
        if host.life is None or node is None:
            yield f"{host.name} has no process"
        elif node.state is not (NodeState.DRAINING if node.desired is NodeDesired.DRAINING else NodeState.READY):
            yield f"{host.name} is up, and its node {node.state}"
    row = database.leadership.get(True)
    if row is None or row.expires_at <= database.now():
        yield "nobody leads"


END_RULES = (
    hosts_see_each_other,
    requests_are_not_lost,
    instances_are_as_wanted,
    groups_are_as_wanted,
    drained_hosts_are_empty,
    machines_are_as_placed,
    hosts_are_known_as_they_are,
    *GUEST_END_RULES,
)
