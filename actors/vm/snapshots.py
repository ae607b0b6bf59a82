"""Snapshots on their host: the state of a machine held still, its disk, and what may restore it.

A directory of its own for each, under its id once it is whole; until then its name begins with a dot. ``machine`` is
the monitor's business, ``upper.ext4`` the writable disk, ``manifest.json`` ours.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from actors.model.errors import Failed
from actors.model.records import Placement, SnapshotMade
from actors.vm.files import size, stored, sync_directory, write_atomic
from actors.vm.guest import DISK
from actors.vm.intent import Intent
from actors.vm.machine import Hypervisor

MACHINE, MANIFEST = "machine", "manifest.json"
VERSION = 1
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot is of. ``memory`` and ``disk`` in MiB; ``cpu`` is the host's model name.

    A state is read only by the version of the monitor that wrote it, on the kind of CPU that the guest has seen.
    ``files`` are the sizes in bytes of all files of the snapshot: monitors do not notice that memory was cut.
    """

    snapshot: str
    cluster: str
    instance: str
    placement: str
    image_digest: str
    vcpu: int
    memory: int
    disk: int
    hypervisor: str
    acceleration: str
    vmm_version: str
    guest: str
    cpu: str
    files: dict[str, int] = field(default_factory=dict)
    version: int = VERSION

    @classmethod
    def read(cls, directory: Path) -> Manifest | None:
        """Return the manifest of a snapshot's directory, None when there is none that makes sense. Blocking."""
        try:
            content: dict[str, Any] = json.loads((directory / MANIFEST).read_bytes())
            return cls(**{name: value for name, value in content.items() if name in cls.__slots__})
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def check(self, placement: Placement, hypervisor: Hypervisor, vmm_version: str, cpu: str) -> None:
        """Raise `Failed` unless ``placement`` can go on from this snapshot here, with what differs."""
        acceleration = hypervisor.acceleration.value
        for what, then, now in (
            ("hypervisor", f"{self.hypervisor} ({self.acceleration})", f"{hypervisor.name} ({acceleration})"),
            ("version of it", self.vmm_version, vmm_version),
            ("CPU", self.cpu, cpu),
            ("image", self.image_digest, placement.image_digest),
            ("vCPUs", self.vcpu, placement.resources.vcpu),
            ("MiB of memory", self.memory, placement.resources.memory),
        ):
            if then != now:
                raise Failed(
                    f"the snapshot {self.snapshot} can't be restored here: its {what} was {then}, here it is {now}",
                    field="snapshot_id",
                    fix="start the instance without it, or restore it where it was taken",
                )


def describe(snapshot: UUID, placement: Placement, intent: Intent) -> Manifest:
    """Return the manifest of a snapshot of the machine that was started with ``intent``. Blocking."""
    return Manifest(
        snapshot=str(snapshot),
        cluster=intent.cluster,
        instance=str(placement.instance_id),
        placement=str(placement.id),
        image_digest=placement.image_digest,
        vcpu=placement.resources.vcpu,
        memory=placement.resources.memory,
        disk=placement.resources.disk,
        hypervisor=intent.hypervisor,
        acceleration=intent.acceleration,
        vmm_version=intent.vmm_version,
        guest=intent.guest,
        cpu=cpu_model(),
    )


def cpu_model(cpuinfo: Path = _CPUINFO) -> str:
    """Return this machine's CPU as the kernel names it, "unknown" when it does not. Blocking."""
    try:
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        return "unknown"
    return "unknown"


def begin(root: Path, snapshot: UUID) -> Path:
    """Make and return an empty directory for a snapshot that is about to be taken. Blocking. Raises `OSError`."""
    destroy(root, snapshot)
    temporary = _temporary(root, snapshot)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    root.chmod(0o700)
    (temporary / MACHINE).mkdir(parents=True, mode=0o700)
    return temporary


def keep(root: Path, snapshot: UUID, manifest: Manifest) -> SnapshotMade:
    """Make a snapshot that was taken durable, under its own name, and return what it is. Blocking. Raises `OSError`."""
    temporary, final = _temporary(root, snapshot), root / str(snapshot)
    taken = 0
    sizes = {}
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            taken += stored(path)
            sizes[str(path.relative_to(temporary))] = path.stat().st_size
            with path.open("rb") as file:
                os.fsync(file.fileno())
    content = asdict(replace(manifest, files=sizes))
    write_atomic(temporary / MANIFEST, json.dumps(content, indent=1).encode(), durable=True)
    for directory in (temporary / MACHINE, temporary):
        sync_directory(directory)
    temporary.replace(final)
    sync_directory(root)
    return SnapshotMade(taken, manifest.hypervisor, manifest.vmm_version, manifest.guest, manifest.cpu)


def discard(root: Path, snapshot: UUID) -> None:
    """Remove what was begun of a snapshot and not kept. Blocking; idempotent. Raises `OSError`."""
    temporary = _temporary(root, snapshot)
    if temporary.exists():
        shutil.rmtree(temporary)


def destroy(root: Path, snapshot: UUID) -> None:
    """Remove a snapshot, whole or not. Blocking; idempotent. Raises `OSError`."""
    discard(root, snapshot)
    final, doomed = root / str(snapshot), root / f".{snapshot}.gone"
    if doomed.exists():
        shutil.rmtree(doomed)
    if final.exists():
        # Renamed first: half of a snapshot must not look like a whole one.
        final.replace(doomed)
        shutil.rmtree(doomed)


def open_snapshot(root: Path, snapshot: UUID) -> tuple[Path, Manifest]:
    """Return a snapshot's directory and manifest. Blocking. Raises `Failed` when it is not here, or not whole."""
    directory = root / str(snapshot)
    manifest = Manifest.read(directory)
    if manifest is None:
        raise _unusable(f"the snapshot {snapshot} is not on this host, or damaged")
    for name, expected in manifest.files.items():
        found = size(directory / name)
        if found != expected:
            raise _unusable(f"the snapshot {snapshot} is damaged: {name} has {found} bytes, {expected} were written")
    return directory, manifest


def _unusable(detail: str) -> Failed:
    return Failed(detail, field="snapshot_id", fix="restore another snapshot")


def saved_disk(directory: Path) -> Path:
    """Return where a snapshot's disk lies."""
    return directory / DISK


def _temporary(root: Path, snapshot: UUID) -> Path:
    return root / f".{snapshot}.new"


@dataclass(frozen=True)
class SnapshotFiles:
    """The snapshots of one host, for those that look after them."""

    root: Path
    cluster_id: str

    async def scan(self) -> tuple[UUID, ...]:
        """Return the ids of all snapshots of this cluster that something is here of."""
        return await trio.to_thread.run_sync(self._scan)

    async def destroy(self, snapshot: UUID) -> None:
        """Remove one. Idempotent. Raises `OSError` when something stays."""
        await trio.to_thread.run_sync(destroy, self.root, snapshot)

    def _scan(self, own: Collection[str] = (".new", ".gone")) -> tuple[UUID, ...]:
        found: dict[UUID, None] = {}
        try:
            entries = sorted(self.root.iterdir())
        except OSError:
            return ()
        for entry in entries:
            text = entry.name
            for suffix in own:
                text = text.removeprefix(".").removesuffix(suffix)
            manifest = Manifest.read(entry)
            # What has no manifest yet was begun under this data directory, which belongs to this cluster.
            if manifest is not None and manifest.cluster != self.cluster_id:
                continue
            try:
                found[UUID(text)] = None
            except ValueError:
                continue
        return tuple(found)
