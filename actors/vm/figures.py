"""The figures that Firecracker leaves behind: JSON objects, one a line, each counting from the one before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: Bytes at the end of the file that are looked at: a dozen objects.
_TAIL = 64 * 1024


def last_figures(content: bytes) -> dict[str, Any] | None:
    """Return the last whole object in the end of a metrics file, None when there is none. Pure.

    Firecracker writes one when it starts, one each minute, and one when its guest ends by itself; killed, it can't
    write a last one. Most numbers in it count since the object before. Holes that were made in the file, and a line
    that was cut at either end, are skipped.
    """
    for line in reversed(content.split(b"\n")):
        try:
            found = json.loads(line.strip(b"\0 \r\t"))
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    return None


def read_last_figures(path: Path) -> dict[str, Any] | None:
    """Return the last whole object of a metrics file, None when there is none. Blocking, reads a bounded part."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            return last_figures(file.read(_TAIL))
    except OSError:
        return None
