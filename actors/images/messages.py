"""What the images actor (name ``images``) understands."""

from __future__ import annotations

from dataclasses import dataclass

from actors.model.image import RootImage
from runtime import Message, Request

#: The actor's name on every host.
NAME = "images"


@dataclass(frozen=True, slots=True)
class Fetching:
    """A root filesystem is on its way to this host; ``reason`` tells people how far it is."""

    reason: str


@dataclass(frozen=True, slots=True)
class EnsureRoot(Request[RootImage | Fetching]):
    """Give me the root filesystem of a manifest digest; ``source`` is what its image was made from.

    What is not here is fetched by its digest when the source is a reference. The answer is `Fetching` meanwhile, about
    once a second: ask again, since what nobody asks for is given up. Fails with an `actors.model.errors.NotFound` when
    it is not here and was uploaded elsewhere, and with the registry's own words when that does not give it.
    """

    digest: str
    source: str = ""


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
