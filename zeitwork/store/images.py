"""Images and their history. Writes the tables ``images`` and ``image_history``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from actors.model.errors import Conflict, NotFound
from actors.model.image import ImageConfig
from actors.model.records import ImageRecord
from actors.model.states import ImageStatus
from zeitwork.store.identifiers import new_id
from zeitwork.store.journal import announce, record
from zeitwork.store.node_images import UPLOADED, add_node_image, write_node_images
from zeitwork.store.paging import check_limit, page, parse_cursor
from zeitwork.store.rows import HistoryRow, ImageRow, Page
from zeitwork.store.units import Cursor, Units

_SELECT = """
select i.*, (select count(*) from instances where image_id = i.id and state <> 'terminated')
    + (select count(*) from snapshots where image_id = i.id and state in ('creating', 'ready'))
    + (select count(*) from instance_groups where image_id = i.id and gone_at is null) as used_by
from images i
"""
# For one host: what is pending for anyone or for itself (an upload is only there), then what a dead one was building.
_CLAIM = """
update images set status = 'building', node_id = %(node)s, percent = 0, message = '', updated_at = now()
where id = (select id from images where status = 'pending' and deleted_at is null
    and (node_id is null or node_id = %(node)s) order by id limit 1 for update skip locked) returning *
"""
_TAKE_OVER = f"""
update images set status = 'building', node_id = %(node)s, percent = 0, message = '', updated_at = now()
where id = (select m.id from images m join nodes n on n.id = m.node_id where m.status = 'building'
    and m.deleted_at is null and n.state in ('down', 'terminated') and not {UPLOADED} and n.id <> %(node)s
    order by m.id limit 1 for update of m skip locked) returning *
"""
#: Instances that a refusal names.
_NAMED = 5


def config_to_json(config: ImageConfig) -> Jsonb:
    """Return an image's configuration as the database keeps it."""
    return Jsonb(asdict(config))


def config_from_json(value: Mapping[str, Any]) -> ImageConfig:
    """Return what `config_to_json` wrote; fields of a newer version are left out."""
    return ImageConfig(
        entrypoint=tuple(value.get("entrypoint", ())),
        cmd=tuple(value.get("cmd", ())),
        env=tuple(value.get("env", ())),
        working_dir=value.get("working_dir", "/"),
        user=value.get("user", ""),
        exposed_ports=tuple(value.get("exposed_ports", ())),
        stop_signal=value.get("stop_signal", "SIGTERM"),
        labels=dict(value.get("labels", {})),
    )


def _config(row: Mapping[str, Any]) -> ImageConfig | None:
    return None if row["config"] is None else config_from_json(row["config"])


