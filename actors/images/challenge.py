"""Reading ``WWW-Authenticate``: which kind of proof a registry wants, and from where."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_SCHEME = re.compile(r"\s*,?\s*([A-Za-z0-9!#$%&'*+.^_`|~-]+)(?:\s+|$)")
_PARAMETER = re.compile(r"""\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))""")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to prove who asks: ``scheme`` in lower case, and its parameters."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Return the challenges of one or more headers; what can't be read is left out."""
    found: list[Challenge] = []
    for value in values:
        at = 0
        while at < len(value):
            parameter = _PARAMETER.match(value, at)
            if parameter and found:
                raw = parameter[2]
                text = re.sub(r"\\(.)", r"\1", raw) if raw is not None else parameter[3]
                found[-1].parameters[parameter[1].lower()] = text
                at = parameter.end()
                continue
            scheme = _SCHEME.match(value, at)
            if scheme is None:
                break
            found.append(Challenge(scheme[1].lower(), {}))
            at = scheme.end()
    return found
