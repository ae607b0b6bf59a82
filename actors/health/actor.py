"""Probes the apps of this host, writes changes of their health, and has those ended that do not answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from actors.health.messages import Wake
from actors.health.probe import probe
from actors.health.step import Probed, Pulse, step
from actors.health.store import HealthStore
from actors.host.messages import Unhealthy
from actors.model.health import HealthState, HealthType
from actors.model.records import Placement
from actors.model.restart import RestartMode
from actors.model.states import PlacementState
from runtime import Actor, ActorError, Message, Ref

#: Seconds between readings that nobody asked for, and that one reading or writing may take.
SLOW_TIMER, _DEADLINE = 15.0, 10.0
#: When hints come faster than they can be read: readings that fit between two, as each is of all placements; and the
#: seconds that it may be at most.
_SPARE, _LONGEST_PAUSE = 3, 0.5
#: Seconds from a hint to the reading: the start of a machine is told in four, and only the last is of a running app.
_GATHER = 0.1
#: Seconds until a change that could not be written is written again.
_WRITE_AGAIN = 2.0


@dataclass(frozen=True, slots=True)
class _Read(Message):
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class _ReadFailed(Message):
    error: Exception


@dataclass(frozen=True, slots=True)
class _Rested(Message):
    """The time before a reading, or between two, is over."""


@dataclass(frozen=True, slots=True)
class _Due(Message):
    """The next probe of a target; ``life`` tells its starts apart."""

    placement_id: UUID
    life: int


@dataclass(frozen=True, slots=True)
class _Probed(Message):
    placement_id: UUID
    life: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Write(Message):
    placement_id: UUID
    life: int


@dataclass(frozen=True, slots=True)
class _Written(Message):
    placement_id: UUID
    life: int
    error: Exception | None


@dataclass(slots=True)
class _Target:
    """One start of one app; ``life`` tells it from the next start, which must not get this one's answers."""

    placement: Placement
    life: int
    since: float
    pulse: Pulse = field(default_factory=Pulse)
    reason: str = ""


class Health(Actor):
    """One probe of each app at a time, each at its own interval. Told changes only, never samples."""

    def __init__(self, node_id: UUID, store: HealthStore, host: Ref) -> None:
        self._node_id = node_id
        self._store = store
        self._host = host
        self._targets: dict[UUID, _Target] = {}
        self._lives = 0
        self._busy = False
        self._again = False
        self._began = 0.0  # the present reading

    async def init(self) -> None:
        """Read at once, then on hints and on a slow timer."""
        self.ctx.every(SLOW_TIMER, Wake())
        self.ctx.ref.tell(Wake("start"))

    async def receive(self, message: Message) -> None:
        """Follow which apps run, probe them, and tell what changed."""
        match message:
            case Wake():
                self._hinted()
            case _Read(placements=placements):
                self._follow(placements)
                self._ended_reading()
            case _ReadFailed(error=error):
                self.ctx.log.warning("placements could not be read", error=str(error))
                self._ended_reading()
            case _Rested():
                self._read()
            case _Due(placement_id=key, life=life):
                if (target := self._target(key, life)) is not None:
                    self._probe(target)
            case _Probed(placement_id=key, life=life, reason=reason):
                if (target := self._target(key, life)) is not None:
                    self._probed(target, reason)
            case _Write(placement_id=key, life=life):
                if (target := self._target(key, life)) is not None:
                    self._write(target)
            case _Written(placement_id=key, life=life, error=error):
                if error is not None and self._target(key, life) is not None:
                    self.ctx.log.warning("health could not be written", placement=str(key), error=str(error))
                    self.ctx.after(_WRITE_AGAIN, _Write(key, life))
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    # --- which apps

    def _hinted(self) -> None:
        if self._busy:
            self._again = True
            return
        self._busy = True
        self.ctx.after(_GATHER, _Rested())

    def _read(self) -> None:
        self._busy, self._again = True, False
        self._began = self.ctx.env.monotonic()
        self.ctx.effect(
            self._store.placements,
            self._node_id,
            name="read",
            deadline=_DEADLINE,
            then=lambda found: _Read(tuple(found)),
            failed=_ReadFailed,
        )

    def _ended_reading(self) -> None:
        if self._again:
            took = self.ctx.env.monotonic() - self._began
            self.ctx.after(min(_LONGEST_PAUSE, took * _SPARE), _Rested())
        else:
            self._busy = False

    def _follow(self, placements: tuple[Placement, ...]) -> None:
        wanted = {
            placement.id: placement
            for placement in placements
            if placement.state is PlacementState.RUNNING
            and placement.wanted
            # What stands still, or is about to, can't answer: that is no failure of the app.
            and not placement.paused
            and not placement.snapshots
            and placement.health.type is not HealthType.NONE
        }
        for key in list(self._targets):
            known = wanted.get(key)
            if known is None or known.running_at != self._targets[key].placement.running_at:
                del self._targets[key]
        for key, placement in wanted.items():
            if key in self._targets:
                continue
            self._lives += 1
            since = self.ctx.env.now() if placement.running_at is None else placement.running_at
            known_state = placement.health_state
            pulse = Pulse(known_state, answered=known_state is not HealthState.UNKNOWN)
            self._targets[key] = _Target(placement, self._lives, since, pulse)
            self.ctx.ref.tell(_Due(key, self._lives))

    def _target(self, key: UUID, life: int) -> _Target | None:
        target = self._targets.get(key)
        return target if target is not None and target.life == life else None

    # --- probing

    def _probe(self, target: _Target) -> None:
        placement, life = target.placement, target.life
        check, lease = placement.health, placement.lease
        addresses = [str(lease.v4), *([str(lease.v6)] if lease.v6 is not None else [])]
        key = placement.id
        self.ctx.effect(
            partial(probe, check, addresses, check.port or placement.default_port),
            name=f"probe {key}",
            deadline=check.timeout + 5.0,
            then=lambda reason: _Probed(key, life, reason),
            failed=lambda error: _Probed(key, life, f"the probe failed: {error}"),
        )

    def _probed(self, target: _Target, reason: str) -> None:
        check = target.placement.health
        age = self.ctx.env.now() - target.since
        target.pulse, changed = step(target.pulse, Probed(not reason, check.failures, age))
        if changed:
            target.reason = reason
            self.ctx.log.info("app is " + target.pulse.state, placement=str(target.placement.id), reason=reason or None)
            self._write(target)
        if target.pulse.state is HealthState.UNHEALTHY and target.placement.restart.mode is not RestartMode.NEVER:
            self._end(target, reason or target.reason)
        wait = check.interval * self.ctx.env.random.uniform(0.9, 1.1)
        self.ctx.after(wait, _Due(target.placement.id, target.life))

    def _write(self, target: _Target) -> None:
        key, life = target.placement.id, target.life
        self.ctx.effect(
            partial(self._store.record_health, key, target.pulse.state, target.reason),
            name=f"write {key}",
            deadline=_DEADLINE,
            then=lambda _: _Written(key, life, None),
            failed=lambda error: _Written(key, life, error),
        )

    def _end(self, target: _Target, reason: str) -> None:
        """Have it ended; told with each failed probe, so that one that was lost costs an interval."""
        try:
            self._host.tell(Unhealthy(target.placement.id, reason))
        except ActorError as error:
            self.ctx.log.warning("the host did not take a message", error=str(error))
