"""How much an image may make this host do. Everything an image says is read under one of these."""

from __future__ import annotations

from dataclasses import dataclass

from actors.model.units import GIB, MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one image; sizes in bytes.

    ``unpacked`` counts what comes out of decompression over the whole image. ``ratio`` is output to input and applies
    beyond the first ``ratio_floor`` bytes: a small file of zeros is no attack, a layer of them is.
    """

    download: int = 10 * GIB
    unpacked: int = 10 * GIB
    ratio: int = 200
    ratio_floor: int = 256 * MIB
    entries: int = 500_000
    metadata: int = 128 * MIB
    header: int = MIB
    layers: int = 512
    # JSON is parsed in one go, which nothing else on this host's loop runs beside.
    manifest: int = MIB
    config: int = 2 * MIB
    archive_members: int = 20_000
    path_steps: int = 50_000_000


DEFAULT_LIMITS = Limits()
