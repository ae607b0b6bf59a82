"""Instances: what people want to run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec

from actors.host.messages import NAME as HOST
from actors.host.messages import Vms
from actors.model.errors import Conflict, InvalidInput
from actors.model.health import HealthCheck, HealthState, HealthType
from actors.model.ids import short_id
from actors.model.resources import Resources
from actors.model.restart import RestartMode
from actors.model.states import InstanceDesired, InstanceState, Outcome, PlacementState, Volumes
from actors.vm.messages import VmView
from runtime import ActorError
from zeitwork.api.call import Answer, Call
from zeitwork.api.decode import Input
from zeitwork.api.desired import wish
from zeitwork.api.events import InstanceEventQuery, page_of
from zeitwork.api.paging import PageQuery
from zeitwork.api.requirements import GivenRequirements, given_requirements
from zeitwork.api.spool import shown_source
from zeitwork.store.rows import InstanceRow, Page, PlacementRow

StopTimeout = Annotated[float, msgspec.Meta(ge=0, le=3600, description="seconds the app gets before it is killed")]

#: States in which deleting loses something that works, so it needs a confirmation.
_ALIVE = (InstanceState.STARTING, InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.UNKNOWN)
_TERMINATED_PART = "t:"
#: Seconds for the host to say what it knows of its virtual machines.
_HOST_S = 2.0
#: What `confirm` is asked about, and how a body says yes.
DELETING, CONFIRMED = "deleting it", '"confirm": true'


class InstanceQuery(PageQuery):
    """Parameters of the list; terminated instances only with ``state=terminated``, or last with ``all=true``."""

    state: InstanceState | None = None
    node_id: UUID | None = None
    group_id: UUID | None = None
    all: bool = False


class Ending(Input):
    """How to end an instance: ``force`` leaves the app no time, ``stop_timeout`` replaces its own wait."""

    force: bool = False
    stop_timeout: StopTimeout | None = None


class Starting(Input):
    """Starting, pausing and resuming take no wishes; an empty object is accepted."""


class Replacing(Input):
    """``confirm`` is needed while the instance is alive: it begins anew elsewhere, with a fresh writable layer.

    ``force`` is needed for a singleton: it is stopped first, and where its host is down two of it may run.
    """

    force: bool = False
    confirm: bool = False


class InstanceWish(Ending, kw_only=True):
    """``running``, ``stopped`` or ``terminated``; the last needs ``confirm`` while the instance is alive.

    ``running`` resumes a paused one. ``volumes`` goes with ``terminated`` only, see `DeleteQuery`.
    """

    state: InstanceState
    confirm: bool = False
    volumes: Volumes = Volumes.KEEP


class DeleteQuery(Ending):
    """``confirm`` is needed to delete an instance that is alive.

    ``volumes=delete`` removes its volumes for good, else they are kept; that can't be taken back once it was asked.
    """

    confirm: bool = False
    volumes: Volumes = Volumes.KEEP


class GivenResources(msgspec.Struct, frozen=True, kw_only=True):
    """Whole virtual CPUs; MiB of memory and writable disk."""

    vcpu: int
    memory: int
    disk: int


class GivenRestart(msgspec.Struct, frozen=True, kw_only=True):
    """When it is started again after it ended by itself; ``max_attempts`` counts failures in a row."""

    mode: RestartMode
    max_attempts: int | None


class GivenHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How the app is probed; ``port`` null is the instance's default port."""

    type: HealthType
    path: str
    port: int | None
    interval: float
    timeout: float
    failures: int


class InstanceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an instance's app answers: ``status`` by the probes of ``check``, ``state`` of its virtual machine.

    ``guest_heard_at`` is when its guest's init last answered a heartbeat and ``silent`` which part of its virtual
    machine does not answer, null when all do; both are known by its own host only, null elsewhere.
    """

    id: UUID
    state: InstanceState
    status: HealthState
    reason: str
    changed_at: datetime | None
    check: GivenHealth
    restarts: int
    next_try_at: datetime | None
    guest_heard_at: datetime | None = None
    silent: str | None = None


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """What is desired of an instance (``desired_state``, ``generation``) and what was observed (``state`` and on).

    ``node_id``, ``placement_id`` and the addresses are those of its live placement. ``outcome`` and ``exit_status``
    tell how the last one ended. ``restarts`` counts the new starts of its placement after it ended by itself; while it
    waits for another, ``next_try_at`` says when that is. ``paused`` is whether it is wanted paused; ``snapshot_id`` is
    what its present generation went on from instead of booting. ``group`` is the name of the group that keeps it,
    ``slot`` its place there.
    """

    id: UUID
    name: str
    image_id: UUID
    image: str
    pinned_node_id: UUID | None
    resources: GivenResources
    default_port: int
    environment_variables: dict[str, str]
    command: list[str]
    stop_timeout: float
    restart_policy: GivenRestart
    health: GivenHealth
    health_status: HealthState
    desired_state: InstanceDesired
    paused: bool
    generation: int
    snapshot_id: UUID | None
    priority: int
    singleton: bool
    requirements: GivenRequirements
    group_id: UUID | None
    group: str | None
    slot: int | None
    state: InstanceState
    observed_generation: int
    reason: str
    outcome: Outcome | None
    exit_status: int | None
    restarts: int
    next_try_at: datetime | None
    node_id: UUID | None
    placement_id: UUID | None
    ipv6: str | None
    ipv4: str | None
    created_at: datetime
    updated_at: datetime
    state_changed_at: datetime


class InstancePage(msgspec.Struct, frozen=True, kw_only=True):
    """Instances, oldest first."""

    items: list[Instance]
    next_cursor: str | None


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """One try of an instance on one host, kept after it ended. ``memory_overhead`` is what its VMM needs beside.

    ``snapshot_id`` is what its first start goes on from, null when it boots. ``kept``: it serves on although a newer
    generation is wanted, until that one runs. ``lost_at`` is when its host was found dead: until that host is heard of
    again, nobody knows whether it runs.
    """

    id: UUID
    instance_id: UUID
    generation: int
    node_id: UUID
    resources: GivenResources
    memory_overhead: int
    snapshot_id: UUID | None
    state: PlacementState
    reason: str
    outcome: Outcome | None
    exit_status: int | None
    failures: int
    restarts: int
    next_try_at: datetime | None
    hypervisor: str | None
    pid: int | None
    ipv6: str | None
    ipv4: str
    created_at: datetime
    updated_at: datetime
    running_at: datetime | None
    removed_at: datetime | None
    kept: bool
    lost_at: datetime | None


class PlacementPage(msgspec.Struct, frozen=True, kw_only=True):
    """Every placement of an instance, oldest first."""

    items: list[Placement]
    next_cursor: str | None


def present(row: InstanceRow) -> Instance:
    """Return an instance as the API shows it; without a name it goes by the short form of its id."""
    return Instance(
        id=row.id,
        name=row.name or short_id(row.id),
        image_id=row.image_id,
        image=shown_source(row.image_source),
        pinned_node_id=row.pinned_node_id,
        resources=given_resources(row.resources),
        default_port=row.default_port,
        environment_variables=dict(row.environment),
        command=list(row.command),
        stop_timeout=row.stop_timeout,
        restart_policy=GivenRestart(mode=row.restart.mode, max_attempts=row.restart.max_attempts),
        health=given_health(row.health_check),
        health_status=row.health,
        desired_state=row.desired,
        paused=row.paused,
        generation=row.generation,
        snapshot_id=row.snapshot_id,
        priority=row.priority,
        singleton=row.singleton,
        requirements=given_requirements(row.requirements),
        group_id=row.group_id,
        group=row.group_name,
        slot=row.slot,
        state=row.state,
        observed_generation=row.observed_generation,
        reason=row.reason,
        outcome=row.outcome,
        exit_status=row.exit_status,
        restarts=row.restarts,
        next_try_at=row.next_try_at,
        node_id=row.node_id,
        placement_id=row.placement_id,
        ipv6=None if row.v6 is None else str(row.v6),
        ipv4=None if row.v4 is None else str(row.v4),
        created_at=row.created_at,
        updated_at=row.updated_at,
        state_changed_at=row.state_changed_at,
    )


async def listing(call: Call) -> Answer:
    """GET /api/v1/instances."""
    query: InstanceQuery = call.query
    if query.all and query.state is not None:
        raise InvalidInput("all and state exclude each other", field="all", fix="leave one of them out")
    page = await _page(call, query)
    return Answer(InstancePage(items=[present(row) for row in page.items], next_cursor=page.next_cursor))


async def get(call: Call) -> Answer:
    """GET /api/v1/instances/{id}."""
    return Answer(present(await call.deps.store.instances.get(call.id)))


async def health(call: Call) -> Answer:
    """GET /api/v1/instances/{id}/health."""
    row = await call.deps.store.instances.get(call.id)
    seen = await _seen(call, row)
    return Answer(
        InstanceHealth(
            id=row.id,
            state=row.state,
            status=row.health,
            reason=row.health_reason,
            changed_at=row.health_changed_at,
            check=given_health(row.health_check),
            restarts=row.restarts,
            next_try_at=row.next_try_at,
            guest_heard_at=datetime.fromtimestamp(seen.heard_at, UTC) if seen and seen.heard_at else None,
            silent=(seen.doubt or None) if seen else None,
        )
    )


async def _seen(call: Call, row: InstanceRow) -> VmView | None:
    """Return what this host knows of an instance's virtual machine, None when it has none of it."""
    host = call.deps.system.lookup(HOST)
    if host is None or row.placement_id is None or row.node_id != call.deps.node_id:
        return None
    try:
        view = await host.ask(Vms(), timeout=_HOST_S)
    except ActorError:
        return None  # it is starting again, or busy: what the database says is there all the same
    return next((vm for vm in view.vms if vm.placement_id == row.placement_id), None)