def _image_row(row: Mapping[str, Any]) -> ImageRow:
    return ImageRow(
        id=row["id"],
        source=row["source"],
        status=ImageStatus(row["status"]),
        digest=row["digest"],
        config=_config(row),
        size=row["size"],
        percent=row["percent"],
        message=row["message"],
        error=row["error"],
        error_field=row["error_field"],
        error_fix=row["error_fix"],
        node_id=row["node_id"],
        used_by=row["used_by"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        deleted_at=row["deleted_at"],
    )


def _get(cursor: Cursor, image_id: UUID) -> ImageRow:
    cursor.execute(f"{_SELECT} where i.id = %s".encode(), (image_id,))
    row = cursor.fetchone()
    if row is None:
        raise _missing(image_id)
    return _image_row(row)


def _missing(image_id: UUID) -> NotFound:
    return NotFound(f"there is no image {image_id}", fix="`zeitwork images` lists them")


def _changed(cursor: Cursor, image_id: UUID, status: ImageStatus, message: str, who: str) -> None:
    """Keep a change of status in the image's history and announce it."""
    cursor.execute(
        "insert into image_history (image_id, status, message, who) values (%s, %s, %s, %s)",
        (image_id, status, message, who),
    )
    record(cursor, who, "image.status", "image", image_id, {"status": status, "message": message})
    announce(cursor, "zw_images", image_id)


def _wake_instances(cursor: Cursor, image_id: UUID) -> None:
    """Tell the scheduler about the instances that wait for this image."""
    cursor.execute(
        "select pg_notify('zw_instances', id::text) from instances where image_id = %s and state = 'pending'",
        (image_id,),
    )


class Images:
    """Images; also `actors.images.store.ImageStore`."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def create(
        self, source: str, *, id: UUID | None = None, node_id: UUID | None = None, who: str = "api"
    ) -> ImageRow:
        """Ask for an image. ``source`` is a registry reference or the name of what was put into a host's spool.

        ``node_id`` is that host, the only one that can make it. Creating the same ``id`` again returns what there is.
        """
        image_id = id or new_id()

        def unit(cursor: Cursor) -> ImageRow:
            cursor.execute(
                "insert into images (id, source, node_id) values (%s, %s, %s) on conflict (id) do nothing",
                (image_id, source, node_id),
            )
            if cursor.rowcount:
                _changed(cursor, image_id, ImageStatus.PENDING, f"asked for {source}", who)
            return _get(cursor, image_id)

        return await self._units.run(unit, name="images.create")

    async def get(self, image_id: UUID) -> ImageRow:
        """Return an image, a deleted one too. Raises `NotFound`."""
        return await self._units.read(lambda cursor: _get(cursor, image_id), name="images.get")

    async def list(
        self, *, status: ImageStatus | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[ImageRow]:
        """Return images that are not deleted, oldest first."""
        after = parse_cursor(cursor)
        check_limit(limit)

        def unit(cursor: Cursor) -> Page[ImageRow]:
            cursor.execute(
                f"{_SELECT} where i.id > %(after)s and i.deleted_at is null "
                "and (%(status)s::text is null or i.status = %(status)s) order by i.id limit %(limit)s".encode(),
                {"after": after, "status": status, "limit": limit + 1},
            )
            return page(cursor.fetchall(), limit, _image_row)

        return await self._units.read(unit, name="images.list")

    async def delete(self, image_id: UUID, *, who: str = "api") -> ImageRow:
        """Delete an image. Raises `Conflict` with the groups, instances or snapshots that use it; twice is harmless."""

        def unit(cursor: Cursor) -> ImageRow:
            cursor.execute("select deleted_at from images where id = %s for update", (image_id,))
            row = cursor.fetchone()
            if row is None:
                raise _missing(image_id)
            if row["deleted_at"] is None:
                _refuse_while_used(cursor, image_id)
                cursor.execute("update images set deleted_at = now(), updated_at = now() where id = %s", (image_id,))
                record(cursor, who, "image.deleted", "image", image_id)
                announce(cursor, "zw_images", image_id)
            return _get(cursor, image_id)

        return await self._units.run(unit, name="images.delete")

    async def history(self, image_id: UUID) -> tuple[HistoryRow, ...]:
        """Return every change of an image's status, oldest first. Raises `NotFound`."""

        def unit(cursor: Cursor) -> tuple[HistoryRow, ...]:
            _get(cursor, image_id)
            cursor.execute(
                "select at, status, message, who from image_history where image_id = %s order by id", (image_id,)
            )
            return tuple(
                HistoryRow(row["at"], ImageStatus(row["status"]), row["message"], row["who"]) for row in cursor
            )

        return await self._units.read(unit, name="images.history")

    async def counts(self) -> dict[ImageStatus, int]:
        """Return how many images that are not deleted have each status, zeros included."""

        def unit(cursor: Cursor) -> dict[ImageStatus, int]:
            cursor.execute("select status, count(*) as count from images where deleted_at is null group by status")
            return dict.fromkeys(ImageStatus, 0) | {ImageStatus(row["status"]): row["count"] for row in cursor}

        return await self._units.read(unit, name="images.counts")

    async def claim_pending(self, node_id: UUID) -> ImageRecord | None:
        """Take the oldest pending image for this host (``FOR UPDATE SKIP LOCKED``) and make it ``building``.

        An upload is only for the host that it was sent to. What a dead host was building is taken over from it.
        """

        def unit(cursor: Cursor) -> ImageRecord | None:
            cursor.execute(_CLAIM, {"node": node_id})
            row = cursor.fetchone()
            if row is None:
                cursor.execute(_TAKE_OVER.encode(), {"node": node_id})
                row = cursor.fetchone()
            if row is None:
                return None
            _changed(cursor, row["id"], ImageStatus.BUILDING, "", "images")
            return ImageRecord(
                id=row["id"],
                source=row["source"],
                status=ImageStatus.BUILDING,
                digest=row["digest"],
                config=_config(row),
                size=row["size"],
                error=row["error"],
            )

        return await self._units.run(unit, name="images.claim_pending")

    async def reclaim(self, node_id: UUID) -> int:
        """Make this host's ``building`` images pending again (it died in the middle); return how many."""

        def unit(cursor: Cursor) -> int:
            cursor.execute(
                "update images m set status = 'pending', percent = 0, message = '', updated_at = now(), "
                f"node_id = case when {UPLOADED} then node_id end "
                "where node_id = %s and status = 'building' returning id".encode(),
                (node_id,),
            )
            rows = cursor.fetchall()
            for row in rows:
                _changed(cursor, row["id"], ImageStatus.PENDING, "its host was restarted", "images")
            return len(rows)

        return await self._units.run(unit, name="images.reclaim")

    async def progress(self, image_id: UUID, percent: int, message: str) -> None:
        """Record how far a pull is, 0-100."""

        def unit(cursor: Cursor) -> None:
            cursor.execute(
                "update images set percent = %s, message = %s, updated_at = now() "
                "where id = %s and status = 'building'",
                (percent, message, image_id),
            )
            if cursor.rowcount:
                announce(cursor, "zw_images", image_id)

        await self._units.run(unit, name="images.progress")

    async def ready(self, image_id: UUID, digest: str, config: ImageConfig, size: int) -> None:
        """Record that the root filesystem exists on this host; ``size`` in bytes."""

        def unit(cursor: Cursor) -> None:
            # A doubled report changes nothing: the first one's answer may have been lost.
            cursor.execute(
                "update images set status = 'ready', digest = %s, config = %s, size = %s, percent = 100, message = '', "
                "error = null, error_field = null, error_fix = null, updated_at = now() "
                "where id = %s and not (status = 'ready' and digest = %s) returning node_id",
                (digest, config_to_json(config), size, image_id, digest),
            )
            row = cursor.fetchone()
            if row is not None:
                if row["node_id"] is not None:
                    # The host tells of its cache in a moment; an upload can be placed nowhere until this is known.
                    add_node_image(cursor, row["node_id"], image_id)
                _changed(cursor, image_id, ImageStatus.READY, digest, "images")
                _wake_instances(cursor, image_id)

        await self._units.run(unit, name="images.ready")

    async def failed(self, image_id: UUID, error: str, field: str | None, fix: str | None) -> None:
        """Record why the image can't be had."""

        def unit(cursor: Cursor) -> None:
            cursor.execute(
                "update images set status = 'failed', error = %s, error_field = %s, error_fix = %s, message = '', "
                "updated_at = now() where id = %s and status in ('pending', 'building')",
                (error, field, fix, image_id),
            )
            if cursor.rowcount:
                _changed(cursor, image_id, ImageStatus.FAILED, error, "images")
                _wake_instances(cursor, image_id)

        await self._units.run(unit, name="images.failed")

    async def digests_in_use(self) -> set[str]:
        """Return digests of images not deleted: the others may be collected."""

        def unit(cursor: Cursor) -> set[str]:
            cursor.execute("select distinct digest from images where deleted_at is null and digest is not null")
            return {row["digest"] for row in cursor}

        return await self._units.read(unit, name="images.digests_in_use")

    async def record_cached(self, node_id: UUID, digests: frozenset[str]) -> None:
        """Write which images a host has in its cache, by their digests. Others are not there any more."""
        await self._units.run(lambda cursor: write_node_images(cursor, node_id, digests), name="images.record_cached")


def _refuse_while_used(cursor: Cursor, image_id: UUID) -> None:
    # First the groups: whoever deletes their members gets them again.
    cursor.execute(
        "select name, count(*) over () as total from instance_groups "
        "where image_id = %s and gone_at is null order by id limit %s",
        (image_id, _NAMED),
    )
    rows = cursor.fetchall()
    if rows:
        named = ", ".join(row["name"] for row in rows)
        more = rows[0]["total"] - len(rows)
        raise Conflict(
            f"the image is used by group {named}{f' and {more} more' if more else ''}",
            fix="remove it first: `zeitwork groups` lists them",
        )
    cursor.execute(
        "select coalesce(name, id::text) as name, count(*) over () as total from instances "
        "where image_id = %s and state <> 'terminated' order by id limit %s",
        (image_id, _NAMED),
    )
    rows = cursor.fetchall()
    if rows:
        named = ", ".join(row["name"] for row in rows)
        more = rows[0]["total"] - len(rows)
        raise Conflict(
            f"the image is used by {named}{f' and {more} more' if more else ''}",
            fix="delete those instances first",
        )
    # After the instances: what was taken of one that has ended since is seen here.
    cursor.execute(
        "select id, count(*) over () as total from snapshots where image_id = %s and state in ('creating', 'ready') "
        "order by id limit 1",
        (image_id,),
    )
    found = cursor.fetchone()
    if found is not None:
        more = f" and {found['total'] - 1} more" if found["total"] > 1 else ""
        raise Conflict(
            f"the image is used by snapshot {found['id']}{more}",
            fix="delete its snapshots first: `zeitwork snapshots` lists them",
        )
