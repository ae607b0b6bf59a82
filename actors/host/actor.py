"""The host: keeps what runs here equal to the placements that the database gives this node."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from uuid import UUID

from actors.host.messages import Attend, HostView, StopAll, Unhealthy, Vms, Wake
from actors.host.ports import Leftovers, MakeTap, MakeVm, Snapshots
from actors.host.reconcile import Child, Decisions, decide, unknown
from actors.host.store import PlacementStore, SnapshotStore
from actors.model.errors import Conflict
from actors.model.records import Placement
from actors.vm.messages import (
    Disowned,
    Leftover,
    Replace,
    Resync,
    Retry,
    SetPaused,
    Stop,
    TakeSnapshot,
    VmChanged,
    VmView,
)
from runtime import Actor, ActorError, Down, LifeRef, Message, Ref, Reply, Timer

#: Seconds between readings that nobody asked for: a lost notification costs this much time and nothing else.
SLOW_TIMER = 15.0
#: Seconds that one reading may take, and that children get to start.
_LOOK_DEADLINE, _START_DEADLINE, _DESTROY_DEADLINE = 30.0, 60.0, 60.0
#: First and largest wait in seconds after a reading that failed.
_BACKOFF_FIRST, _BACKOFF_MAX = 0.5, 15.0
#: Seconds between two readings at most, when hints come faster than they can be read.
_LONGEST_PAUSE = 0.25
#: Seconds until the database is read again after an actor failed or was refused: neither may become a busy loop.
_AFTER_CRASH = 1.0


@dataclass(frozen=True, slots=True)
class _Looked(Message):
    placements: tuple[Placement, ...]
    found: tuple[Leftover, ...]
    tombstones: frozenset[UUID]
    strangers: tuple[str, ...] | None  # None: neither they nor leftovers were looked for
    doomed: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class _Rested(Message):
    """The time between two readings is over."""


@dataclass(frozen=True, slots=True)
class _LookFailed(Message):
    error: Exception


@dataclass(frozen=True, slots=True)
class _Started(Message):
    placement: Placement
    tap: LifeRef
    vm: LifeRef
    told: tuple[float, bool] | None


@dataclass(frozen=True, slots=True)
class _StartFailed(Message):
    placement: Placement
    error: Exception


@dataclass(frozen=True, slots=True)
class _Destroyed(Message):
    leftover: Leftover
    error: Exception | None


@dataclass(frozen=True, slots=True)
class _SnapshotGone(Message):
    snapshot_id: UUID
    error: Exception | None


@dataclass(frozen=True, slots=True)
class _Expired(Message):
    """The time of a `StopAll` is over."""


@dataclass(slots=True)
class _Entry:
    """A placement with its actors, which are None while they start."""

    placement: Placement
    tap: LifeRef | None = None
    vm: LifeRef | None = None
    told: tuple[float, bool] | None = None
    disowned: bool = False
    paused: bool = False
    snapshots: frozenset[UUID] = frozenset()
    stale: bool = False  # a decision could not be told, because its actors were starting
    view: VmView | None = None


class Host(Actor):
    """Reads its placements on start, on hints and on a slow timer, and starts and stops virtual machines by them."""

    def __init__(
        self,
        node_id: UUID,
        cluster_id: str,
        store: PlacementStore,
        snapshots: SnapshotStore,
        leftovers: Leftovers,
        make_tap: MakeTap,
        make_vm: MakeVm,
        files: Snapshots,
    ) -> None:
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._store = store
        self._snapshots = snapshots
        self._files = files
        self._leftovers = leftovers
        self._make_tap = make_tap
        self._make_vm = make_vm
        self._entries: dict[UUID, _Entry] = {}
        self._destroying: set[UUID] = set()
        self._destroying_snapshots: set[UUID] = set()
        self._orphans: tuple[Leftover, ...] = ()
        self._strangers: tuple[str, ...] = ()
        self._busy = False
        self._again = False
        self._began = 0.0  # the present reading
        self._thorough = True  # what the next reading looks for
        self._failures = 0
        self._reconciled_at: float | None = None
        self._error: str | None = None
        self._retry: Timer | None = None
        self._closed = False
        self._closing: Reply | None = None

    async def init(self) -> None:
        """Read at once, then on hints and on a slow timer."""
        self.ctx.every(SLOW_TIMER, Wake())
        self.ctx.ref.tell(Wake("start"))
        self.ctx.effect(
            self._leftovers.prune,
            name="prune",
            deadline=60.0,
            failed=lambda error: self.ctx.log.warning("old logs not removed", error=str(error)),
        )

    async def receive(self, message: Message) -> None:
        """Handle a hint, a report of a virtual machine, or a request."""
        match message:
            case Wake(quick=quick):
                self._request(thorough=not quick)
            case Attend():
                self._attend(message)
            case _Looked():
                self._looked(message)
            case _Rested():
                self._busy = False
                self._request(thorough=False)
            case _LookFailed(error=error):
                self._look_failed(error)
            case _Started():
                self._started(message)
            case _StartFailed(placement=placement, error=error):
                self.ctx.log.error("actors not started", placement=str(placement.id), error=str(error))
                self._entries.pop(placement.id, None)
                self._check_closed()
            case VmChanged(view=view):
                entry = self._entries.get(view.placement_id)
                if entry is not None:
                    entry.view = view
            case Unhealthy(placement_id=placement_id, reason=reason):
                entry = self._entries.get(placement_id)
                if entry is not None:
                    self._tell(entry, Replace(reason, entry.placement.stop_timeout))
            case Disowned(placement_id=placement_id):
                entry = self._entries.get(placement_id)
                if entry is not None:
                    entry.disowned = True
                    self.ctx.after(_AFTER_CRASH, Wake("an observation was refused"))
            case Down(ref=ref, reason=reason):
                self._ended(ref, failed=reason.kind == "failed")
            case _Destroyed(leftover=leftover, error=error):
                self._destroyed(leftover, error)
            case _SnapshotGone(snapshot_id=snapshot_id, error=error):
                self._destroying_snapshots.discard(snapshot_id)
                if error is not None:  # the next reading tries again
                    self.ctx.log.warning("a deleted snapshot stays", snapshot=str(snapshot_id), error=str(error))
            case Vms():
                self.ctx.reply(self._snapshot())
            case StopAll(deadline=deadline):
                self._stop_all(deadline)
            case _Expired():
                if self._closing is not None:
                    self._closing.reply(not self._entries)
                    self._closing = None
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    # --- reading

    def _request(self, *, thorough: bool = True) -> None:
        self._thorough = self._thorough or thorough
        if self._busy:
            self._again = True
            return
        # An orphan may have become one that may be destroyed.
        thorough, self._thorough = self._thorough or bool(self._orphans), False
        self._busy, self._again = True, False
        self._began = self.ctx.env.monotonic()
        self.ctx.effect(
            partial(self._look, frozenset(self._entries), thorough),
            name="look",
            deadline=_LOOK_DEADLINE,
            then=lambda looked: looked,
            failed=_LookFailed,
        )

    async def _look(self, children: frozenset[UUID], thorough: bool) -> _Looked:
        # Leftovers first: what a child drops meanwhile is then in the database as removed, not the other way round.
        found = await self._leftovers.scan(children) if thorough else ()
        placements = await self._store.placements(self._node_id)
        odd = unknown(placements, children, found)
        tombstones = await self._store.tombstones(self._node_id, odd) if odd else set()
        strangers: tuple[str, ...] | None = None
        if thorough:
            mine = {placement.id for placement in placements} | {leftover.placement_id for leftover in found}
            strangers = await self._leftovers.strangers(mine | children)
        files = await self._files.scan()
        # One of which nothing is here any more has to be told of, too: perhaps only the answer about it was lost.
        doomed = await self._snapshots.deleting(self._node_id, files) if files or thorough else set()
        return _Looked(tuple(placements), found, frozenset(tombstones), strangers, frozenset(doomed))

    def _looked(self, looked: _Looked) -> None:
        self._failures, self._error = 0, None
        self._reconciled_at = self.ctx.env.now()
        # A machine whose actors are starting can't be told anything yet; the next reading finds it.
        ready = {key: entry for key, entry in self._entries.items() if entry.vm is not None}
        children = {key: Child() for key in self._entries}
        children |= {
            key: Child(entry.told, entry.disowned, entry.paused, entry.snapshots) for key, entry in ready.items()
        }
        decisions = decide(looked.placements, children, looked.found, looked.tombstones, self._cluster_id)
        if looked.strangers is not None:
            self._tell_of(decisions.orphans, looked.strangers)
        if not self._closed:
            self._carry_out(decisions, ready)
            for snapshot in looked.doomed - self._destroying_snapshots:
                self._destroy_snapshot(snapshot)
        else:
            # What was stopped here may have been removed since: then nobody starts it again who would find this.
            for leftover in decisions.destroy:
                self._destroy(leftover)
        if self._again:
            # Each reading is of all placements. In a wave of hints, half of the time is for what follows from them.
            self.ctx.after(min(_LONGEST_PAUSE, self.ctx.env.monotonic() - self._began), _Rested())
        else:
            self._busy = False

    def _carry_out(self, decisions: Decisions, ready: dict[UUID, _Entry]) -> None:
        for placement in decisions.start:
            self._start(placement)
        for key, timeout, force in decisions.stop:
            if key in ready:
                ready[key].told = (timeout, force)
                self._tell(ready[key], Stop(timeout, force))
            else:
                self._entries[key].stale = True
        for placement in decisions.resync:
            ready[placement.id].disowned = False
            self._tell(ready[placement.id], Resync(placement.state))
        for key in decisions.retry:
            if key in ready:
                self._tell(ready[key], Retry())
        for key, paused in decisions.pause:
            if key in ready:
                ready[key].paused = paused
                self._tell(ready[key], SetPaused(paused))
            else:
                self._entries[key].stale = True
        for key, snapshot in decisions.snapshot:
            if key in ready:
                ready[key].snapshots |= {snapshot}
                self._tell(ready[key], TakeSnapshot(snapshot))
            else:
                self._entries[key].stale = True
        for leftover in decisions.destroy:
            self._destroy(leftover)

    def _look_failed(self, error: Exception) -> None:
        self._failures += 1
        self._error = str(error)
        ceiling = min(_BACKOFF_MAX, _BACKOFF_FIRST * 2.0 ** min(self._failures, 10))
        wait = self.ctx.env.random.uniform(ceiling / 2, ceiling)
        self.ctx.log.warning("placements could not be read", error=str(error), retry_in=round(wait, 2))
        self._busy = self._again = False
        self._thorough = True
        # One retry at a time: the slow timer fails too, and must not add one of its own each time.
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self.ctx.after(wait, Wake("retry"))

    def _tell_of(self, orphans: tuple[Leftover, ...], strangers: tuple[str, ...]) -> None:
        known = {leftover.placement_id for leftover in self._orphans}
        for leftover in orphans:
            if leftover.placement_id not in known:
                self.ctx.log.warning(
                    "a machine that this database does not know is left alone",
                    placement=str(leftover.placement_id),
                    pid=leftover.pid,
                    its_cluster=leftover.cluster_id,
                )
        for name in strangers:
            if name not in self._strangers:
                self.ctx.log.warning("processes in a cgroup of ours that no placement explains", cgroup=name)
        self._orphans, self._strangers = orphans, strangers

    # --- children

    def _start(self, placement: Placement) -> None:
        self._entries[placement.id] = _Entry(placement)
        self.ctx.effect(
            partial(self._start_actors, placement),
            name=f"start {placement.id}",
            deadline=_START_DEADLINE,
            then=lambda started: started,
            failed=partial(_StartFailed, placement),
        )

    async def _start_actors(self, placement: Placement) -> _Started:
        told = None if placement.wanted else (placement.stop_timeout, placement.force)
        stop = Stop(*told) if told is not None else None
        tap = await self.ctx.start(self._make_tap(placement))
        try:
            # By name, since the machine must still reach its TAP when that was restarted beside it.
            reach = self.ctx.system.name(tap.name)
            vm = await self.ctx.start(self._make_vm(placement, reach, self.ctx.ref, stop))
        except BaseException:
            await self.ctx.stop_child(tap)
            raise
        return _Started(placement, tap, vm, told)

    def _started(self, started: _Started) -> None:
        entry = self._entries.setdefault(started.placement.id, _Entry(started.placement))
        entry.tap, entry.vm, entry.told = started.tap, started.vm, started.told
        # It was made with these.
        entry.paused, entry.snapshots = started.placement.paused, frozenset(started.placement.snapshots)
        self.ctx.monitor(started.vm)
        if entry.stale:
            entry.stale = False
            self._request()
        if self._closed:
            self._tell(entry, Stop(started.placement.stop_timeout, park=True))

    def _tell(self, entry: _Entry, message: Message) -> None:
        if entry.vm is None:
            return
        try:
            entry.vm.tell(message)
        except ActorError as error:
            # It ended just now; its Down is on the way.
            self.ctx.log.info("machine not told", placement=str(entry.placement.id), error=str(error))

    def _ended(self, ref: Ref, *, failed: bool) -> None:
        entry = next((entry for entry in self._entries.values() if entry.vm is ref), None)
        if entry is None:
            return
        del self._entries[entry.placement.id]
        if entry.tap is not None:
            tap = entry.tap
            # What was refused would be refused again: the reading that follows a refusal has its own time. An actor
            # that came to its end has left nothing that would have to be looked for.
            wake = None if entry.disowned else Wake("a machine has ended", quick=not failed)
            self.ctx.effect(
                partial(self.ctx.stop_child, tap),
                name=f"stop {tap.name}",
                deadline=_START_DEADLINE,
                then=lambda _: wake,
                failed=lambda _: wake,
            )
        if failed:
            self.ctx.log.error("a machine's actor failed", placement=str(entry.placement.id))
            self.ctx.after(_AFTER_CRASH, Wake("an actor failed"))
        self._check_closed()

    # --- leftovers

    def _destroy(self, leftover: Leftover) -> None:
        if leftover.placement_id in self._destroying:
            return
        self._destroying.add(leftover.placement_id)
        self.ctx.log.info("remains of a removed placement are destroyed", placement=str(leftover.placement_id))
        self.ctx.effect(
            partial(self._leftovers.destroy, leftover),
            name=f"destroy {leftover.placement_id}",
            deadline=_DESTROY_DEADLINE,
            then=lambda _: _Destroyed(leftover, None),
            failed=lambda error: _Destroyed(leftover, error),
        )

    def _destroyed(self, leftover: Leftover, error: Exception | None) -> None:
        self._destroying.discard(leftover.placement_id)
        if error is not None:  # the next reading tries again
            self.ctx.log.warning("remains stay", placement=str(leftover.placement_id), error=str(error))

    def _destroy_snapshot(self, snapshot_id: UUID) -> None:
        self._destroying_snapshots.add(snapshot_id)
        self.ctx.log.info("a deleted snapshot is removed", snapshot=str(snapshot_id))
        self.ctx.effect(
            partial(self._remove_snapshot, snapshot_id),
            name=f"destroy snapshot {snapshot_id}",
            deadline=_DESTROY_DEADLINE,
            then=lambda _: _SnapshotGone(snapshot_id, None),
            failed=lambda error: _SnapshotGone(snapshot_id, error),
        )

    async def _remove_snapshot(self, snapshot_id: UUID) -> None:
        await self._files.destroy(snapshot_id)
        await self._snapshots.removed(snapshot_id)

    # --- requests

    def _attend(self, asked: Attend) -> None:
        if asked.starts and self._closed:
            self.ctx.fail(Conflict("this host stops all of its machines", code="host-stopping"))
            return
        self._request(thorough=False)
        entry = self._entries.get(asked.placement_id)
        self.ctx.reply(entry.view.phase if entry is not None and entry.view is not None else None)

    def _snapshot(self) -> HostView:
        views = tuple(entry.view for entry in self._entries.values() if entry.view is not None)
        remains = None if self._busy or self._thorough else len(self._destroying)
        return HostView(views, self._orphans, self._reconciled_at, self._error, remains)

    def _stop_all(self, deadline: float) -> None:
        if self._closing is not None:
            self._closing.reply(False)
        self._closed = True
        self._closing = self.ctx.reply_slot()
        self.ctx.log.info("all machines are stopped", count=len(self._entries))
        for entry in self._entries.values():
            self._tell(entry, Stop(entry.placement.stop_timeout, park=True))
        self.ctx.after(deadline, _Expired())
        self._check_closed()

    def _check_closed(self) -> None:
        if self._closing is not None and not self._entries:
            self._closing.reply(True)
            self._closing = None
