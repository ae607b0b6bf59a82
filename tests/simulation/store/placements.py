"""`zeitwork.store.placements` in memory: also `actors.host.store.PlacementStore`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from actors.model.errors import NotFound
from actors.model.health import HealthState
from actors.model.ids import short_id
from actors.model.image import ImageConfig
from actors.model.network import Lease
from actors.model.records import Observation, Placement
from actors.model.states import InstanceDesired, PlacementState
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.current import current, placements_of
from tests.simulation.store.database import Transaction, moment, moment_or_none
from tests.simulation.store.instance_rows import write_observed
from tests.simulation.store.leases import release
from tests.simulation.store.node_rows import get_node, used
from tests.simulation.store.succession import settle, take_over
from tests.simulation.store.units import Units
from zeitwork.store.derive import ending, instance_state
from zeitwork.store.problems import CapacityExceeded
from zeitwork.store.rows import PlacementRow

_UP = (PlacementState.RUNNING, PlacementState.PAUSED)
_ENDED = (PlacementState.WAITING, PlacementState.REMOVED)


def insert_placement(
    tx: Transaction,
    placement_id: UUID,
    instance: tables.Instance,
    node_id: UUID,
    v4: IPv4Address,
    v6: IPv6Address | None,
    *,
    epoch: int,
) -> None:
    """Place an instance's present generation. Raises `CapacityExceeded`, as the database's own check does."""
    node = get_node(tx, node_id)
    if node.capacity is None:
        raise CapacityExceeded(f"{node.hostname}: its capacity is not known yet")
    overhead, asked = node.capacity.memory_overhead, instance.resources
    vcpu_used, memory_used = used(tx, node_id)
    vcpu, memory = node.capacity.vcpu, node.capacity.memory
    if vcpu_used + asked.vcpu > vcpu:
        raise CapacityExceeded(
            f"{node.hostname}: {asked.vcpu} vCPU asked for, {max(0, vcpu - vcpu_used)} of {vcpu} free"
        )
    if memory_used + asked.memory + overhead > memory:
        raise CapacityExceeded(
            f"{node.hostname}: {asked.memory + overhead} MiB asked for ({overhead} MiB of them for the VMM), "
            f"{max(0, memory - memory_used)} of {memory} MiB free"
        )
    tx.database.placements.put(
        placement_id,
        tables.Placement(
            placement_id,
            instance.id,
            instance.generation,
            node_id,
            asked,
            overhead,
            v4,
            v6,
            epoch,
            tx.now,
            tx.now,
            exclusive=instance.singleton and Bug.SINGLETON_TWICE not in tx.bugs,
        ),
    )


def placement_row(row: tables.Placement) -> PlacementRow:
    """Return a placement as it is handed out."""
    return PlacementRow(
        id=row.id,
        instance_id=row.instance_id,
        generation=row.generation,
        node_id=row.node_id,
        resources=row.resources,
        memory_overhead=row.memory_overhead,
        snapshot_id=None,
        state=row.state,
        reason=row.reason,
        outcome=row.outcome,
        exit_status=row.exit_status,
        hypervisor=row.hypervisor,
        pid=row.pid,
        boot_id=row.boot_id,
        failures=row.failures,
        health=row.health,
        health_reason=row.health_reason,
        health_changed_at=moment_or_none(row.health_changed_at),
        restarts=row.restarts,
        next_try_at=moment_or_none(row.next_try_at),
        v4=row.v4,
        v6=row.v6,
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
        running_at=moment_or_none(row.running_at),
        removed_at=moment_or_none(row.removed_at),
        kept=row.kept,
        lost_at=moment_or_none(row.lost_at),
    )


def _for_host(tx: Transaction, row: tables.Placement) -> Placement:
    instance = tx.database.instances.get(row.instance_id)
    assert instance is not None
    image = tx.database.images.get(instance.image_id)
    assert image is not None
    newest = instance.generation == row.generation or row.kept
    wanted = instance.desired is InstanceDesired.RUNNING and newest
    if Bug.STOP_FORGOTTEN in tx.bugs:
        wanted = instance.generation == row.generation
    hurried = not wanted and instance.stop_wait is not None
    hurry = instance.retry_asked_at is not None and instance.retry_asked_at > row.updated_at
    return Placement(
        id=row.id,
        instance_id=row.instance_id,
        generation=row.generation,
        node_id=row.node_id,
        wanted=wanted,
        image_id=instance.image_id,
        image_digest=image.digest or "",
        image_config=image.config or ImageConfig(),
        resources=row.resources,
        lease=Lease(v6=row.v6, v4=row.v4),
        default_port=instance.default_port,
        state=row.state,
        hostname=instance.name or f"i-{short_id(row.instance_id)}",
        environment=dict(instance.environment),
        command=instance.command,
        stop_timeout=instance.stop_wait if hurried and instance.stop_wait is not None else instance.stop_timeout,
        force=instance.stop_force,
        boot_id=row.boot_id,
        restart=instance.restart,
        health=instance.health,
        health_state=row.health,
        running_at=row.running_at,
        failures=0 if hurry else row.failures,
        next_try_at=None if hurry else row.next_try_at,
        paused=wanted and instance.paused,
        image_source=image.source,
    )


class Placements:
    """Placements."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def get(self, placement_id: UUID) -> PlacementRow:
        """Return a placement, a removed one too. Raises `NotFound`."""

        def unit(tx: Transaction) -> PlacementRow:
            row = tx.database.placements.get(placement_id)
            if row is None:
                raise NotFound(f"there is no placement {placement_id}")
            return placement_row(row)

        return await self._units.read(unit, name="placements.get")

    async def placements(self, node_id: UUID) -> list[Placement]:
        """Return every placement of ``node_id`` that is not removed, wanted or not."""

        def unit(tx: Transaction) -> list[Placement]:
            rows = [row for row in tx.database.placements if row.node_id == node_id and row.live]
            return [_for_host(tx, row) for row in sorted(rows, key=lambda row: row.id)]

        return await self._units.read(unit, name="placements.placements")

    async def observe(self, placement_id: UUID, expected: Collection[PlacementState], observation: Observation) -> bool:
        """Compare-and-set a placement's observed state; the instance's follows. Raises `NotFound`."""
        wanted = frozenset(expected)
        return await self._units.run(
            lambda tx: observe(tx, placement_id, wanted, observation, tx.database.rest), name="placements.observe"
        )

    async def record_health(self, placement_id: UUID, state: HealthState, reason: str) -> bool:
        """Write a change of an app's health; False, and nothing written, when its placement does not run."""

        def unit(tx: Transaction) -> bool:
            row = tx.database.placements.get(placement_id)
            if row is None or row.state is not PlacementState.RUNNING:
                return False
            if (row.health, row.health_reason) != (state, reason):
                row = tx.database.placements.put(
                    placement_id, replace(row, health=state, health_reason=reason, health_changed_at=tx.now)
                )
                instance = tx.database.instances.get(row.instance_id)
                assert instance is not None
                data = {"placement_id": str(placement_id), "to": state, "reason": reason}
                tx.record("health", "instance.health", "instance", row.instance_id, data)
                if take_over(tx, instance, row):
                    settle(tx, instance.id, "", who="health")
            return True

        return await self._units.run(unit, name="placements.record_health")

    async def tombstones(self, node_id: UUID, placement_ids: Collection[UUID]) -> set[UUID]:
        """Return those of ``placement_ids`` that the database knows as removed: only these may be destroyed."""

        def unit(tx: Transaction) -> set[UUID]:
            rows = (tx.database.placements.get(identifier) for identifier in placement_ids)
            return {row.id for row in rows if row is not None and row.node_id == node_id and not row.live}

        return await self._units.read(unit, name="placements.tombstones")


