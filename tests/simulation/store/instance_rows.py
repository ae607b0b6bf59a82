"""`zeitwork.store.instance_rows` in memory: what others do to instances as a part of their own transactions."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from actors.model.errors import Conflict, NotFound
from actors.model.health import HealthState
from actors.model.states import InstanceDesired, InstanceState, NodeState, Outcome, PlacementState, Volumes
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug
from tests.simulation.store.current import current, live_placements
from tests.simulation.store.database import Transaction, moment, moment_or_none
from zeitwork.store.instance_rows import ENDED, waits_for_host
from zeitwork.store.rows import InstanceRow, NewInstance

#: The reason of an instance that is tried again because somebody asked.
_TRIED = "tried again at once"


def lock_alive(tx: Transaction, instance_id: UUID, desired: InstanceDesired) -> tables.Instance:
    """Return an instance. Raises `NotFound`, and `Conflict` when it is terminated and can't be ``desired``."""
    row = tx.database.instances.get(instance_id)
    if row is None:
        raise missing_instance(instance_id)
    if row.desired is InstanceDesired.TERMINATED and desired is not InstanceDesired.TERMINATED:
        raise Conflict("the instance is terminated or about to be: that is final", fix="create another one")
    return row


def missing_instance(instance_id: UUID) -> NotFound:
    """Return the refusal of an id that no instance has."""
    return NotFound(f"there is no instance {instance_id}", fix="`zeitwork ps` lists them")


def insert_instance(
    tx: Transaction, instance_id: UUID, new: NewInstance, *, group_id: UUID | None = None, slot: int | None = None
) -> bool:
    """Write a new instance, of a group's slot or of none; False, and nothing written, when its id or name is taken."""
    for row in tx.database.instances:
        if row.id == instance_id or (
            new.name is not None and row.name == new.name and row.state is not InstanceState.TERMINATED
        ):
            return False
    tx.database.instances.put(
        instance_id,
        tables.Instance(
            id=instance_id,
            name=new.name,
            image_id=new.image_id,
            pinned_node_id=new.node_id,
            resources=new.resources,
            default_port=new.default_port,
            environment=dict(new.environment),
            command=tuple(new.command),
            stop_timeout=new.stop_timeout,
            restart=new.restart,
            health=new.health,
            group_id=group_id,
            slot=slot,
            priority=new.priority,
            singleton=new.singleton,
            requirements=new.requirements,
            created_at=tx.now,
            updated_at=tx.now,
            state_changed_at=tx.now,
            pending_since=tx.now,
        ),
    )
    return True


def record_created(
    tx: Transaction,
    who: str,
    instance_id: UUID,
    new: NewInstance,
    *,
    group_id: UUID | None = None,
    slot: int | None = None,
) -> None:
    """Tell of a new instance, and wake the scheduler for it."""
    data: dict[str, object] = {"name": new.name, "image_id": str(new.image_id)}
    if group_id is not None:
        data |= {"group_id": str(group_id), "slot": slot}
    tx.record(who, "instance.created", "instance", instance_id, data)
    tx.announce("zw_instances", instance_id)


def write_observed(
    tx: Transaction,
    instance_id: UUID,
    state: InstanceState,
    reason: str,
    *,
    generation: int,
    outcome: Outcome | None = None,
    exit_status: int | None = None,
    who: str,
) -> None:
    """Write what an instance is when that differs from what its row says."""
    row = tx.database.instances.get(instance_id)
    assert row is not None
    if (row.state, row.reason, row.observed_generation) == (state, reason, generation):
        return
    changed = row.state_changed_at if row.state is state else tx.now
    tx.database.instances.put(
        instance_id,
        replace(
            row,
            state=state,
            reason=reason,
            observed_generation=generation,
            outcome=outcome,
            exit_status=exit_status,
            updated_at=tx.now,
            state_changed_at=changed,
        ),
    )
    data = {"from": row.state, "to": state, "reason": reason, "generation": generation}
    tx.record(who, "instance.state", "instance", instance_id, data)


def waits(tx: Transaction, row: tables.Instance) -> bool:
    """Return whether what is wanted now waits for its next try."""
    found = current(tx, row)
    return found is not None and (found.state, found.generation) == (PlacementState.WAITING, row.generation)


