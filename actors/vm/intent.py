"""What a host means to run, on disk before it runs: the key to adoption after a crash."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from actors.vm.files import sync_directory, write_atomic

FILE = "intent.json"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Intent:
    """One start of one placement. ``nonce`` marks the guest's lines on the console; ``guest`` is its kernel's and
    init's version, ``agent`` that of the protocol which its init speaks, 0 for none. ``boot_id`` is the kernel boot it
    was meant for. ``parked``: stopped, to be started again.
    """

    placement: str
    instance: str
    generation: int
    cluster: str
    cgroup: str
    tap: str
    hypervisor: str
    acceleration: str
    vmm_version: str
    guest: str
    nonce: str
    boot_id: str
    parked: bool = False
    agent: int = 0
    version: int = VERSION

    @property
    def placement_id(self) -> UUID:
        """The placement as an id."""
        return UUID(self.placement)

    def write(self, directory: Path) -> None:
        """Make it durable in the placement's directory. Blocking."""
        if not directory.exists():
            directory.mkdir(parents=True, mode=0o700)
            sync_directory(directory.parent)
        write_atomic(directory / FILE, json.dumps(asdict(self), indent=1).encode(), durable=True)

    def park(self, directory: Path) -> Intent:
        """Write and return it as parked. Blocking."""
        parked = replace(self, parked=True)
        parked.write(directory)
        return parked

    @classmethod
    def read(cls, directory: Path) -> Intent | None:
        """Return the intent in a placement's directory, None when there is none that makes sense. Blocking."""
        try:
            content: dict[str, Any] = json.loads((directory / FILE).read_bytes())
            known = {name: value for name, value in content.items() if name in cls.__slots__}
            intent = cls(**known)
            UUID(intent.placement)
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        return intent

    @staticmethod
    def forget(directory: Path) -> None:
        """Remove it, durably. Blocking; idempotent."""
        try:
            (directory / FILE).unlink()
            sync_directory(directory)
        except FileNotFoundError:
            return
