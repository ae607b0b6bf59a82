"""Groups: so many instances of a kind, kept at that number."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec

from actors.model.errors import Conflict
from actors.model.names import LONGEST_GROUP, label_pattern
from actors.model.scheduling import DEFAULT_PRIORITY, MAX_REPLICAS
from zeitwork.api.call import Answer, Call
from zeitwork.api.decode import Input
from zeitwork.api.events import InstanceEventQuery, page_of
from zeitwork.api.instances import (
    GivenHealth,
    GivenResources,
    GivenRestart,
    InstancePage,
    StopTimeout,
    given_health,
    given_resources,
)
from zeitwork.api.instances import present as present_instance
from zeitwork.api.new_instance import (
    Command,
    Environment,
    NewInstanceBody,
    Port,
    Priority,
    WantedHealth,
    WantedResources,
    WantedRestart,
    from_image,
)
from zeitwork.api.paging import PageQuery
from zeitwork.api.requirements import GivenRequirements, WantedRequirements, given_requirements
from zeitwork.api.spool import shown_source
from zeitwork.store.rows import GroupRow, NewGroup

GroupName = Annotated[
    str,
    # Its members' names, which end in -<slot>, are DNS labels too.
    msgspec.Meta(pattern=label_pattern(LONGEST_GROUP), description="a DNS label of 58 characters"),
]
ReplicaCount = Annotated[int, msgspec.Meta(ge=0, le=MAX_REPLICAS)]


class GroupQuery(PageQuery):
    """Parameters of the list of groups."""

    name: GroupName | None = None


class NewGroupBody(Input, kw_only=True):
    """``replicas`` instances that shall run, named ``<name>-<slot>``; all else is what an instance is made of."""

    name: GroupName
    replicas: ReplicaCount = 1
    image_id: UUID
    resources: WantedResources
    default_port: Port
    environment_variables: Environment = msgspec.field(default_factory=dict)
    command: Command = msgspec.field(default_factory=list)
    stop_timeout: StopTimeout = 30.0
    restart_policy: WantedRestart = msgspec.field(default_factory=WantedRestart)
    health: WantedHealth | None = None
    priority: Priority = DEFAULT_PRIORITY
    singleton: bool = False
    requirements: WantedRequirements | None = None


class Scaling(Input):
    """How many instances the group shall have."""

    replicas: ReplicaCount


class DeleteGroupQuery(Input):
    """``confirm`` is needed to delete a group with instances that are alive."""

    confirm: bool = False


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group and what its members are made of.

    ``replicas`` are wanted; ``members`` are its instances that are not terminated, ``running`` those of them that run,
    and ``reason`` says what keeps the others back. ``failures`` is how often in a row members failed for good,
    ``retry_at`` until when such are not made anew, or then have to run. A deleted group is gone at ``gone_at``.
    """

    id: UUID
    name: str
    replicas: int
    members: int
    running: int
    reason: str
    image_id: UUID
    image: str
    resources: GivenResources
    default_port: int
    environment_variables: dict[str, str]
    command: list[str]
    stop_timeout: float
    restart_policy: GivenRestart
    health: GivenHealth
    priority: int
    singleton: bool
    requirements: GivenRequirements
    generation: int
    failures: int
    retry_at: datetime | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    gone_at: datetime | None


class GroupPage(msgspec.Struct, frozen=True, kw_only=True):
    """Groups, oldest first."""

    items: list[Group]
    next_cursor: str | None


def present(row: GroupRow) -> Group:
    """Return a group as the API shows it."""
    made_of = row.template
    return Group(
        id=row.id,
        name=row.name,
        replicas=row.replicas,
        members=row.members,
        running=row.running,
        reason=row.reason,
        image_id=made_of.image_id,
        image=shown_source(row.image_source),
        resources=given_resources(made_of.resources),
        default_port=made_of.default_port,
        environment_variables=dict(made_of.environment),
        command=list(made_of.command),
        stop_timeout=made_of.stop_timeout,
        restart_policy=GivenRestart(mode=made_of.restart.mode, max_attempts=made_of.restart.max_attempts),
        health=given_health(made_of.health),
        priority=made_of.priority,
        singleton=made_of.singleton,
        requirements=given_requirements(made_of.requirements),
        generation=row.generation,
        failures=row.failures,
        retry_at=row.retry_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        deleted_at=row.deleted_at,
        gone_at=row.gone_at,
    )


async def listing(call: Call) -> Answer:
    """GET /api/v1/groups."""
    query: GroupQuery = call.query
    page = await call.deps.store.groups.list(name=query.name, limit=query.limit, cursor=query.cursor)
    return Answer(GroupPage(items=[present(row) for row in page.items], next_cursor=page.next_cursor))


async def create(call: Call) -> Answer:
    """POST /api/v1/groups."""
    body: NewGroupBody = call.body
    one = NewInstanceBody(
        image_id=body.image_id,
        resources=body.resources,
        default_port=body.default_port,
        environment_variables=body.environment_variables,
        command=body.command,
        stop_timeout=body.stop_timeout,
        restart_policy=body.restart_policy,
        health=body.health,
        priority=body.priority,
        singleton=body.singleton,
        requirements=body.requirements,
    )
    template = replace(from_image(one, call.token), id=None)
    row = await call.deps.store.groups.create(NewGroup(body.name, template, body.replicas, call.token))
    return Answer(present(row), status=201)


async def get(call: Call) -> Answer:
    """GET /api/v1/groups/{id}."""
    return Answer(present(await call.deps.store.groups.get(call.id)))


async def put_replicas(call: Call) -> Answer:
    """PUT /api/v1/groups/{id}/replicas."""
    body: Scaling = call.body
    return Answer(present(await call.deps.store.groups.scale(call.id, body.replicas)), status=202)


async def delete(call: Call) -> Answer:
    """DELETE /api/v1/groups/{id}."""
    query: DeleteGroupQuery = call.query
    if not query.confirm:
        row = await call.deps.store.groups.get(call.id)
        if row.alive and row.deleted_at is None:
            raise Conflict(
                f"{row.alive} of the group's instances are alive; deleting it ends them and drops their writable "
                "layers",
                field="confirm",
                fix="say that it is meant: ?confirm=true",
                code="confirmation-needed",
            )
    return Answer(present(await call.deps.store.groups.delete(call.id)), status=202)


async def instances(call: Call) -> Answer:
    """GET /api/v1/groups/{id}/instances."""
    query: PageQuery = call.query
    await call.deps.store.groups.get(call.id)
    page = await call.deps.store.instances.list(group_id=call.id, limit=query.limit, cursor=query.cursor)
    return Answer(InstancePage(items=[present_instance(row) for row in page.items], next_cursor=page.next_cursor))


async def events(call: Call) -> Answer:
    """GET /api/v1/groups/{id}/events."""
    query: InstanceEventQuery = call.query
    rows = await call.deps.store.groups.events(call.id, after=query.start, limit=query.limit)
    return Answer(page_of(rows, query.limit))
