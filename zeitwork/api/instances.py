"""Instances: what people want to run."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec

from actors.model.errors import Conflict, InvalidInput
from actors.model.health import HealthCheck, HealthState, HealthType
from actors.model.ids import short_id
from actors.model.resources import Resources
from actors.model.restart import RestartMode, RestartPolicy
from actors.model.states import InstanceDesired, InstanceState, Outcome, PlacementState
from actors.model.units import parse_mib
from zeitwork.api.call import Answer, Call
from zeitwork.api.decode import Input
from zeitwork.api.desired import wish
from zeitwork.api.events import InstanceEventQuery, page_of
from zeitwork.api.paging import PageQuery
from zeitwork.api.spool import shown_source
from zeitwork.store.rows import InstanceRow, NewInstance, Page, PlacementRow

#: Bounds of a request, in MiB. Below, no kernel boots; above, the number is a typing error.
MEMORY_RANGE = (32, 16 * 1024 * 1024)
DISK_RANGE = (32, 16 * 1024 * 1024)
#: All names and values of a guest's environment and command together, in bytes: they travel on a small drive.
CONFIGURATION_LIMIT = 256 * 1024
#: Bytes of one argument or KEY=VALUE: Linux takes no longer ones (MAX_ARG_STRLEN without the closing zero).
STRING_LIMIT = 128 * 1024 - 1

Size = Annotated[int | str, msgspec.Meta(description="MiB, or text such as 512MiB or 1.5GiB", examples=[1024, "1GiB"])]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)", description="a DNS label")]
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,254}$(?!\n)")]
VariableValue = Annotated[str, msgspec.Meta(max_length=65536)]
Word = Annotated[str, msgspec.Meta(max_length=65536)]
StopTimeout = Annotated[float, msgspec.Meta(ge=0, le=3600, description="seconds the app gets before it is killed")]

#: States in which deleting loses something that works, so it needs a confirmation.
_ALIVE = (InstanceState.STARTING, InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.UNKNOWN)
_TERMINATED_PART = "t:"


class WantedResources(Input):
    """What an instance asks for."""

    vcpu: Annotated[int, msgspec.Meta(ge=1, le=255)] = 1
    memory: Size = 1024
    disk: Size = 1024


class WantedRestart(Input):
    """When an instance that ended by itself is started again, with growing waits; ``max_attempts`` null: for ever."""

    mode: RestartMode = RestartMode.ALWAYS
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


class WantedHealth(Input):
    """How the app is probed: ``http`` GETs ``path`` (200 to 399 is well), ``tcp`` connects; ``port`` null: its own.

    ``failures`` probes in a row that fail make it unhealthy, and start it again if its restart policy says so. An app
    that has not answered yet gets a minute to come up.
    """

    type: HealthType
    path: Annotated[str, msgspec.Meta(pattern=r"^/[!-~]{0,1023}$(?!\n)", description="of an HTTP check")] = "/"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    interval: Annotated[float, msgspec.Meta(ge=1, le=3600, description="seconds between probes")] = 10.0
    timeout: Annotated[float, msgspec.Meta(ge=0.1, le=300, description="seconds for one probe")] = 2.0
    failures: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2


class NewInstanceBody(Input):
    """An instance that shall run. ``node_id`` pins it to a host; ``command`` replaces the image's own."""

    image_id: UUID
    resources: WantedResources
    default_port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    node_id: UUID | None = None
    name: Name | None = None
    environment_variables: Annotated[dict[VariableName, VariableValue], msgspec.Meta(max_length=1024)] = msgspec.field(
        default_factory=dict
    )
    command: Annotated[list[Annotated[str, msgspec.Meta(max_length=65536)]], msgspec.Meta(max_length=1024)] = (
        msgspec.field(default_factory=list)
    )
    stop_timeout: StopTimeout = 30.0
    restart_policy: WantedRestart = msgspec.field(default_factory=WantedRestart)
    health: WantedHealth | None = None


