"""What the composition root may set about images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.images.limits import DEFAULT_LIMITS, Limits
from actors.images.retry import DEFAULT_POLICY, RetryPolicy
from actors.model.units import GIB


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Times in seconds, sizes in bytes.

    ``docker_config`` is a file as ``docker login`` writes it. ``blob_cache`` bounds downloads kept for later pulls.
    A root filesystem that no image needs is kept for ``root_age`` after its last use.
    """

    limits: Limits = DEFAULT_LIMITS
    policy: RetryPolicy = DEFAULT_POLICY
    docker_config: Path | None = None
    pull_deadline: float = 3600.0
    pack_deadline: float = 1800.0
    concurrent_pulls: int = 2
    concurrent_downloads: int = 3
    blob_cache: int = 2 * GIB
    root_age: float = 3600.0
    spool_age: float = 86400.0