async def delete(call: Call) -> Answer:
    """DELETE /api/v1/instances/{id}."""
    query: DeleteQuery = call.query
    await confirm(call, query.confirm, DELETING, "?confirm=true")
    row = await call.deps.store.instances.delete(
        call.id, force=query.force, stop_timeout=query.stop_timeout, volumes=query.volumes
    )
    return Answer(present(row), status=202)


async def put_state(call: Call) -> Answer:
    """PUT /api/v1/instances/{id}/state."""
    body: InstanceWish = call.body
    hint = "; POST .../pause pauses one" if body.state is InstanceState.PAUSED else ""
    desired = wish(body.state, InstanceDesired, "an instance", hint)
    if desired is InstanceDesired.TERMINATED:
        await confirm(call, body.confirm, DELETING, CONFIRMED)
    elif body.volumes is not Volumes.KEEP:
        raise InvalidInput(
            f"volumes are deleted with their instance, not when it is {desired}",
            field="volumes",
            fix="leave it out, or ask for terminated",
        )
    return await _set(call, desired, body.force, body.stop_timeout, body.volumes)


async def start(call: Call) -> Answer:
    """POST /api/v1/instances/{id}/start."""
    return await _set(call, InstanceDesired.RUNNING)


async def stop(call: Call) -> Answer:
    """POST /api/v1/instances/{id}/stop."""
    body: Ending = call.body
    return await _set(call, InstanceDesired.STOPPED, body.force, body.stop_timeout)


async def restart(call: Call) -> Answer:
    """POST /api/v1/instances/{id}/restart."""
    body: Ending = call.body
    row = await call.deps.store.instances.restart(call.id, force=body.force, stop_timeout=body.stop_timeout)
    return Answer(present(row), status=202)


async def replace(call: Call) -> Answer:
    """POST /api/v1/instances/{id}/replace."""
    body: Replacing = call.body
    await confirm(call, body.confirm, "replacing it", CONFIRMED)
    return Answer(present(await call.deps.store.instances.replace(call.id, force=body.force)), status=202)