def observe(
    tx: Transaction, placement_id: UUID, expected: frozenset[PlacementState], seen: Observation, rest: float
) -> bool:
    """Compare-and-set a placement's observed state, as a part of a unit."""
    row = tx.database.placements.get(placement_id)
    if row is None:
        raise NotFound(f"there is no placement {placement_id}")
    instance = tx.database.instances.get(row.instance_id)
    assert instance is not None
    refused = row.state not in expected or row.state is PlacementState.REMOVED
    if refused and Bug.BLIND_WRITE not in tx.bugs:
        return row.state is seen.state
    removed = seen.state is PlacementState.REMOVED
    reason = ending(seen) if removed and not seen.reason else seen.reason
    began = (
        seen.state in _UP
        and row.state not in _UP
        and (row.state is not PlacementState.STOPPING or row.running_at is None)
    )
    before = current(tx, instance)
    keeps_health = seen.state in (*_UP, PlacementState.STOPPING)
    again = row.state is PlacementState.WAITING and seen.state is PlacementState.PREPARING
    after = tx.database.placements.put(
        placement_id,
        replace(
            row,
            kept=row.kept and not removed,
            asked=row.asked and not removed,
            state=seen.state,
            reason=reason,
            outcome=row.outcome if seen.outcome is None else seen.outcome,
            exit_status=row.exit_status if seen.exit_status is None else seen.exit_status,
            hypervisor=row.hypervisor if seen.hypervisor is None else seen.hypervisor,
            pid=row.pid if seen.pid is None else seen.pid,
            boot_id=row.boot_id if seen.boot_id is None else seen.boot_id,
            updated_at=tx.now,
            failures=row.failures if seen.failures is None else seen.failures,
            next_try_at=seen.next_try_at,
            restarts=row.restarts + int(again),
            running_at=tx.now if began else row.running_at,
            health=row.health if keeps_health else HealthState.UNKNOWN,
            health_reason=row.health_reason if keeps_health else "",
            removed_at=tx.now if removed else None,
        ),
    )
    if removed:
        release(tx, placement_id, rest)
    if row.state is not seen.state or row.reason != reason:
        data = {
            "instance_id": str(instance.id),
            "node_id": str(row.node_id),
            "generation": row.generation,
            "epoch": row.epoch,
            "from": row.state,
            "to": seen.state,
            "reason": reason,
            "outcome": seen.outcome,
            "exit_status": seen.exit_status,
        }
        tx.record("host", "placement.state", "placement", placement_id, data)
        tx.announce("zw_observed", placement_id)
    take_over(tx, instance, after)
    _follow(tx, instance, after, seen, before)
    if removed:
        tx.announce("zw_instances", instance.id)
    return True


