"""Health checks as JSON in the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.model.health import NO_CHECK, HealthCheck, HealthType


def check_to_json(check: HealthCheck) -> dict[str, Any] | None:
    """Return what is kept of a check, None when there is none."""
    if check.type is HealthType.NONE:
        return None
    return {
        "type": check.type.value,
        "path": check.path,
        "port": check.port,
        "interval": check.interval,
        "timeout": check.timeout,
        "failures": check.failures,
    }


def check_from_json(value: Mapping[str, Any] | None) -> HealthCheck:
    """Return a check as it was kept."""
    if value is None:
        return NO_CHECK
    return HealthCheck(
        type=HealthType(value["type"]),
        path=value["path"],
        port=value["port"],
        interval=value["interval"],
        timeout=value["timeout"],
        failures=value["failures"],
    )
