"""The network of one host process: kernel settings, the nftables table and the TAPs in it, kept as they should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import UUID

import structlog
import trio

from actors.model.crash_points import CrashPoint
from actors.model.errors import Conflict, InvalidInput, Problem
from actors.model.network import HostNetwork, Lease
from actors.tap import ground, links, nfnetlink, sysctls
from actors.tap.links import OwnedTap
from actors.tap.nft import (
    FAMILY,
    Guest,
    TableState,
    elements,
    of_taps,
    parse_table,
    render_delete,
    render_elements,
    render_table,
    table_name,
)
from actors.tap.nft_process import Nft
from actors.tap.wanted import Step, tap_name, wanted_facts
from runtime import crash

_log = structlog.get_logger()

#: Seconds for which one look at the rules serves everybody who asks for one.
CHECK_FRESH = 10.0


@dataclass(slots=True, eq=False)
class _Change:
    verb: Literal["add", "remove"]
    guest: Guest
    done: bool = False  # carried out, or given up by its asker


@dataclass(slots=True)
class NetworkHost:
    """One for each host process. ``tag`` keeps two of them on one machine apart (table name, owner of TAPs).

    ``record`` is the file that remembers changed kernel settings; another one beside it remembers the network. All
    methods may raise `actors.model.errors.Problem`, are idempotent, and may be called by many tasks at once.
    """

    network: HostNetwork
    tag: str
    record: Path
    nft: Nft = field(default_factory=Nft)
    _guests: dict[str, Guest] = field(default_factory=dict)
    _pending: list[_Change] = field(default_factory=list)
    _lock: trio.Lock = field(default_factory=trio.Lock)
    _checked_at: float = float("-inf")
    _seen: dict[UUID, OwnedTap] = field(default_factory=dict)

    @property
    def table(self) -> str:
        """Name of our table in the family ``inet``."""
        return table_name(self.tag)

    async def start(self) -> None:
        """Prepare the machine: forwarding on (recorded first), the ground routes, the table.

        Rules of guests that survived an earlier process stay in force throughout; those of TAPs that are gone go.
        """
        await trio.to_thread.run_sync(self._prepare_kernel)
        async with self._lock:
            found = await self._look()
            if found is None or not found.current:
                await self.nft.apply(render_table(self.table, found.content if found else {}))
                _log.info("network rules written", table=self.table, replaced=found is not None)
        existing = {tap.name for tap in (await self.taps()).values()}
        await self._forget(lambda tap: tap not in existing)

    def _prepare_kernel(self) -> None:
        changes = sysctls.plan_forwarding(ipv6=self.network.v6 is not None)
        sysctls.apply_recorded(changes, self.record)
        for name, (before, after) in changes.items():
            _log.info("kernel setting changed", setting=name.replace("/", "."), before=before, after=after)
        ground.remember(self.network, ground.record_beside(self.record))
        ground.lay_ground(self.network)

    async def up(self, placement_id: UUID, lease: Lease, *, uid: int | None = None) -> list[Step]:
        """Make or adopt a placement's TAP and its rules; return what had to be done to the device.

        Both at once: nobody attaches to a new device before this returns, so no guest can speak without its rules.
        """
        name = tap_name(placement_id)
        wanted = wanted_facts(self.tag, placement_id, lease)
        steps: list[Step] = []
        failures: list[Exception] = []

        async def device() -> None:
            try:
                steps.extend(await trio.to_thread.run_sync(lambda: links.ensure_tap(name, wanted, uid=uid)))
                crash.point(CrashPoint.TAP_MADE)
            except Exception as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(device)
            try:
                await self._commit(_Change("add", Guest(name, lease)))
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
        crash.point(CrashPoint.TAP_READY)
        return steps

    async def down(self, placement_id: UUID, lease: Lease) -> None:
        """Remove a placement's TAP, then its rules. A device of somebody else's under that name stays."""
        name = tap_name(placement_id)
        await self._remove(name)
        crash.point(CrashPoint.TAP_DROPPED)
        await self._commit(_Change("remove", Guest(name, lease)))

    async def drop(self, placement_id: UUID, name: str) -> None:
        """Remove the TAP and rules of a placement of which nothing else is known any more, its lease neither."""
        if name != tap_name(placement_id):
            raise InvalidInput(f"{name} is not the name of the TAP of placement {placement_id}")
        await self._remove(name)
        await self._forget(lambda tap: tap == name)

    async def _remove(self, name: str) -> None:
        try:
            await trio.to_thread.run_sync(links.remove_tap, name)
        except Conflict as conflict:
            # Then there never was one of ours: whoever waits for its end must not wait for the owner's.
            _log.warning("a device that is not ours is left alone", device=name, reason=conflict.detail)

    async def taps(self) -> dict[UUID, OwnedTap]:
        """Return this host's TAPs that exist on the machine, by placement id."""
        return await trio.to_thread.run_sync(links.owned_taps, self.tag)

    async def names(self) -> dict[UUID, str]:
        """Return the names of this host's TAPs that exist on the machine, by placement id."""
        return {placement: tap.name for placement, tap in (await self.taps()).items()}

    async def _forget(self, gone: Callable[[str], bool]) -> int:
        async with self._lock:
            found = await self._look()
            extra = {} if found is None else of_taps(found.content, gone)
            if any(extra.values()):
                await self.nft.apply(render_elements("delete", self.table, extra))
                _log.info("rules of former guests removed", table=self.table, guests=len(extra["taps"]))
            self._guests = {tap: guest for tap, guest in self._guests.items() if not gone(tap)}
            return len(extra.get("taps", ()))

    async def check(self) -> dict[UUID, OwnedTap]:
        """Mend rules, kernel settings and ground routes if somebody changed them; return the TAPs that exist.

        Cheap to call often: one look serves everybody for `CHECK_FRESH` seconds.
        """
        async with self._lock:
            if trio.current_time() - self._checked_at >= CHECK_FRESH:
                await self._mend()
                await trio.to_thread.run_sync(self._prepare_kernel)
                self._seen = await self.taps()
                self._checked_at = trio.current_time()
            return self._seen

    async def _mend(self) -> None:
        found = await self._look()
        wanted = elements(self._guests.values())
        if found is None or not found.current:
            kept = found.content if found else {}
            union = {name: wanted[name] | set(kept.get(name, ())) for name in wanted}
            await self.nft.apply(render_table(self.table, union))
        else:
            missing = {name: wanted[name] - found.content[name] for name in wanted}
            if not any(missing.values()):
                return
            await self.nft.apply(render_elements("add", self.table, missing))
        _log.warning("somebody changed our network rules; they are mended", table=self.table)

    async def close(self) -> bool:
        """Remove the table and the ground routes if no TAP of ours is left; False when some are, and all stays."""
        async with self._lock:
            if await self.taps():
                return False
            await self.nft.apply(render_delete(self.table))
            await trio.to_thread.run_sync(ground.clear_ground, self.network)
            await trio.to_thread.run_sync(ground.forget, ground.record_beside(self.record))
            self._guests.clear()
            return True

    async def _look(self) -> TableState | None:
        text = await self.nft.list_table(FAMILY, self.table)
        return None if text is None else parse_table(text)

    async def _commit(self, change: _Change) -> None:
        """Carry out a change; changes that come while another one is under way share the next transaction."""
        self._pending.append(change)
        try:
            async with self._lock:
                if not change.done:
                    batch, self._pending = self._pending, []
                    try:
                        await self._apply(batch, change)
                    finally:
                        self._pending[:0] = [other for other in batch if not other.done and other is not change]
        finally:
            # Whoever asked for it is gone: nobody may carry it out later, when the opposite may have been asked for.
            change.done = True
            if change in self._pending:
                self._pending.remove(change)

    async def _apply(self, batch: list[_Change], own: _Change) -> None:
        try:
            await self._apply_together(batch)
        except Problem:
            if len(batch) == 1:
                raise
            # Somebody's change is bad: each stands for itself, this one now.
            await self._apply_together([own])

    async def _apply_together(self, batch: list[_Change]) -> None:
        changes = [item for change in batch for item in _changes(change)]
        try:
            await self.nft.change(self.table, changes)
        except Problem:
            # The usual cause: somebody removed our table. Write it anew, and once more.
            found = await self._look()
            if found is not None and found.current:
                raise
            await self._mend()
            await self.nft.change(self.table, changes)
        for change in batch:
            change.done = True
            if change.verb == "add":
                self._guests[change.guest.tap] = change.guest
            else:
                self._guests.pop(change.guest.tap, None)