def _follow(
    tx: Transaction,
    instance: tables.Instance,
    row: tables.Placement,
    seen: Observation,
    before: tables.Placement | None,
) -> None:
    """Write what an instance is after ``row`` was observed; only the placement that speaks for it changes that."""
    now = current(tx, instance)
    newest = row.generation == instance.generation
    if now is not None and now.id != row.id:
        if before is not None and before.id == row.id:
            settle(tx, instance.id, "", who="host")
        elif now.kept and newest and seen.state in _ENDED:
            sentence = f"it could not move: {ending(seen)}; the one before serves on"
            generation = instance.observed_generation
            write_observed(tx, instance.id, instance.state, sentence, generation=generation, who="host")
        return
    if now is None and (before is None or before.id != row.id):
        return
    removed = seen.state is PlacementState.REMOVED
    done = newest or (removed and any(one.generation == instance.generation for one in placements_of(tx, instance.id)))
    state, sentence = instance_state(instance.desired, not done, seen)
    over = removed and (done or instance.desired is not InstanceDesired.RUNNING)
    write_observed(
        tx,
        instance.id,
        state,
        sentence,
        generation=instance.generation if over else row.generation,
        outcome=seen.outcome if seen.state in _ENDED else None,
        exit_status=seen.exit_status if seen.state in _ENDED else None,
        who="host",
    )
