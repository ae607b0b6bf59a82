"""What is asked of the database before an instance is written: its image, its snapshot, room for it somewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from actors.model.errors import Conflict, InvalidInput
from actors.model.resources import Resources
from actors.model.states import NodeState, SnapshotState
from zeitwork.store.cursor import Cursor
from zeitwork.store.rows import NewInstance, ResourcesRow
from zeitwork.store.snapshot_rows import lock_snapshot


def check_snapshot(
    cursor: Cursor,
    snapshot_id: UUID,
    *,
    image_id: UUID,
    resources: Resources,
    environment: Mapping[str, str],
    command: Sequence[str],
    node_id: UUID | None,
) -> UUID:
    """Return the host that an instance made of this can go on from the snapshot on; it stays until the commit.

    Raises `Conflict` when the snapshot is not ready, `InvalidInput` that names the field in which the instance
    differs: a machine goes on as what it was.
    """
    row = lock_snapshot(cursor, snapshot_id, to_use=True)
    if row is None:
        raise InvalidInput(
            f"there is no snapshot {snapshot_id}", field="snapshot_id", fix="`zeitwork snapshots` lists them"
        )
    if row["state"] != SnapshotState.READY:
        creating = row["state"] == SnapshotState.CREATING
        reason = f": {row['reason']}" if row["reason"] else ""
        raise Conflict(
            f"the snapshot is {row['state']}{reason}",
            field="snapshot_id",
            fix="wait until it is ready" if creating else "choose another one",
            code="snapshot-not-ready",
        )
    if row["image_id"] != image_id:
        raise InvalidInput(
            "the snapshot is of another image", field="snapshot_id", fix="make a new instance from it instead"
        )
    for field, unit in (("vcpu", "vCPU"), ("memory", "MiB"), ("disk", "MiB")):
        if row[field] != getattr(resources, field):
            raise InvalidInput(
                f"the snapshot has {row[field]} {unit}, and goes on with what it had",
                field=f"resources.{field}",
                fix="leave the resources out to get the snapshot's",
            )
    for field, own, given in (
        ("environment_variables", row["environment"], dict(environment)),
        ("command", row["command"], list(command)),
    ):
        if own != given:
            raise InvalidInput(
                "a process that goes on from a snapshot keeps what it was started with",
                field=field,
                fix="leave it out to get the snapshot's",
            )
    if node_id not in (None, row["node_id"]):
        raise InvalidInput(
            f"the snapshot is on node {row['node_id']}, and can't go on elsewhere",
            field="node_id",
            fix="leave it out",
        )
    found: UUID = row["node_id"]
    return found


def check_image(cursor: Cursor, image_id: UUID) -> None:
    """Raise `InvalidInput` when there is no such image; it can't be deleted until the transaction ends."""
    # The lock makes a concurrent deletion of the image wait, and then see this instance.
    cursor.execute("select deleted_at from images where id = %s for share", (image_id,))
    row = cursor.fetchone()
    if row is None or row["deleted_at"] is not None:
        raise InvalidInput(f"there is no image {image_id}", field="image_id", fix="`zeitwork images` lists them")


def check_room(new: NewInstance, nodes: tuple[ResourcesRow, ...]) -> None:
    """Refuse what no node could hold even when it were empty. Raises `InvalidInput` with the numbers."""
    if new.node_id is not None:
        nodes = tuple(node for node in nodes if node.node_id == new.node_id)
        if not nodes:
            raise InvalidInput(f"there is no node {new.node_id}", field="node_id", fix="`zeitwork nodes` lists them")
    known = [node for node in nodes if node.capacity is not None and node.state is not NodeState.TERMINATED]
    if not known:
        return
    asked = new.resources
    most_vcpu = max(node.vcpu for node in known)
    if asked.vcpu > most_vcpu:
        raise InvalidInput(
            f"{asked.vcpu} vCPU asked for, the largest host has {most_vcpu} for instances",
            field="resources.vcpu",
            fix=f"ask for {most_vcpu} or less" if most_vcpu else "the host keeps all of its CPUs for the system",
        )
    usable = {node.node_id: node.memory - (node.capacity.memory_overhead if node.capacity else 0) for node in known}
    most_memory = max(0, *usable.values())
    if asked.memory > most_memory:
        raise InvalidInput(
            f"{asked.memory} MiB asked for, the largest host has {most_memory} MiB for one instance",
            field="resources.memory",
            fix=f"ask for {most_memory} MiB or less",
        )
    if not any(node.vcpu >= asked.vcpu and usable[node.node_id] >= asked.memory for node in known):
        raise InvalidInput(
            f"no host has {asked.vcpu} vCPU and {asked.memory} MiB together", field="resources", fix="ask for less"
        )
