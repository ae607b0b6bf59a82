"""What the images actor needs of storage."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from actors.model.image import ImageConfig
from actors.model.records import ImageRecord


class ImageStore(Protocol):
    """Images that were asked for. Each change of status is kept in the image's history."""

    async def claim_pending(self, node_id: UUID) -> ImageRecord | None:
        """Take the oldest pending image for this host (``FOR UPDATE SKIP LOCKED``) and make it ``building``.

        An upload is only for the host that it was sent to. What a dead host was building is taken over from it.
        """

    async def reclaim(self, node_id: UUID) -> int:
        """Make this host's ``building`` images pending again (it died in the middle); return how many."""

    async def progress(self, image_id: UUID, percent: int, message: str) -> None:
        """Record how far a pull is, 0-100."""

    async def ready(self, image_id: UUID, digest: str, config: ImageConfig, size: int) -> None:
        """Record that the root filesystem exists on this host; ``size`` in bytes."""

    async def failed(self, image_id: UUID, error: str, field: str | None, fix: str | None) -> None:
        """Record why the image can't be had."""

    async def digests_in_use(self) -> set[str]:
        """Return digests of images not deleted: the others may be collected."""

    async def record_cached(self, node_id: UUID, digests: frozenset[str]) -> None:
        """Write which images this host has in its cache, by their digests. Others are not there any more."""
