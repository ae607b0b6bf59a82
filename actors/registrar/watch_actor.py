"""Finds hosts that are dead, and has it written. Runs under the leader."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from uuid import UUID

from actors.model.errors import Unavailable
from actors.registrar.messages import Judged, JudgeFailed, Look, Looked, WatchFailed
from actors.registrar.pulse import Pulse
from actors.registrar.sightings import Sightings, nothing
from actors.registrar.store import WatchStore
from actors.registrar.watch import DOWN_AFTER, INTERVAL, MISSED_AFTER, Gossip, State, Verdict, forget, interrupt, step
from runtime import Actor, Message
from runtime.lease import Fenced
from runtime.office import Office

#: Seconds that a look at all signs of life may take, and the judgement of those that are missing.
LOOK_DEADLINE, JUDGE_DEADLINE = 5.0, 10.0
#: First and largest wait in seconds after a look that failed.
BACKOFF_FIRST, BACKOFF_MAX = 0.5, 8.0
#: Largest one after a judgement that failed. What others are silent for is known only while they are looked at.
JUDGE_BACKOFF_MAX = 2 * INTERVAL


class Watch(Actor):
    """One look at a time, each an interval after the end of the one before. ``own`` is the leader's host.

    ``sightings`` tells what the other hosts say of each other, ``pulse`` is that of this host's own signs of life.
    Without either, signs of life in the store are all that counts.
    """

    def __init__(
        self,
        store: WatchStore,
        office: Office,
        own: UUID,
        sightings: Sightings = nothing,
        pulse: Pulse | None = None,
    ) -> None:
        self._store = store
        self._office = office
        self._own = own
        self._sightings = sightings
        self._pulse = pulse or Pulse()
        self._state = State()
        self._condemned: frozenset[UUID] = frozenset()
        self._failures = 0
        self._judge_failures = 0

    async def init(self) -> None:
        """Look for the first time; every silence begins then."""
        self.ctx.ref.tell(Look())

    async def receive(self, message: Message) -> None:
        """Look, learn what was found, and have it written."""
        match message:
            case Look():
                self.ctx.effect(self._store.beats, name="look", deadline=LOOK_DEADLINE, then=Looked, failed=WatchFailed)
            case Looked(beats=beats):
                now, before = self.ctx.env.monotonic(), self._state.contradicted
                gossip = Gossip(self._sightings(), self._pulse.steady(now))
                self._state, verdicts = step(self._own, self._state, beats, now, gossip)
                for beat in beats:
                    if beat.node_id in self._state.contradicted - before:
                        self.ctx.log.warning("other hosts don't reach one that gives signs of life", host=beat.hostname)
                self._failures = 0
                if verdicts:
                    self._condemned = frozenset(verdict.beat.node_id for verdict in verdicts)
                    judge = functools.partial(self._judge, verdicts)
                    self.ctx.effect(
                        judge, name="judge", deadline=JUDGE_DEADLINE, then=lambda judged: judged, failed=JudgeFailed
                    )
                else:
                    self.ctx.after(INTERVAL, Look())
            case Judged(hostnames=hostnames, error=error):
                for hostname in hostnames:
                    self.ctx.log.warning("a host is down", host=hostname)
                if error is not None:
                    self._not_judged(error)
                else:
                    self._judge_failures = 0
                    self.ctx.after(INTERVAL, Look())
            case JudgeFailed(error=error):
                self._not_judged(error)
            case WatchFailed(error=error):
                # Whatever was not to be had of the store, hosts may not have been heard because of the same.
                self._state = forget(self._state)
                wait, self._failures = self._pause(self._failures, BACKOFF_MAX)
                self.ctx.log.warning("hosts are not watched", error=str(error), retry_in=round(wait, 2))
                self.ctx.after(wait, Look())
            case _:
                self.ctx.log.warning("unknown message", message=type(message).__name__)

    def _not_judged(self, error: Exception) -> None:
        steady = self._pulse.steady(self.ctx.env.monotonic()) >= DOWN_AFTER
        # Each time in a row later: others are found between.
        again = min(DOWN_AFTER, MISSED_AFTER * 2.0 ** min(self._judge_failures, 10))
        self._state = interrupt(self._own, self._state, self._condemned, steady=steady, again=again)
        wait, self._judge_failures = self._pause(self._judge_failures, JUDGE_BACKOFF_MAX)
        self.ctx.log.warning("hosts that are dead could not be written down", error=str(error), retry_in=round(wait, 2))
        self.ctx.after(wait, Look())

    def _pause(self, failures: int, longest: float) -> tuple[float, int]:
        """Return how long to wait after one more failure in a row, and how many they are."""
        ceiling = min(longest, BACKOFF_FIRST * 2 ** min(failures + 1, 10))
        return self.ctx.env.random.uniform(ceiling / 2, ceiling), failures + 1

    async def _judge(self, verdicts: Sequence[Verdict]) -> Judged:
        """Have hosts written down, each that can be; return which were."""
        down: list[str] = []
        failed: Exception | None = None
        for verdict in verdicts:
            # Asked before each: it may end while they are written.
            term = self._office.term()
            try:
                if await self._store.mark_down(verdict.beat, verdict.reason, term, grace=verdict.grace):
                    down.append(verdict.beat.hostname)
            except Fenced as fenced:
                self._office.doubt(str(fenced))
                raise
            except Unavailable as error:
                # What is in the way of one may not be in that of the others.
                failed = failed or error
        return Judged(tuple(down), failed)
