"""`zeitwork.store.assignments` in memory: placing instances, and saying why not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from actors.model.states import ImageStatus, InstanceDesired, InstanceState, NodeDesired, NodeState
from actors.scheduler.store import Assignment, Postponed
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.current import is_blocked, live_placements, placements_of
from tests.simulation.store.database import Transaction
from tests.simulation.store.instance_rows import write_observed
from tests.simulation.store.leases import PoolExhausted, lease, pick
from tests.simulation.store.node_rows import used
from tests.simulation.store.placements import insert_placement


@dataclass(slots=True)
class _Placed:
    """What there is of an instance: its wanted generation is ``done``, an older one is in the way, or serves on."""

    done: bool = False
    blocked: bool = False
    serves_on: str | None = None


def assign(tx: Transaction, assignments: Sequence[Assignment], epoch: int) -> list[Postponed]:
    """Make placements; return those that were refused, and why. Those that were made before are neither."""
    found = {one: _assign(tx, one, epoch) for one in assignments}
    return [Postponed(one.instance_id, one.generation, reason) for one, reason in found.items() if reason is not None]


def _assign(tx: Transaction, one: Assignment, epoch: int) -> str | None:
    instance = tx.database.instances.get(one.instance_id)
    if instance is None or not _is_wanted(instance, one.generation):
        return "it is not wanted any more as it was planned"
    state = _placed(tx, instance)
    if Bug.DOUBLE_PLACEMENT not in tx.bugs:
        if state.done:
            return None
        if state.blocked:
            return "its earlier placement is still being removed"
    image = tx.database.images.get(instance.image_id)
    if image is None or image.status is not ImageStatus.READY:
        return "waiting for its image"
    node = tx.database.nodes.get(one.node_id)
    if node is None:
        return "the host is gone"
    return _obstacle(tx, node, instance) or _place(tx, node, instance, state, epoch)


def _obstacle(tx: Transaction, node: tables.Node, instance: tables.Instance) -> str | None:
    if node.state is not NodeState.READY:
        return f"the host is {node.state}"
    if node.desired is not NodeDesired.READY:
        return f"the host is {node.desired}"
    if node.closed_since is not None:
        return f"the host is closed: {node.closed_reason}"
    if node.capacity is None:
        return f"{node.hostname}: its capacity is not known yet"
    overhead, asked = node.capacity.memory_overhead, instance.resources
    vcpu_used, memory_used = used(tx, node.id)
    vcpu, memory = node.capacity.vcpu, node.capacity.memory
    if vcpu_used + asked.vcpu > vcpu:
        return f"{node.hostname}: {asked.vcpu} vCPU asked for, {max(0, vcpu - vcpu_used)} of {vcpu} free"
    if memory_used + asked.memory + overhead > memory:
        return (
            f"{node.hostname}: {asked.memory + overhead} MiB asked for ({overhead} MiB of them for the VMM), "
            f"{max(0, memory - memory_used)} of {memory} MiB free"
        )
    return None


def _place(tx: Transaction, node: tables.Node, instance: tables.Instance, state: _Placed, epoch: int) -> str | None:
    placement_id = tx.database.new_id()
    try:
        v4_pool, v4 = pick(tx, node.id, 4)
        v6_pool, v6 = pick(tx, node.id, 6) if node.ipv6 else (None, None)
    except PoolExhausted as exhausted:
        return str(exhausted)
    assert isinstance(v4, IPv4Address)
    assert v6 is None or isinstance(v6, IPv6Address)
    insert_placement(tx, placement_id, instance, node.id, v4, v6, epoch=epoch)
    lease(tx, v4_pool, v4, node.id, placement_id)
    if v6 is not None and v6_pool is not None:
        lease(tx, v6_pool, v6, node.id, placement_id)
    data = {
        "instance_id": str(instance.id),
        "node_id": str(node.id),
        "generation": instance.generation,
        "v4": str(v4),
        "v6": str(v6) if v6 else None,
    }
    tx.record("scheduler", "placement.assigned", "placement", placement_id, data)
    tx.announce("zw_placements", placement_id)
    if state.serves_on is None:
        write_observed(tx, instance.id, InstanceState.STARTING, "", generation=instance.generation, who="scheduler")
    else:
        reason, generation = f"moving to {node.hostname}", instance.observed_generation
        write_observed(tx, instance.id, instance.state, reason, generation=generation, who="scheduler")
    return None


def postpone(tx: Transaction, reasons: Collection[Postponed]) -> None:
    """Write why instances still wait, or that they never will run, unless they have changed since."""
    for one in {one.instance_id: one for one in reasons}.values():
        instance = tx.database.instances.get(one.instance_id)
        if instance is None or not _is_wanted(instance, one.generation):
            continue
        state = _placed(tx, instance)
        if state.done or state.blocked:
            continue
        observed = instance.observed_generation
        if state.serves_on is not None:
            reason = f"moves off {state.serves_on} when there is room: {one.reason}"
            write_observed(tx, instance.id, instance.state, reason, generation=observed, who="scheduler")
        elif one.final:
            write_observed(
                tx, instance.id, InstanceState.FAILED, one.reason, generation=one.generation, who="scheduler"
            )
        else:
            write_observed(tx, instance.id, InstanceState.PENDING, one.reason, generation=observed, who="scheduler")


def _placed(tx: Transaction, instance: tables.Instance) -> _Placed:
    """Return what there is of an instance."""
    state = _Placed()
    state.done = any(row.generation == instance.generation for row in placements_of(tx, instance.id))
    older = [row for row in live_placements(tx, instance.id) if row.generation != instance.generation]
    state.blocked = bool(older) and is_blocked(tx, instance.id)
    for row in older:
        if row.kept and not row.lost and not state.blocked:
            state.serves_on = _hostname(tx, row.node_id)
    return state


def _hostname(tx: Transaction, node_id: UUID) -> str:
    node = tx.database.nodes.get(node_id)
    return node.hostname if node is not None else str(node_id)


def _is_wanted(instance: tables.Instance, generation: int) -> bool:
    return instance.generation == generation and instance.desired is InstanceDesired.RUNNING