def _changes(change: _Change) -> list[nfnetlink.Change]:
    content = [(name, items) for name, items in elements([change.guest]).items() if items]
    add: list[nfnetlink.Change] = [("add", name, items) for name, items in content]
    # "add" first: deleting what is not there would fail the whole transaction.
    return add if change.verb == "add" else [*add, *(("delete", name, items) for name, items in content)]


async def remove_leftovers(tag: str, record: Path, *, nft: Nft | None = None) -> list[str]:
    """Undo everything that a host process with ``tag`` did to this machine's network; return what was done, in words.

    For `zeitwork setup --remove`: TAPs included, so no VM may run any more. Raises `Problem`.
    """
    done = []
    for tap in (await trio.to_thread.run_sync(links.owned_taps, tag)).values():
        if await trio.to_thread.run_sync(links.remove_tap, tap.name):
            done.append(f"removed the TAP {tap.name}")
    command = nft or Nft()
    table = table_name(tag)
    if await command.list_table(FAMILY, table) is not None:
        await command.apply(render_delete(table))
        done.append(f"removed the nftables table {FAMILY} {table}")
    remembered = ground.record_beside(record)
    network = await trio.to_thread.run_sync(ground.recall, remembered)
    if network is not None:
        await trio.to_thread.run_sync(ground.clear_ground, network)
        await trio.to_thread.run_sync(ground.forget, remembered)
        done.append("removed the routes of the VMs' networks")
    for name in await trio.to_thread.run_sync(sysctls.undo_recorded, record):
        done.append(f"put back {name.replace('/', '.')}")
    return done
