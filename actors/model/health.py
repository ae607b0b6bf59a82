"""How an app is asked whether it works, and what the answers say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class HealthType(StrEnum):
    """What a probe does."""

    HTTP = "http"  # GET the path; 200 to 399 is an answer
    TCP = "tcp"  # open a connection
    NONE = "none"


class HealthState(StrEnum):
    """What the last probes say of an app."""

    UNKNOWN = "unknown"  # not probed often enough yet, or not at all
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """``port`` None is the instance's default port; ``interval`` and ``timeout`` are in seconds.

    ``failures`` is how many probes in a row must fail for an app to count as unhealthy.
    """

    type: HealthType = HealthType.NONE
    path: str = "/"
    port: int | None = None
    interval: float = 10.0
    timeout: float = 2.0
    failures: int = 2


NO_CHECK = HealthCheck()
