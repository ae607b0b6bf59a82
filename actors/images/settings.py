"""What the composition root may set about images."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from actors.images.limits import DEFAULT_LIMITS, Limits
from actors.images.retry import DEFAULT_POLICY, RetryPolicy
from actors.model.units import GIB


def docker_config() -> Path:
    """Return where ``docker login`` writes for the user that this process runs as."""
    directory = os.environ.get("DOCKER_CONFIG")
    return (Path(directory) if directory else Path.home() / ".docker") / "config.json"


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Times in seconds, sizes in bytes.

    ``docker_config`` is a file as ``docker login`` writes it. ``blob_cache`` bounds downloads kept for later pulls.
    ``concurrent_fetches`` is how many images that placements wait for are fetched at once, beside what was asked for.
    A root filesystem that no image needs is kept for ``root_age`` after its last use.
    """

    limits: Limits = DEFAULT_LIMITS
    policy: RetryPolicy = DEFAULT_POLICY
    docker_config: Path | None = field(default_factory=docker_config)
    pull_deadline: float = 3600.0
    pack_deadline: float = 1800.0
    concurrent_pulls: int = 2
    concurrent_fetches: int = 2
    concurrent_downloads: int = 3
    blob_cache: int = 2 * GIB
    root_age: float = 3600.0
    spool_age: float = 86400.0
