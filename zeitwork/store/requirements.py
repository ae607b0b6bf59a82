"""What instances ask of hosts, and taints, as JSON in the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from actors.model.scheduling import ANYWHERE, Requirements, Strategy, Taint


def taints_to_json(taints: Iterable[Taint]) -> list[dict[str, str]]:
    """Return what is kept of taints or tolerations."""
    return [{"key": taint.key, "value": taint.value} for taint in taints]


def taints_from_json(value: Iterable[Mapping[str, Any]]) -> tuple[Taint, ...]:
    """Return taints or tolerations as they were kept."""
    return tuple(Taint(item["key"], item.get("value", "")) for item in value)


def requirements_to_json(wanted: Requirements) -> dict[str, Any]:
    """Return what is kept of requirements: only what is asked for, so that nothing is an empty object."""
    kept = {
        "region": wanted.region,
        "labels": dict(wanted.labels),
        "hypervisor": wanted.hypervisor,
        "architecture": wanted.architecture,
        "tolerations": taints_to_json(wanted.tolerations),
        "strategy": None if wanted.strategy is None else wanted.strategy.value,
    }
    return {name: item for name, item in kept.items() if item}


def requirements_from_json(value: Mapping[str, Any]) -> Requirements:
    """Return requirements as they were kept; fields of a newer version are left out."""
    if not value:
        return ANYWHERE
    return Requirements(
        region=value.get("region"),
        labels=tuple(sorted(value.get("labels", {}).items())),
        hypervisor=value.get("hypervisor"),
        architecture=value.get("architecture"),
        tolerations=taints_from_json(value.get("tolerations", ())),
        strategy=None if value.get("strategy") is None else Strategy(value["strategy"]),
    )
