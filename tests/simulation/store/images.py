"""The part of `zeitwork.store.images` that worlds need: images are there or not."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from actors.model.errors import NotFound
from actors.model.image import ImageConfig, is_upload
from actors.model.states import ImageStatus, InstanceState
from tests.simulation.store import tables
from tests.simulation.store.database import Transaction, moment, moment_or_none
from tests.simulation.store.units import Units
from zeitwork.store.rows import ImageRow


def image_row(tx: Transaction, image_id: UUID) -> ImageRow:
    """Return an image as it is handed out. Raises `NotFound`."""
    row = tx.database.images.get(image_id)
    if row is None:
        raise NotFound(f"there is no image {image_id}", fix="`zeitwork images` lists them")
    return ImageRow(
        id=row.id,
        source=row.source,
        status=row.status,
        digest=row.digest,
        config=row.config,
        size=row.size,
        percent=row.percent,
        message=row.message,
        error=row.error,
        error_field=row.error_field,
        error_fix=row.error_fix,
        node_id=row.node_id,
        used_by=sum(
            1
            for instance in tx.database.instances
            if instance.image_id == image_id and instance.state is not InstanceState.TERMINATED
        )
        + sum(1 for group in tx.database.groups if group.template.image_id == image_id and group.gone_at is None),
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
        deleted_at=moment_or_none(row.deleted_at),
    )


class Images:
    """Images, without pulls."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def create(
        self, source: str, *, id: UUID | None = None, node_id: UUID | None = None, who: str = "api"
    ) -> ImageRow:
        """Ask for an image; asking with the same ``id`` again returns what there is."""

        def unit(tx: Transaction) -> ImageRow:
            image_id = id or tx.database.new_id()
            if tx.database.images.get(image_id) is None:
                tx.database.images.put(image_id, tables.Image(image_id, source, tx.now, tx.now, node_id=node_id))
                _changed(tx, image_id, ImageStatus.PENDING, f"asked for {source}", who)
            return image_row(tx, image_id)

        return await self._units.run(unit, name="images.create")

    async def get(self, image_id: UUID) -> ImageRow:
        """Return an image. Raises `NotFound`."""
        return await self._units.read(lambda tx: image_row(tx, image_id), name="images.get")

    async def ready(self, image_id: UUID, digest: str, config: ImageConfig, size: int) -> None:
        """Record that the root filesystem exists."""

        def unit(tx: Transaction) -> None:
            row = tx.database.images.get(image_id)
            if row is None or (row.status, row.digest) == (ImageStatus.READY, digest):
                return
            tx.database.images.put(
                image_id,
                replace(
                    row,
                    status=ImageStatus.READY,
                    digest=digest,
                    config=config,
                    size=size,
                    percent=100,
                    message="",
                    error=None,
                    error_field=None,
                    error_fix=None,
                    updated_at=tx.now,
                ),
            )
            if row.node_id is not None:
                tx.database.node_images.put((image_id, row.node_id), True)
            _changed(tx, image_id, ImageStatus.READY, digest, "images")
            _wake_instances(tx, image_id)

        await self._units.run(unit, name="images.ready")

    async def record_cached(self, node_id: UUID, digests: frozenset[str]) -> None:
        """Write which images a host has in its cache, by their digests. Others are not there any more."""

        def unit(tx: Transaction) -> None:
            if tx.database.nodes.get(node_id) is None:
                return
            have = {row.id for row in tx.database.images if row.digest in digests and row.deleted_at is None}
            for image_id, on in [key for key, _ in tx.database.node_images.items()]:
                if on == node_id and image_id not in have:
                    tx.database.node_images.remove((image_id, on))
            for image_id in sorted(have):
                if tx.database.node_images.get((image_id, node_id)) is None:
                    tx.database.node_images.put((image_id, node_id), True)
                    _wake_uploaded(tx, image_id)

        await self._units.run(unit, name="images.record_cached")

    async def failed(self, image_id: UUID, error: str, field: str | None, fix: str | None) -> None:
        """Record why the image can't be had."""

        def unit(tx: Transaction) -> None:
            row = tx.database.images.get(image_id)
            if row is None or row.status not in (ImageStatus.PENDING, ImageStatus.BUILDING):
                return
            tx.database.images.put(
                image_id,
                replace(
                    row,
                    status=ImageStatus.FAILED,
                    error=error,
                    error_field=field,
                    error_fix=fix,
                    message="",
                    updated_at=tx.now,
                ),
            )
            _changed(tx, image_id, ImageStatus.FAILED, error, "images")
            _wake_instances(tx, image_id)

        await self._units.run(unit, name="images.failed")


def _changed(tx: Transaction, image_id: UUID, status: ImageStatus, message: str, who: str) -> None:
    tx.record(who, "image.status", "image", image_id, {"status": status, "message": message})
    tx.announce("zw_images", image_id)


def _wake_instances(tx: Transaction, image_id: UUID) -> None:
    for instance in tx.database.instances:
        if instance.image_id == image_id and instance.state is InstanceState.PENDING:
            tx.announce("zw_instances", instance.id)


def _wake_uploaded(tx: Transaction, image_id: UUID) -> None:
    """Tell the scheduler about what waited for a host with its image."""
    image = tx.database.images.get(image_id)
    if image is None or not is_upload(image.source):
        return
    for instance in tx.database.instances:
        if instance.image_id == image_id and instance.state in (InstanceState.PENDING, InstanceState.UNKNOWN):
            tx.announce("zw_instances", instance.id)
