"""Images and their history. Writes the tables ``images`` and ``image_history``."""

from __future__ import annotations

from uuid import UUID

from actors.model.image import ImageConfig
from actors.model.records import ImageRecord
from actors.model.states import ImageStatus
from zeitwork.store.rows import HistoryRow, ImageRow, Page
from zeitwork.store.units import Units


class Images:
    """Images; also `actors.images.store.ImageStore`."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def create(self, source: str, *, id: UUID | None = None, who: str = "api") -> ImageRow:
        """Ask for an image. ``source`` is a registry reference or the name of what was put into the spool.

        Creating the same ``id`` again returns what there is.
        """
        raise NotImplementedError

    async def get(self, image_id: UUID) -> ImageRow:
        """Return an image, a deleted one too. Raises `NotFound`."""
        raise NotImplementedError

    async def list(
        self, *, status: ImageStatus | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[ImageRow]:
        """Return images that are not deleted, oldest first."""
        raise NotImplementedError

    async def delete(self, image_id: UUID, *, who: str = "api") -> ImageRow:
        """Delete an image. Raises `Conflict` with the instances that use it; deleting it twice is harmless."""
        raise NotImplementedError

    async def history(self, image_id: UUID) -> tuple[HistoryRow, ...]:
        """Return every change of an image's status, oldest first. Raises `NotFound`."""
        raise NotImplementedError

    async def claim_pending(self, node_id: UUID) -> ImageRecord | None:
        """Take the oldest pending image for this host (``FOR UPDATE SKIP LOCKED``) and make it ``building``."""
        raise NotImplementedError

    async def reclaim(self, node_id: UUID) -> int:
        """Make this host's ``building`` images pending again (it died in the middle); return how many."""
        raise NotImplementedError

    async def progress(self, image_id: UUID, percent: int, message: str) -> None:
        """Record how far a pull is, 0-100."""
        raise NotImplementedError

    async def ready(self, image_id: UUID, digest: str, config: ImageConfig, size: int) -> None:
        """Record that the root filesystem exists on this host; ``size`` in bytes."""
        raise NotImplementedError

    async def failed(self, image_id: UUID, error: str, field: str | None, fix: str | None) -> None:
        """Record why the image can't be had."""
        raise NotImplementedError

    async def digests_in_use(self) -> set[str]:
        """Return digests of images not deleted: the others may be collected."""
        raise NotImplementedError
