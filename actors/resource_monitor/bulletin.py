"""What a host tells all others of itself: a few bytes that gossip carries without knowing what they mean.

The first byte is the layout's number. One that a reader does not know says nothing to it. Within a layout new fields
are added at the end: who does not know them ignores them, so that both of two successive releases read each other.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

#: The layout that is written, and the only one that is read.
LAYOUT = 1
#: Bytes that each text may have (UTF-8); more are cut off.
HOSTNAME_BYTES, VERSION_BYTES, HYPERVISOR_BYTES = 253, 48, 32
#: Most bytes of all, so much room is left to later fields.
MOST_BYTES = 512

_HEAD = struct.Struct("!BBfffII")
_CLOSED = 1
#: Largest memory in MiB that can be told, and largest number of CPUs and load that is believed.
_MOST_MIB, _MOST_CPUS = 2**32 - 1, 1e6


@dataclass(frozen=True, slots=True)
class Bulletin:
    """A host as it was at its last bulletin.

    ``cpus`` with fractions, ``load`` its 1 minute load average, ``waiting`` the share of the last minute in which tasks
    waited for a CPU, 0 to 1. ``memory`` and what is available of it in MiB, as the machine has them: what is promised
    to placements only the database knows. ``closed``: it takes no new work for now. ``hypervisor`` is None until
    something was found that runs guests there.
    """

    hostname: str
    version: str
    cpus: float
    load: float
    waiting: float
    memory: int
    memory_available: int
    closed: bool = False
    hypervisor: str | None = None


def encode(bulletin: Bulletin) -> bytes:
    """Return a bulletin as bytes, at most `MOST_BYTES`. Figures beyond what can be told become the largest."""
    head = _HEAD.pack(
        LAYOUT,
        _CLOSED if bulletin.closed else 0,
        _bounded(bulletin.cpus, _MOST_CPUS),
        _bounded(bulletin.load, _MOST_CPUS),
        _bounded(bulletin.waiting, 1.0),
        int(_bounded(bulletin.memory, _MOST_MIB)),
        int(_bounded(bulletin.memory_available, _MOST_MIB)),
    )
    texts = (
        (bulletin.hostname, HOSTNAME_BYTES),
        (bulletin.version, VERSION_BYTES),
        (bulletin.hypervisor or "", HYPERVISOR_BYTES),
    )
    return head + b"".join(_text(text, most) for text, most in texts)


def decode(data: bytes) -> Bulletin | None:
    """Return the bulletin that bytes are; None for another layout, and for what is none at all."""
    if not _HEAD.size < len(data) <= MOST_BYTES or data[0] != LAYOUT:
        return None
    _, flags, cpus, load, waiting, memory, available = _HEAD.unpack_from(data)
    if not all(math.isfinite(one) and 0 <= one <= _MOST_CPUS for one in (cpus, load)) or not 0 <= waiting <= 1:
        return None
    texts, at = [], _HEAD.size
    for most in (HOSTNAME_BYTES, VERSION_BYTES, HYPERVISOR_BYTES):
        if at >= len(data):
            return None
        end = at + 1 + data[at]
        try:
            text = data[at + 1 : end].decode()
        except UnicodeDecodeError:
            return None
        # People's terminals are shown it.
        if end > len(data) or data[at] > most or (text and not text.isprintable()):
            return None
        texts.append(text)
        at = end
    return Bulletin(
        hostname=texts[0],
        version=texts[1],
        # As they were written: single precision is what is sent.
        cpus=round(cpus, 2),
        load=round(load, 2),
        waiting=round(waiting, 2),
        memory=memory,
        memory_available=available,
        closed=bool(flags & _CLOSED),
        hypervisor=texts[2] or None,
    )


def _bounded(value: float, most: float) -> float:
    return 0.0 if math.isnan(value) else min(most, max(0.0, value))


def _text(text: str, most: int) -> bytes:
    """Return a text with its length before it, cut where a character ends."""
    data = text.encode(errors="replace")[:most].decode(errors="ignore").encode()
    return bytes([len(data)]) + data
