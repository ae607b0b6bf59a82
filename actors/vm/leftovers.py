"""What lies in this host's directories of placements that nobody looks after: told, or destroyed when it may be."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import trio

from actors.model.ids import short_id
from actors.model.paths import HostPaths
from actors.vm.cgroup import Cgroup, groups_below, hierarchies
from actors.vm.disk import sweep
from actors.vm.guest import KEPT as KEPT_FILES
from actors.vm.guest import TEMPLATES
from actors.vm.intent import Intent
from actors.vm.messages import Leftover
from actors.vm.process import PidFile, VmProcess, adopt, adopt_member
from actors.vm.work import drop_disk, drop_machine, forget

#: Consoles of placements that are gone: so many stay, the newest.
KEPT = 100


@dataclass(frozen=True)
class VmLeftovers:
    """Finds and destroys leftovers of one host. ``drop_tap`` removes a TAP and its rules by placement and name.

    ``taps`` returns the names of all TAPs of this host that exist, by placement.
    """

    paths: HostPaths
    cgroup: str
    drop_tap: Callable[[UUID, str], Awaitable[None]]
    taps: Callable[[], Awaitable[Mapping[UUID, str]]]

    async def scan(self, known: Collection[UUID]) -> tuple[Leftover, ...]:
        """Return every placement of which more than a console is here and that is not ``known``.

        A start that was interrupted early has left a TAP or a disk and no intent: nothing says for which cluster.
        """
        return await trio.to_thread.run_sync(self._scan, frozenset(known), await self.taps())

    async def strangers(self, known: Collection[UUID]) -> tuple[str, ...]:
        """Return names of our cgroups with processes in them that belong to none of the ``known`` placements."""
        return await trio.to_thread.run_sync(self._strangers, frozenset(short_id(item) for item in known))

    async def destroy(self, leftover: Leftover) -> None:
        """End and remove a leftover. Only for what the database of its own cluster calls removed.

        Raises `OSError` or a `Problem` when something stays; it can be called again.
        """
        for process in await trio.to_thread.run_sync(self._processes, leftover.placement_id):
            await process.kill()
            process.close()
        if leftover.tap:
            await self.drop_tap(leftover.placement_id, leftover.tap)
        await trio.to_thread.run_sync(self._remove, leftover.placement_id)

    async def prune(self) -> int:
        """Remove the oldest consoles of placements that are gone; return how many. Half-made templates go too."""
        await trio.to_thread.run_sync(sweep, self.paths.data / TEMPLATES)
        return await trio.to_thread.run_sync(self._prune)

    def _scan(self, known: frozenset[UUID], taps: Mapping[UUID, str]) -> tuple[Leftover, ...]:
        found = dict.fromkeys([*self._directories(), *taps])
        return tuple(self._leftover(item, taps.get(item, "")) for item in found if item not in known)

    def _directories(self) -> Iterator[UUID]:
        """Yield placements whose directories hold more than what stays for people to read."""
        try:
            entries = sorted(self.paths.placements.iterdir())
        except OSError:
            return
        for path in entries:
            try:
                if {entry.name for entry in path.iterdir()} - KEPT_FILES:
                    yield UUID(path.name)
            except (OSError, ValueError):
                continue

    def _leftover(self, placement_id: UUID, tap: str) -> Leftover:
        intent = Intent.read(self.paths.placement(placement_id))
        processes = self._processes(placement_id)
        pid = processes[0].pid if processes else None
        for process in processes:
            process.close()
        if intent is None:
            return Leftover(placement_id, None, pid, None, tap)
        return Leftover(placement_id, intent.cluster, pid, intent.hypervisor, intent.tap)

    def _group(self, placement_id: UUID) -> str:
        return f"{self.cgroup}/{short_id(placement_id)}"

    def _processes(self, placement_id: UUID) -> list[VmProcess]:
        found: dict[int, VmProcess] = {}
        group = self._group(placement_id)
        pid_file = PidFile.read(self.paths.vm_run(placement_id))
        if pid_file is not None:
            process = adopt(pid_file.identity, pid_file.cgroup if pid_file.grouped else None)
            if process is not None:
                found[process.pid] = process
        for pid in Cgroup.of(group).members() - found.keys():
            process = adopt_member(pid, group)
            if process is not None:
                found[pid] = process
        return list(found.values())

    def _strangers(self, known: frozenset[str]) -> tuple[str, ...]:
        roots = hierarchies(Path("/proc/self/mountinfo").read_text())
        names = groups_below(self.cgroup, roots) - known
        own = {name for name in names if not name.startswith("probe-")}
        return tuple(sorted(name for name in own if Cgroup(f"{self.cgroup}/{name}", roots).members()))

    def _remove(self, placement_id: UUID) -> None:
        data = self.paths.placement(placement_id)
        drop_machine(self.paths.vm_run(placement_id), data, self._group(placement_id))
        drop_disk(data)
        forget(data)

    def _prune(self) -> int:
        try:
            directories = [path for path in self.paths.placements.iterdir() if path.is_dir()]
        except OSError:
            return 0
        gone = [path for path in directories if {entry.name for entry in path.iterdir()} <= KEPT_FILES]
        gone.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in gone[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)
        return len(gone[KEPT:])