async def pause(call: Call) -> Answer:
    """POST /api/v1/instances/{id}/pause."""
    return Answer(present(await call.deps.store.instances.pause(call.id)), status=202)


async def resume(call: Call) -> Answer:
    """POST /api/v1/instances/{id}/resume."""
    return Answer(present(await call.deps.store.instances.resume(call.id)), status=202)


async def placements(call: Call) -> Answer:
    """GET /api/v1/instances/{id}/placements."""
    rows = await call.deps.store.instances.placements(call.id)
    return Answer(PlacementPage(items=[_present_placement(row) for row in rows], next_cursor=None))


async def events(call: Call) -> Answer:
    """GET /api/v1/instances/{id}/events."""
    query: InstanceEventQuery = call.query
    rows = await call.deps.store.instances.events(call.id, after=query.start, limit=query.limit)
    return Answer(page_of(rows, query.limit))


async def _page(call: Call, query: InstanceQuery) -> Page[InstanceRow]:
    """Return a page; with ``all`` the terminated ones follow the others, each part oldest first."""
    instances = call.deps.store.instances
    cursor, state = query.cursor, query.state
    if query.all and cursor is not None and cursor.startswith(_TERMINATED_PART):
        cursor, state = cursor.removeprefix(_TERMINATED_PART) or None, InstanceState.TERMINATED
    page = await instances.list(
        state=state, node_id=query.node_id, group_id=query.group_id, limit=query.limit, cursor=cursor
    )
    if not query.all:
        return page
    if state is InstanceState.TERMINATED:
        return Page(page.items, page.next_cursor and _TERMINATED_PART + page.next_cursor)
    return Page(page.items, page.next_cursor or _TERMINATED_PART)


async def _set(
    call: Call,
    desired: InstanceDesired,
    force: bool = False,
    stop_timeout: float | None = None,
    volumes: Volumes = Volumes.KEEP,
) -> Answer:
    row = await call.deps.store.instances.set_desired(
        call.id, desired, force=force, stop_timeout=stop_timeout, volumes=volumes
    )
    return Answer(present(row), status=202)


async def confirm(call: Call, confirmed: bool, doing: str, how: str) -> None:
    """Raise `Conflict` when an instance is alive and nobody said that ending it is meant."""
    if confirmed:
        return
    row = await call.deps.store.instances.get(call.id)
    if row.state in _ALIVE and row.desired is not InstanceDesired.TERMINATED:
        raise Conflict(
            f"the instance is {row.state.value}; {doing} ends the app and drops its writable layer",
            field="confirm",
            fix=f"say that it is meant: {how}",
            code="confirmation-needed",
        )


def given_health(check: HealthCheck) -> GivenHealth:
    """Return a health check as the API shows it."""
    return GivenHealth(
        type=check.type,
        path=check.path,
        port=check.port,
        interval=check.interval,
        timeout=check.timeout,
        failures=check.failures,
    )


def given_resources(resources: Resources) -> GivenResources:
    """Return resources as the API shows them."""
    return GivenResources(vcpu=resources.vcpu, memory=resources.memory, disk=resources.disk)


def _present_placement(row: PlacementRow) -> Placement:
    return Placement(
        id=row.id,
        instance_id=row.instance_id,
        generation=row.generation,
        node_id=row.node_id,
        resources=given_resources(row.resources),
        memory_overhead=row.memory_overhead,
        snapshot_id=row.snapshot_id,
        state=row.state,
        reason=row.reason,
        outcome=row.outcome,
        exit_status=row.exit_status,
        failures=row.failures,
        restarts=row.restarts,
        next_try_at=row.next_try_at,
        hypervisor=row.hypervisor,
        pid=row.pid,
        ipv6=None if row.v6 is None else str(row.v6),
        ipv4=str(row.v4),
        created_at=row.created_at,
        updated_at=row.updated_at,
        running_at=row.running_at,
        removed_at=row.removed_at,
        kept=row.kept,
        lost_at=row.lost_at,
    )
