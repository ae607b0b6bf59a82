"""Snapshots: what an instance's machine was at one moment, to go on from later."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec

from actors.model.ids import short_id
from actors.model.states import SnapshotState
from zeitwork.api.call import Answer, Call
from zeitwork.api.decode import Input
from zeitwork.api.instances import CONFIRMED, Ending, GivenResources, confirm, given_resources
from zeitwork.api.instances import present as present_instance
from zeitwork.api.paging import PageQuery
from zeitwork.api.spool import shown_source
from zeitwork.store.rows import SnapshotRow

Label = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,100}$(?!\n)", description="what people call it")]


class SnapshotQuery(PageQuery):
    """Parameters of the list; deleted snapshots only with ``state=deleted``."""

    instance_id: UUID | None = None
    state: SnapshotState | None = None


class NewSnapshot(Input):
    """A snapshot to take; ``name`` is a label and need not be the only one of its kind."""

    name: Label | None = None


class Restoring(Ending, kw_only=True):
    """A snapshot to go back to; needs ``confirm`` while the instance is alive, whose writable layer is lost.

    ``force`` and ``stop_timeout`` are how what runs is ended.
    """

    snapshot_id: UUID
    confirm: bool = False


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot. Only a ``ready`` one can be restored, on ``node_id`` only, as what it was made of.

    ``size`` is bytes on that host's disk. ``hypervisor`` with ``vmm_version``, ``guest`` (kernel and init) and ``cpu``
    are what it was taken with; all of these are known once it is ready.
    """

    id: UUID
    name: str | None
    instance_id: UUID
    instance: str
    placement_id: UUID
    node_id: UUID
    image_id: UUID
    image: str
    image_digest: str
    resources: GivenResources
    default_port: int
    state: SnapshotState
    reason: str
    size: int
    hypervisor: str | None
    vmm_version: str | None
    guest: str | None
    cpu: str | None
    created_at: datetime
    updated_at: datetime
    ready_at: datetime | None
    deleted_at: datetime | None


class SnapshotPage(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshots, oldest first."""

    items: list[Snapshot]
    next_cursor: str | None


def present(row: SnapshotRow) -> Snapshot:
    """Return a snapshot as the API shows it: not its environment, which may hold secrets."""
    return Snapshot(
        id=row.id,
        name=row.name,
        instance_id=row.instance_id,
        instance=row.instance_name or short_id(row.instance_id),
        placement_id=row.placement_id,
        node_id=row.node_id,
        image_id=row.image_id,
        image=shown_source(row.image_source),
        image_digest=row.image_digest,
        resources=given_resources(row.resources),
        default_port=row.default_port,
        state=row.state,
        reason=row.reason,
        size=row.size,
        hypervisor=row.hypervisor,
        vmm_version=row.vmm_version,
        guest=row.guest,
        cpu=row.cpu,
        created_at=row.created_at,
        updated_at=row.updated_at,
        ready_at=row.ready_at,
        deleted_at=row.deleted_at,
    )


async def listing(call: Call) -> Answer:
    """GET /api/v1/snapshots."""
    query: SnapshotQuery = call.query
    page = await call.deps.store.snapshots.list(
        instance_id=query.instance_id, state=query.state, limit=query.limit, cursor=query.cursor
    )
    return Answer(SnapshotPage(items=[present(row) for row in page.items], next_cursor=page.next_cursor))


async def get(call: Call) -> Answer:
    """GET /api/v1/snapshots/{id}."""
    return Answer(present(await call.deps.store.snapshots.get(call.id)))


async def delete(call: Call) -> Answer:
    """DELETE /api/v1/snapshots/{id}."""
    return Answer(present(await call.deps.store.snapshots.delete(call.id)), status=202)


async def take(call: Call) -> Answer:
    """POST /api/v1/instances/{id}/snapshot."""
    body: NewSnapshot = call.body
    return Answer(present(await call.deps.store.snapshots.create(call.id, name=body.name, id=call.token)), status=202)


async def restore(call: Call) -> Answer:
    """POST /api/v1/instances/{id}/restore."""
    body: Restoring = call.body
    await confirm(call, body.confirm, "going back to a snapshot", CONFIRMED)
    row = await call.deps.store.instances.restore(
        call.id, body.snapshot_id, force=body.force, stop_timeout=body.stop_timeout
    )
    return Answer(present_instance(row), status=202)
