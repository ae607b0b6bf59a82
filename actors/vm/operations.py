"""What a virtual machine's actor does to its host, behind one interface: a simulation puts a model in its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol
from uuid import UUID

import trio

from actors.model.records import Placement, SnapshotMade
from actors.vm import snapshots, work
from actors.vm.cgroup import Cgroup
from actors.vm.console import Follower, gather
from actors.vm.disk import make_disk, restore_disk, save_disk
from actors.vm.files import first_full, last_words
from actors.vm.guest import CONSOLE, DISK, LOG, TEMPLATES
from actors.vm.intent import Intent
from actors.vm.machine import Hypervisor
from actors.vm.outcome import Evidence
from actors.vm.recover import Recovery, recover
from actors.vm.settings import VmSettings
from actors.vm.work import Launch, Launched, start_machine


class Reader(Protocol):
    """Reads a console as it grows."""

    def read(self) -> bytes:
        """Return what is new since the last read, b"" when nothing is."""


class Operations(Protocol):
    """Everything that one placement's actor does to the host, its TAP and its image aside. All but `start` and
    `recover` are idempotent; cancelled or failed, each may have been done, in part or not at all.
    """

    async def recover(self) -> Recovery:
        """Look for what an earlier life of the host left."""

    async def choose(self) -> Hypervisor:
        """Return the hypervisor for a new guest. Raises `Problem`."""

    async def make_disk(self, restore: UUID | None) -> None:
        """Make the writable layer unless it is there, or as it was in the snapshot ``restore``. Raises `Problem`."""

    async def start(self, launch: Launch) -> Launched:
        """Write the intent and launch. Raises `Problem`; then, or cancelled, no process is left."""

    async def park(self, intent: Intent) -> Intent:
        """Write the intent as parked and return it. Raises `OSError`."""

    async def drop_disk(self) -> None:
        """Remove the writable layer. Raises `OSError`."""

    async def drop_machine(self) -> None:
        """Remove sockets, PID file, config drive, jail and cgroup. Raises `OSError`."""

    async def forget(self) -> None:
        """Remove all that is left, but for the end of the console. Raises `OSError`."""

    async def evidence(self, nonce: str, *, started: bool, status: int | None, ran: float | None) -> Evidence:
        """Return what console, log and counters say about an end; see `Evidence` for the arguments."""

    def reader(self) -> Reader:
        """Return a reader of the console from its beginning."""

    async def begin_snapshot(self, snapshot: UUID) -> Path:
        """Make an empty directory for a snapshot and return it. Raises `OSError`."""

    async def save_disk(self, directory: Path) -> None:
        """Copy the writable layer, of a guest held still, into a snapshot's directory. Raises `Problem`."""

    async def keep_snapshot(self, snapshot: UUID, intent: Intent) -> SnapshotMade:
        """Make a snapshot that was taken durable and return what it is. Raises `OSError`."""

    async def destroy_snapshot(self, snapshot: UUID) -> None:
        """Remove a snapshot, whole or not. Raises `OSError`."""


class HostOperations:
    """`Operations` of one placement on this machine."""

    def __init__(self, settings: VmSettings, placement: Placement) -> None:
        self._settings = settings
        self._placement = placement
        self._data = settings.paths.placement(placement.id)
        self._run = settings.paths.vm_run(placement.id)
        self._cgroup = work.cgroup_name(settings, placement)

    async def recover(self) -> Recovery:
        """Look for intent, PID file and processes."""
        placement = self._placement
        return await trio.to_thread.run_sync(
            recover,
            self._settings.paths,
            self._cgroup,
            placement.id,
            placement.generation,
            placement.state,
            placement.boot_id,
        )

    async def choose(self) -> Hypervisor:
        """Return the hypervisor for a new guest, checked to be there still. Raises `Unavailable`."""
        return await work.choose(self._settings)

    async def make_disk(self, restore: UUID | None) -> None:
        """Make the writable layer unless it is there, or as it was in the snapshot ``restore``. Raises `Problem`."""
        if restore is not None:
            directory = self._settings.paths.snapshots / str(restore)
            await restore_disk(self._data / DISK, snapshots.saved_disk(directory))
            return
        templates = self._settings.paths.data / TEMPLATES
        await make_disk(self._data / DISK, self._placement.resources.disk, templates)

    async def start(self, launch: Launch) -> Launched:
        """Write config drive and intent, then launch. Raises `Problem`; then, or cancelled, no process is left."""
        return await start_machine(self._settings, self._placement, launch)

    async def park(self, intent: Intent) -> Intent:
        """Write the intent as parked and return it. Raises `OSError`."""
        return await trio.to_thread.run_sync(intent.park, self._data)

    async def drop_disk(self) -> None:
        """Remove the writable layer. Raises `OSError`."""
        await trio.to_thread.run_sync(work.drop_disk, self._data)

    async def drop_machine(self) -> None:
        """Remove sockets, PID file, config drive, jail and cgroup. Raises `OSError`."""
        await trio.to_thread.run_sync(work.drop_machine, self._run, self._data, self._cgroup)

    async def forget(self) -> None:
        """Remove all that is left, but for the end of the console. Raises `OSError`."""
        await trio.to_thread.run_sync(work.forget, self._data)

    async def evidence(self, nonce: str, *, started: bool, status: int | None, ran: float | None) -> Evidence:
        """Return what console, log and counters say about an end."""
        return await trio.to_thread.run_sync(self._gather, nonce, started, status, ran)

    def _gather(self, nonce: str, started: bool, status: int | None, ran: float | None) -> Evidence:
        evidence = gather(
            self._data / CONSOLE,
            nonce,
            started=started,
            vmm_status=status,
            vmm_oom=Cgroup.of(self._cgroup).oom_kills() > 0,
            vmm_words=last_words(self._data / LOG, 500),
            ran=ran,
        )
        if first_full(self._data) is None:
            return evidence
        return replace(evidence, output=(*evidence.output, "(the host's disk is full: the console ends early)"))

    def reader(self) -> Reader:
        """Return a reader of the console from its beginning."""
        return Follower(self._data / CONSOLE)

    async def begin_snapshot(self, snapshot: UUID) -> Path:
        """Make an empty directory for a snapshot and return it. Raises `OSError`."""
        return await trio.to_thread.run_sync(snapshots.begin, self._settings.paths.snapshots, snapshot)

    async def save_disk(self, directory: Path) -> None:
        """Copy the writable layer, of a guest held still, into a snapshot's directory. Raises `Problem`."""
        await save_disk(self._data / DISK, snapshots.saved_disk(directory))

    async def keep_snapshot(self, snapshot: UUID, intent: Intent) -> SnapshotMade:
        """Make a snapshot that was taken durable and return what it is. Raises `OSError`."""
        manifest = await trio.to_thread.run_sync(snapshots.describe, snapshot, self._placement, intent)
        return await trio.to_thread.run_sync(snapshots.keep, self._settings.paths.snapshots, snapshot, manifest)

    async def destroy_snapshot(self, snapshot: UUID) -> None:
        """Remove a snapshot, whole or not. Raises `OSError`."""
        await trio.to_thread.run_sync(snapshots.destroy, self._settings.paths.snapshots, snapshot)
