"""What can be wrong with an image, in words for people."""

from __future__ import annotations

import errno
from pathlib import Path

from actors.model.errors import Failed, InvalidInput, Problem, Unavailable

FULL_DISK = "full-disk"


class BadReference(InvalidInput):
    """The image reference can't be read."""

    code = "bad-reference"

    def __init__(self, detail: str, fix: str) -> None:
        super().__init__(detail, field="reference", fix=fix)


class ImageRefused(InvalidInput):
    """The image is broken, hostile, or not for this kind of machine. ``field`` is filled in by whoever knows it."""

    code = "image-refused"


class RegistryUnavailable(Unavailable):
    """The registry can't be reached or does not answer properly."""

    code = "registry-unavailable"

    def __init__(self, detail: str, fix: str) -> None:
        super().__init__(detail, field="reference", fix=fix)


def full_disk(where: Path) -> Problem:
    """Return the problem of a disk without room, at ``where``."""
    return Failed(
        f"the disk that holds {where} is full",
        fix="free space there or delete images that are no longer needed, then add the image again",
        code=FULL_DISK,
        status=507,
    )


def is_full_disk(error: BaseException) -> bool:
    """Return whether the operating system refused a write for want of room (space, quota or inodes)."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
