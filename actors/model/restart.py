"""What somebody wants to happen when an app ends by itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RestartMode(StrEnum):
    """When an instance that ended without being asked is started again."""

    ALWAYS = "always"  # however it ended
    ON_FAILURE = "on-failure"  # unless its app exited with status 0
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """``max_attempts`` is how many failures in a row are followed by another try; None for any number."""

    mode: RestartMode = RestartMode.ALWAYS
    max_attempts: int | None = None


ALWAYS = RestartPolicy()
NEVER = RestartPolicy(RestartMode.NEVER)