def release_kept(tx: Transaction, instance_id: UUID, below: int) -> tuple[UUID, ...]:
    """Let no placement of a generation ``below`` that one serve on, and tell its host; return which did."""
    if Bug.KEPT_FOR_EVER in tx.bugs:
        return ()
    found = [row for row in live_placements(tx, instance_id) if row.kept and row.generation < below]
    for row in found:
        tx.database.placements.put(row.id, replace(row, kept=False, asked=False))
        tx.announce("zw_placements", row.id)
    return tuple(row.id for row in found)


def recall(tx: Transaction, instance_id: UUID, generation: int) -> tables.Instance:
    """Want an earlier generation of an instance again, of which nothing later was placed; return its row."""
    row = tx.database.instances.get(instance_id)
    assert row is not None
    return tx.database.instances.put(instance_id, replace(row, generation=generation, updated_at=tx.now))


def supersede(tx: Transaction, instance_id: UUID) -> tables.Instance:
    """Want the next generation of an instance somewhere else, and return its row."""
    row = tx.database.instances.get(instance_id)
    assert row is not None
    return tx.database.instances.put(
        instance_id,
        replace(
            row,
            generation=row.generation + 1,
            stop_force=False,
            stop_wait=None,
            updated_at=tx.now,
            pending_since=tx.now,
        ),
    )


def try_now(tx: Transaction, row: tables.Instance, who: str) -> None:
    """Make the next try of a waiting placement come at once."""
    if (row.state, row.reason) == (InstanceState.STARTING, _TRIED):
        return
    tx.database.instances.put(row.id, replace(row, retry_asked_at=tx.now))
    tx.record(who, "instance.retried", "instance", row.id, {"generation": row.generation})
    write_observed(tx, row.id, InstanceState.STARTING, _TRIED, generation=row.observed_generation, who=who)
    announce_desired(tx, row.id)


def refuse_unless_running(row: tables.Instance, rule: str) -> None:
    """Raise `Conflict` unless the instance is wanted running and its present generation was seen to run."""
    if row.desired is not InstanceDesired.RUNNING:
        found = f"the instance is {row.state} and wanted {row.desired}"
    elif row.state is not InstanceState.RUNNING:
        found = f"the instance is {row.state}"
    elif row.observed_generation < row.generation:
        found = "the instance is about to be started anew"
    else:
        return
    raise Conflict(f"{found}: {rule}", fix="try again when it runs: `zeitwork ps`", code="not-running")


def set_paused(tx: Transaction, instance_id: UUID, paused: bool, who: str) -> None:
    """Want a running instance paused or going on, and tell its host when that is new."""
    row = tx.database.instances.get(instance_id)
    assert row is not None
    if row.paused == paused:
        return
    tx.database.instances.put(instance_id, replace(row, paused=paused, updated_at=tx.now))
    tx.record(who, "instance.paused" if paused else "instance.resumed", "instance", instance_id)
    announce_desired(tx, instance_id)


def next_generation(
    tx: Transaction, row: tables.Instance, *, force: bool, stop_wait: float | None, what: str, who: str
) -> None:
    """Want the next generation to run. A live placement becomes unwanted by it, and its host stops it first."""
    changed = tx.database.instances.put(
        row.id,
        replace(
            row,
            desired=InstanceDesired.RUNNING,
            paused=False,
            generation=row.generation + 1,
            stop_force=force,
            stop_wait=stop_wait,
            updated_at=tx.now,
            pending_since=tx.now,
        ),
    )
    tx.record(who, what, "instance", row.id, {"generation": changed.generation, "force": force})
    release_kept(tx, row.id, changed.generation)
    if current(tx, changed) is None:
        write_observed(tx, row.id, InstanceState.PENDING, "", generation=row.observed_generation, who=who)
    announce_desired(tx, row.id)