class InstanceQuery(PageQuery):
    """Parameters of the list; terminated instances only with ``state=terminated``, or last with ``all=true``."""

    state: InstanceState | None = None
    node_id: UUID | None = None
    all: bool = False


class Ending(Input):
    """How to end an instance: ``force`` leaves the app no time, ``stop_timeout`` replaces its own wait."""

    force: bool = False
    stop_timeout: StopTimeout | None = None


class Starting(Input):
    """Starting takes no wishes; an empty object is accepted."""


class InstanceWish(Ending, kw_only=True):
    """``running``, ``stopped`` or ``terminated``; the last needs ``confirm`` while the instance is alive."""

    state: InstanceState
    confirm: bool = False


class DeleteQuery(Ending):
    """``confirm`` is needed to delete an instance that is alive."""

    confirm: bool = False


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
    """Whether an instance's app answers: ``status`` by the probes of ``check``, ``state`` of its virtual machine."""

    id: UUID
    state: InstanceState
    status: HealthState
    reason: str
    changed_at: datetime | None
    check: GivenHealth
    restarts: int
    next_try_at: datetime | None


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """What is desired of an instance (``desired_state``, ``generation``) and what was observed (``state`` and on).

    ``node_id``, ``placement_id`` and the addresses are those of its live placement. ``outcome`` and ``exit_status``
    tell how the last one ended. ``restarts`` counts the new starts of its placement after it ended by itself; while it
    waits for another, ``next_try_at`` says when that is.
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
    generation: int
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
    """One try of an instance on one host, kept after it ended. ``memory_overhead`` is what its VMM needs beside."""

    id: UUID
    instance_id: UUID
    generation: int
    node_id: UUID
    resources: GivenResources
    memory_overhead: int
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
        resources=_given(row.resources),
        default_port=row.default_port,
        environment_variables=dict(row.environment),
        command=list(row.command),
        stop_timeout=row.stop_timeout,
        restart_policy=GivenRestart(mode=row.restart.mode, max_attempts=row.restart.max_attempts),
        health=_given_health(row),
        health_status=row.health,
        desired_state=row.desired,
        generation=row.generation,
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


async def create(call: Call) -> Answer:
    """POST /api/v1/instances."""
    body: NewInstanceBody = call.body
    _check_configuration(body)
    row = await call.deps.store.instances.create(
        NewInstance(
            image_id=body.image_id,
            resources=Resources(
                vcpu=body.resources.vcpu,
                memory=_mib(body.resources.memory, "resources.memory", MEMORY_RANGE),
                disk=_mib(body.resources.disk, "resources.disk", DISK_RANGE),
            ),
            default_port=body.default_port,
            name=body.name,
            node_id=body.node_id,
            environment=body.environment_variables,
            command=tuple(body.command),
            stop_timeout=body.stop_timeout,
            id=call.token,
            restart=_restart(body.restart_policy),
            health=_health(body.health),
        )
    )
    return Answer(present(row), status=201)


async def get(call: Call) -> Answer:
    """GET /api/v1/instances/{id}."""
    return Answer(present(await call.deps.store.instances.get(call.id)))


async def health(call: Call) -> Answer:
    """GET /api/v1/instances/{id}/health."""
    row = await call.deps.store.instances.get(call.id)
    return Answer(
        InstanceHealth(
            id=row.id,
            state=row.state,
            status=row.health,
            reason=row.health_reason,
            changed_at=row.health_changed_at,
            check=_given_health(row),
            restarts=row.restarts,
            next_try_at=row.next_try_at,
        )
    )


async def delete(call: Call) -> Answer:
    """DELETE /api/v1/instances/{id}."""
    query: DeleteQuery = call.query
    await _confirm(call, query.confirm, "?confirm=true")
    row = await call.deps.store.instances.delete(call.id, force=query.force, stop_timeout=query.stop_timeout)
    return Answer(present(row), status=202)


async def put_state(call: Call) -> Answer:
    """PUT /api/v1/instances/{id}/state."""
    body: InstanceWish = call.body
    desired = wish(body.state, InstanceDesired, "an instance")
    if desired is InstanceDesired.TERMINATED:
        await _confirm(call, body.confirm, '"confirm": true')
    return await _set(call, desired, body.force, body.stop_timeout)


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
    page = await instances.list(state=state, node_id=query.node_id, limit=query.limit, cursor=cursor)
    if not query.all:
        return page
    if state is InstanceState.TERMINATED:
        return Page(page.items, page.next_cursor and _TERMINATED_PART + page.next_cursor)
    return Page(page.items, page.next_cursor or _TERMINATED_PART)


async def _set(call: Call, desired: InstanceDesired, force: bool = False, stop_timeout: float | None = None) -> Answer:
    row = await call.deps.store.instances.set_desired(call.id, desired, force=force, stop_timeout=stop_timeout)
    return Answer(present(row), status=202)


async def _confirm(call: Call, confirmed: bool, how: str) -> None:
    if confirmed:
        return
    row = await call.deps.store.instances.get(call.id)
    if row.state in _ALIVE and row.desired is not InstanceDesired.TERMINATED:
        raise Conflict(
            f"the instance is {row.state.value}; deleting it ends the app and drops its writable layer",
            field="confirm",
            fix=f"say that it is meant: {how}",
            code="confirmation-needed",
        )


def _restart(wanted: WantedRestart) -> RestartPolicy:
    if wanted.max_attempts is not None and wanted.mode is RestartMode.NEVER:
        raise InvalidInput("it is never restarted", field="restart_policy.max_attempts", fix="leave it out")
    return RestartPolicy(wanted.mode, wanted.max_attempts)


def _health(wanted: WantedHealth | None) -> HealthCheck:
    if wanted is None:
        return HealthCheck()
    if wanted.timeout > wanted.interval:
        raise InvalidInput("it is longer than the interval", field="health.timeout", fix="shorten it")
    return HealthCheck(wanted.type, wanted.path, wanted.port, wanted.interval, wanted.timeout, wanted.failures)


def _given_health(row: InstanceRow) -> GivenHealth:
    check = row.health_check
    return GivenHealth(
        type=check.type,
        path=check.path,
        port=check.port,
        interval=check.interval,
        timeout=check.timeout,
        failures=check.failures,
    )


def _mib(size: int | str, field: str, bounds: tuple[int, int]) -> int:
    lowest, highest = bounds
    mib = parse_mib(size, field=field)
    if not lowest <= mib <= highest:
        raise InvalidInput(
            f"{size!r} is outside {lowest} to {highest} MiB", field=field, fix=f"ask for at least {lowest} MiB"
        )
    return mib


def _check_configuration(body: NewInstanceBody) -> None:
    """Refuse what the guest could not be given. Lengths are those of UTF-8, which JSON's are not."""
    variables = {f"environment_variables.{key}": f"{key}={value}" for key, value in body.environment_variables.items()}
    words = {f"command[{index}]": word for index, word in enumerate(body.command)}
    for field, text in (variables | words).items():
        if (size := len(text.encode())) > STRING_LIMIT:
            raise InvalidInput(f"it is {size} bytes, {STRING_LIMIT} are allowed", field=field, fix="shorten it")
    for field, texts in (("environment_variables", variables), ("command", words)):
        if (size := sum(len(text.encode()) + 1 for text in texts.values())) > CONFIGURATION_LIMIT:
            raise InvalidInput(
                f"together they are {size} bytes, {CONFIGURATION_LIMIT} are allowed",
                field=field,
                fix="put large data into the image",
            )
    if body.command and not body.command[0]:
        raise InvalidInput("the program's name is empty", field="command[0]", fix="name a program of the image")


def _given(resources: Resources) -> GivenResources:
    return GivenResources(vcpu=resources.vcpu, memory=resources.memory, disk=resources.disk)


def _present_placement(row: PlacementRow) -> Placement:
    return Placement(
        id=row.id,
        instance_id=row.instance_id,
        generation=row.generation,
        node_id=row.node_id,
        resources=_given(row.resources),
        memory_overhead=row.memory_overhead,
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
    )
