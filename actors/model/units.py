"""Memory and disk sizes. Inside Zeitwork memory is an integer of MiB; this is the one place that converts."""

from __future__ import annotations

import re

from actors.model.errors import InvalidInput

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_FACTORS = {
    "": MIB, "b": 1,
    "k": KIB, "m": MIB, "g": GIB, "t": 1024 * GIB,
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": 1024 * GIB,
    "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_mib(text: str | int, *, field: str = "memory") -> int:
    """Return a whole number of MiB from ``512``, ``"512MiB"``, ``"1.5GiB"`` or ``"2GB"``, rounded up.

    A bare number is MiB. ``KB``, ``MB`` and ``GB`` are powers of 1000, ``K``, ``M``, ``G``, ``KiB``, ``MiB`` and
    ``GiB`` powers of 1024. Raises `InvalidInput` that names ``field``.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        text = str(text)
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise InvalidInput(f"{text!r} is not a size", field=field, fix="write for example 512, 512MiB or 1.5GiB")
    whole, _, fraction = match[1].partition(".")
    scale: int = 10 ** len(fraction)
    return -(-int(whole + fraction) * factor // (scale * MIB))


def bytes_to_mib(count: int) -> int:
    """Return whole MiB in ``count`` bytes, rounded down (capacity must never be overstated)."""
    return count // MIB


def format_mib(mib: int) -> str:
    """Return ``mib`` for people: ``512 MiB``, ``1.5 GiB``, ``2 TiB``."""
    value, unit = float(mib), "MiB"
    for unit in ("MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.1f}".rstrip("0").rstrip(".") + f" {unit}"
