"""Which hosts have which images in their cache: a hint for the scheduler. Writes the table ``node_images``."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from zeitwork.store.cursor import Cursor


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
        "on conflict do nothing",
        values,
    )
