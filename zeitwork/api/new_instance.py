"""Creating an instance: from an image, or as a copy that goes on from a snapshot."""

from __future__ import annotations

from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from actors.model.errors import InvalidInput, NotFound
from actors.model.health import HealthCheck, HealthType
from actors.model.names import LONGEST, label_pattern
from actors.model.resources import Resources
from actors.model.restart import ALWAYS, RestartMode, RestartPolicy
from actors.model.scheduling import DEFAULT_PRIORITY, MAX_PRIORITY
from actors.model.units import parse_mib
from zeitwork.api.call import Answer, Call
from zeitwork.api.decode import Input
from zeitwork.api.instances import StopTimeout, present
from zeitwork.api.requirements import WantedRequirements, requirements_of
from zeitwork.store.rows import NewInstance, SnapshotRow

T = TypeVar("T")

#: Bounds of a request, in MiB. Below, no kernel boots; above, the number is a typing error.
MEMORY_RANGE = (32, 16 * 1024 * 1024)
DISK_RANGE = (32, 16 * 1024 * 1024)
#: All names and values of a guest's environment and command together, in bytes: they travel on a small drive.
CONFIGURATION_LIMIT = 256 * 1024
#: Bytes of one argument or KEY=VALUE: Linux takes no longer ones (MAX_ARG_STRLEN without the closing zero).
STRING_LIMIT = 128 * 1024 - 1

Size = Annotated[int | str, msgspec.Meta(description="MiB, or text such as 512MiB or 1.5GiB", examples=[1024, "1GiB"])]
Name = Annotated[str, msgspec.Meta(pattern=label_pattern(LONGEST), description="a DNS label")]
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,254}$(?!\n)")]
VariableValue = Annotated[str, msgspec.Meta(max_length=65536)]
Word = Annotated[str, msgspec.Meta(max_length=65536)]
Environment = Annotated[dict[VariableName, VariableValue], msgspec.Meta(max_length=1024)]
Command = Annotated[list[Word], msgspec.Meta(max_length=1024)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Priority = Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY, description="what is higher is placed first")]


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
    """An instance that shall run. ``node_id`` pins it to a host; ``command`` replaces the image's own.

    It boots from ``image_id``, and then ``resources`` and ``default_port`` must be there; or it goes on from
    ``snapshot_id``, and what is left out is what the snapshot was made of. Resources, variables and command can't be
    others then, the host is the snapshot's. ``singleton``: two of it must never run at once, so one whose host is dead
    is not replaced before that host says so, or somebody forces it.
    """

    image_id: UUID | UnsetType = UNSET
    snapshot_id: UUID | UnsetType = UNSET
    resources: WantedResources | UnsetType = UNSET
    default_port: Port | UnsetType = UNSET
    node_id: UUID | None = None
    name: Name | None = None
    environment_variables: Environment | UnsetType = UNSET
    command: Command | UnsetType = UNSET
    stop_timeout: StopTimeout | UnsetType = UNSET
    restart_policy: WantedRestart | UnsetType = UNSET
    health: WantedHealth | UnsetType | None = UNSET
    priority: Priority = DEFAULT_PRIORITY
    singleton: bool = False
    requirements: WantedRequirements | None = None

    def __post_init__(self) -> None:
        """Check what depends on where it comes from. Raises `InvalidInput`."""
        if self.snapshot_id is not UNSET:
            if self.image_id is not UNSET:
                raise InvalidInput(
                    "snapshot_id and image_id exclude each other", field="snapshot_id", fix="leave one of them out"
                )
            return
        if self.image_id is UNSET:
            raise InvalidInput(
                "the field 'image_id' is missing", field="image_id", fix="name an image, or a snapshot_id instead"
            )
        for field in ("resources", "default_port"):
            if getattr(self, field) is UNSET:
                raise InvalidInput(f"the field {field!r} is missing", field=field, fix="add it")


async def create(call: Call) -> Answer:
    """POST /api/v1/instances."""
    body: NewInstanceBody = call.body
    if body.snapshot_id is not UNSET:
        new = _from_snapshot(body, await _snapshot(call, body.snapshot_id), call.token)
    else:
        new = from_image(body, call.token)
    return Answer(present(await call.deps.store.instances.create(new)), status=201)


def from_image(body: NewInstanceBody, token: UUID) -> NewInstance:
    """Return the instance that a request without a snapshot asks for. Raises `InvalidInput`."""
    assert body.image_id is not UNSET
    assert body.resources is not UNSET
    assert body.default_port is not UNSET
    environment, command = _or(body.environment_variables, {}), _or(body.command, [])
    _check_configuration(environment, command)
    return NewInstance(
        image_id=body.image_id,
        resources=_resources(body.resources),
        default_port=body.default_port,
        name=body.name,
        node_id=body.node_id,
        environment=environment,
        command=tuple(command),
        stop_timeout=_or(body.stop_timeout, 30.0),
        id=token,
        restart=ALWAYS if body.restart_policy is UNSET else _restart(body.restart_policy),
        health=_health(_or(body.health, None)),
        priority=body.priority,
        singleton=body.singleton,
        requirements=requirements_of(body.requirements),
    )


def _from_snapshot(body: NewInstanceBody, snapshot: SnapshotRow, token: UUID) -> NewInstance:
    """Return an instance made of what the snapshot was; what the request has instead, the store judges."""
    return NewInstance(
        image_id=snapshot.image_id,
        resources=snapshot.resources if body.resources is UNSET else _resources(body.resources),
        default_port=_or(body.default_port, snapshot.default_port),
        name=body.name,
        node_id=body.node_id,
        environment=_or(body.environment_variables, snapshot.environment),
        command=tuple(_or(body.command, list(snapshot.command))),
        stop_timeout=_or(body.stop_timeout, snapshot.stop_timeout),
        id=token,
        restart=snapshot.restart if body.restart_policy is UNSET else _restart(body.restart_policy),
        health=snapshot.health_check if body.health is UNSET else _health(body.health),
        snapshot_id=snapshot.id,
        priority=body.priority,
        singleton=body.singleton,
        requirements=requirements_of(body.requirements),
    )


async def _snapshot(call: Call, snapshot_id: UUID) -> SnapshotRow:
    try:
        return await call.deps.store.snapshots.get(snapshot_id)
    except NotFound as missing:
        raise InvalidInput(missing.detail, field="snapshot_id", fix=missing.fix) from None


def _or(given: T | UnsetType, default: T) -> T:
    return default if given is UNSET else given


def _resources(wanted: WantedResources) -> Resources:
    return Resources(
        vcpu=wanted.vcpu,
        memory=_mib(wanted.memory, "resources.memory", MEMORY_RANGE),
        disk=_mib(wanted.disk, "resources.disk", DISK_RANGE),
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


def _mib(size: int | str, field: str, bounds: tuple[int, int]) -> int:
    lowest, highest = bounds
    mib = parse_mib(size, field=field)
    if not lowest <= mib <= highest:
        raise InvalidInput(
            f"{size!r} is outside {lowest} to {highest} MiB", field=field, fix=f"ask for at least {lowest} MiB"
        )
    return mib


def _check_configuration(environment: dict[str, str], command: list[str]) -> None:
    """Refuse what the guest could not be given. Lengths are those of UTF-8, which JSON's are not."""
    variables = {f"environment_variables.{key}": f"{key}={value}" for key, value in environment.items()}
    words = {f"command[{index}]": word for index, word in enumerate(command)}
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
    if command and not command[0]:
        raise InvalidInput("the program's name is empty", field="command[0]", fix="name a program of the image")
