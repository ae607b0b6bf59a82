"""Plain forms of what stores hand out, in which two of them can be compared: names for ids, ages for times."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any
from uuid import UUID

#: Seconds within which two times are the same: real ones are taken a little later in a transaction.
_SAME = 2.0
#: Numbers above this are moments (Unix seconds), those below are spans.
_MOMENT = 1e9
#: What an instance without a name is called: a part of its id.
_SHORT = re.compile(r"i-[a-z2-7]{10}")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class About:
    """A number of seconds, more or less."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __eq__(self, other: object) -> bool:
        return isinstance(other, About) and (
            abs(self.seconds - other.seconds) <= _SAME or self.seconds == other.seconds
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"~{self.seconds:.2f}s"


class Plain:
    """Makes plain forms of one side's values. ``names`` are of ids, ``now`` is its present moment."""

    def __init__(self, names: Mapping[UUID, str], now: float) -> None:
        self._names = names
        self._now = now

    def of(self, value: Any) -> Any:
        """Return the plain form of anything."""
        if value is None or type(value) in (bool, int):
            return value
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, str):
            if "-" not in value:
                return value
            return _SHORT.sub("i-short", _ID.sub(lambda found: self._name(UUID(found.group())), value))
        if isinstance(value, UUID):
            return self._name(value)
        if isinstance(value, datetime):
            return About(self._now - value.timestamp())
        if isinstance(value, float):
            return About(self._now - value if value > _MOMENT else value)
        if isinstance(value, IPv4Address | IPv6Address | IPv4Network | IPv6Network):
            return str(value)
        return self._of_many(value)

    def _of_many(self, value: Any) -> Any:
        if is_dataclass(value):
            return {field.name: self.of(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, Mapping):
            return {self.of(key): self.of(item) for key, item in value.items()}
        if isinstance(value, Set):
            return sorted(map(repr, map(self.of, value)))
        if isinstance(value, Sequence):
            return [self.of(item) for item in value]
        if isinstance(value, BaseException):
            return type(value).__name__
        return repr(value)

    def _name(self, identifier: UUID) -> str:
        return self._names.get(identifier, "nobody")


def differences(real: Any, double: Any, where: str = "") -> list[str]:
    """Return where two plain forms differ, in words."""
    if isinstance(real, dict) and isinstance(double, dict):
        found = []
        for key in sorted(real.keys() | double.keys(), key=str):
            path = f"{where}.{key}"
            if key not in real:
                found.append(f"{path}: only the double has {double[key]!r}")
            elif key not in double:
                found.append(f"{path}: only Postgres has {real[key]!r}")
            else:
                found += differences(real[key], double[key], path)
        return found
    if isinstance(real, list) and isinstance(double, list) and len(real) == len(double):
        return [
            line
            for place, (one, other) in enumerate(zip(real, double, strict=True))
            for line in differences(one, other, f"{where}[{place}]")
        ]
    return [] if real == double else [f"{where}: Postgres has {real!r}, the double {double!r}"]