def end(
    tx: Transaction,
    row: tables.Instance,
    desired: InstanceDesired,
    force: bool,
    stop_wait: float | None,
    who: str,
    *,
    volumes: Volumes = Volumes.KEEP,
) -> None:
    """Want an instance stopped or terminated; what has no live placement is so at once."""
    drop = volumes is Volumes.DELETE
    same = row.desired is desired and stop_wait in (None, row.stop_wait)
    if same and not (force and not row.stop_force) and not (drop and not row.drop_volumes):
        _tell_if_it_waits(tx, row, current(tx, row), desired, who)
        return
    ending = row.desired is not InstanceDesired.RUNNING
    wait = stop_wait if stop_wait is not None else row.stop_wait if ending else None
    tx.database.instances.put(
        row.id,
        replace(
            row,
            desired=desired,
            paused=False,
            stop_force=(row.stop_force and ending) or force,
            stop_wait=wait,
            drop_volumes=row.drop_volumes or drop,
            updated_at=tx.now,
        ),
    )
    data: dict[str, object] = {"desired": desired, "force": force}
    if desired is InstanceDesired.TERMINATED:
        data["volumes"] = volumes
    if stop_wait is not None:
        data["stop_timeout"] = stop_wait
    tx.record(who, "instance.desired", "instance", row.id, data)
    release_kept(tx, row.id, row.generation)
    placed = current(tx, row)
    if placed is not None:
        _tell_if_it_waits(tx, row, placed, desired, who)
    else:
        over = row.state in ENDED or row.state is InstanceState.TERMINATED
        reason = row.reason if over else "it was not running"
        write_observed(
            tx,
            row.id,
            InstanceState(desired.value),
            reason,
            generation=row.generation,
            outcome=row.outcome,
            exit_status=row.exit_status,
            who=who,
        )
    announce_desired(tx, row.id)


def _tell_if_it_waits(
    tx: Transaction, row: tables.Instance, placed: tables.Placement | None, desired: InstanceDesired, who: str
) -> None:
    """Write that an instance ends only when its host is back, if that is down."""
    node = None if placed is None else tx.database.nodes.get(placed.node_id)
    if node is None or node.state is not NodeState.DOWN:
        return
    write_observed(
        tx,
        row.id,
        row.state,
        waits_for_host(node.hostname, desired),
        generation=row.observed_generation,
        outcome=row.outcome,
        exit_status=row.exit_status,
        who=who,
    )


def announce_desired(tx: Transaction, instance_id: UUID) -> None:
    """Wake the scheduler, and the hosts that have a placement of it."""
    tx.announce("zw_instances", instance_id)
    for row in live_placements(tx, instance_id):
        tx.announce("zw_placements", row.id)


def instance_row(tx: Transaction, instance_id: UUID) -> InstanceRow:
    """Return an instance as it is handed out, a terminated one too. Raises `NotFound`."""
    row = tx.database.instances.get(instance_id)
    if row is None:
        raise missing_instance(instance_id)
    image = tx.database.images.get(row.image_id)
    assert image is not None
    placed = current(tx, row)
    group = tx.database.groups.get(row.group_id) if row.group_id is not None else None
    next_try_at = None
    if placed is not None and row.state in (InstanceState.STARTING, InstanceState.CRASH_LOOP):
        hurried = row.retry_asked_at is not None and row.retry_asked_at > placed.updated_at
        next_try_at = None if hurried else placed.next_try_at
    return InstanceRow(
        id=row.id,
        name=row.name,
        image_id=row.image_id,
        image_source=image.source,
        pinned_node_id=row.pinned_node_id,
        resources=row.resources,
        default_port=row.default_port,
        environment=dict(row.environment),
        command=row.command,
        stop_timeout=row.stop_timeout,
        restart=row.restart,
        health_check=row.health,
        desired=row.desired,
        paused=row.paused,
        generation=row.generation,
        snapshot_id=None,
        priority=row.priority,
        singleton=row.singleton,
        requirements=row.requirements,
        group_id=row.group_id,
        group_name=group.name if group is not None else None,
        slot=row.slot,
        state=row.state,
        observed_generation=row.observed_generation,
        reason=row.reason,
        outcome=row.outcome,
        exit_status=row.exit_status,
        restarts=placed.restarts if placed else 0,
        next_try_at=moment_or_none(next_try_at),
        health=placed.health if placed else HealthState.UNKNOWN,
        health_reason=placed.health_reason if placed else "",
        health_changed_at=moment_or_none(placed.health_changed_at) if placed else None,
        node_id=placed.node_id if placed else None,
        placement_id=placed.id if placed else None,
        v4=placed.v4 if placed else None,
        v6=placed.v6 if placed else None,
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
        state_changed_at=moment(row.state_changed_at),
    )
