"""What the images actor (name ``images``) understands."""

from __future__ import annotations

from dataclasses import dataclass

from actors.model.image import RootImage
from runtime import Message, Request

#: The actor's name on every host.
NAME = "images"


@dataclass(frozen=True, slots=True)
class EnsureRoot(Request[RootImage]):
    """Give me the root filesystem of a manifest digest. Fails with a `actors.model.errors.NotFound` if not here."""

    digest: str


@dataclass(frozen=True, slots=True)
class Wake(Message):
    """Look for images that were asked for. Sent by notifications and by a slow timer; a lost one costs time only."""

    cause: str = "timer"


@dataclass(frozen=True, slots=True)
class Collect(Message):
    """Remove root filesystems that no image needs any more, and downloads beyond the bound."""

    cause: str = "timer"


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """What images take on this host's disk, in bytes, and what is free there."""

    roots: int
    root_bytes: int
    blobs: int
    blob_bytes: int
    free_bytes: int
    pulling: int


@dataclass(frozen=True, slots=True)
class Usage(Request[ImageUsage]):
    """How full is the cache?"""
