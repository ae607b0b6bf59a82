"""Which hosts have which images in their cache. Writes the table ``node_images``.

For what is in a registry that is a hint: any host can fetch it. An upload can only run where it is.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from zeitwork.store.arrays import uuids
from zeitwork.store.cursor import Cursor

#: The image ``m`` was uploaded (`actors.model.image.is_upload`).
UPLOADED = "starts_with(m.source, 'archive:')"


def write_node_images(cursor: Cursor, node_id: UUID, digests: Collection[str]) -> None:
    """Write that a host has the images of these digests in its cache, and no others."""
    values = {"node": node_id, "digests": list(digests)}
    cursor.execute(
        "delete from node_images where node_id = %(node)s and image_id not in "
        "(select id from images where digest = any(%(digests)s) and deleted_at is null)",
        values,
    )
    cursor.execute(
        "insert into node_images (node_id, image_id) select %(node)s, id from images "
        "where digest = any(%(digests)s) and deleted_at is null and exists (select from nodes where id = %(node)s) "
        "on conflict do nothing returning image_id",
        values,
    )
    new = [row["image_id"] for row in cursor]
    if new:
        # Those that waited for a host with their image may be placed now.
        cursor.execute(
            "select pg_notify('zw_instances', i.id::text) from instances i join images m on m.id = i.image_id "
            f"where m.id = any(%s::uuid[]) and {UPLOADED} and i.state in ('pending', 'unknown')".encode(),
            (uuids(new),),
        )


def add_node_image(cursor: Cursor, node_id: UUID, image_id: UUID) -> None:
    """Write that a host has an image in its cache."""
    cursor.execute(
        "insert into node_images (node_id, image_id) values (%s, %s) on conflict do nothing", (node_id, image_id)
    )


def nodes_with(cursor: Cursor, image_ids: Collection[UUID]) -> dict[UUID, frozenset[UUID]]:
    """Return the hosts that have each of these images."""
    cursor.execute(
        "select image_id, array_agg(node_id) as nodes from node_images where image_id = any(%s::uuid[]) "
        "group by image_id",
        (uuids(image_ids),),
    )
    return {row["image_id"]: frozenset(row["nodes"]) for row in cursor}


def only_there(cursor: Cursor, placement_ids: Collection[UUID]) -> set[UUID]:
    """Return those of these placements whose image was uploaded and is on no other host that is ready."""
    cursor.execute(
        "select p.id from placements p join instances i on i.id = p.instance_id join images m on m.id = i.image_id "
        f"where p.id = any(%s::uuid[]) and {UPLOADED} and not exists (select from node_images h "
        "join nodes n on n.id = h.node_id where h.image_id = m.id and n.id <> p.node_id "
        "and n.state = 'ready')".encode(),
        (uuids(placement_ids),),
    )
    return {row["id"] for row in cursor}
