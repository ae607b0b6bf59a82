"""Units of work: one synchronous function, one transaction, run beside the loop in a thread of a small pool."""

from __future__ import annotations

import random
import time
from typing import Any, TypeVar

import psycopg
import structlog
import trio
from psycopg import errors

from actors.model.errors import Unavailable
from zeitwork.store.breaker import Breaker
from zeitwork.store.connections import Pool, unanswered
from zeitwork.store.cursor import Cursor
from zeitwork.store.metrics import StoreMetrics
from zeitwork.store.problems import AWAY_FIX, OutcomeUnknown, away, translate
from zeitwork.store.work import Unit, Work

__all__ = ["Cursor", "Unit", "Units"]

T = TypeVar("T")

#: Seconds that a statement may take, always.
STATEMENT_TIMEOUT = 10.0
#: Seconds after which the server ends a transaction whose client is silent in the middle of it. A host that was cut off
#: there holds rows that whoever replaces it needs: its own, for one, which says that it is down.
IDLE_TIMEOUT = 5.0
#: Units that run at once; more of them wait in the limiter.
POOL_SIZE = 4
#: Attempts of a unit that the database asks to repeat, and the first and largest wait between them in seconds.
ATTEMPTS = 8
_BACKOFF_FIRST, _BACKOFF_MAX = 0.005, 0.25
#: Seconds between requests to cancel a statement, and after which the connection is severed instead.
_CANCEL_EVERY, _SEVER_AFTER = 0.25, 3.0
#: Seconds between two looks at what waits for a server that may be gone.
_LOOK_EVERY = 1.0

_log = structlog.get_logger()


class Units:
    """Runs units of work on Postgres.

    A unit is a synchronous function of a cursor. It is one transaction, READ COMMITTED (one that only reads: a
    snapshot), repeated when the database asks for it (so it must have no other effects), and it runs in a thread that
    is never abandoned: a cancelled caller waits until its transaction was rolled back or, too late, committed. It
    cannot know which. The server ends one whose client was silent in the middle of it for ``idle_timeout`` seconds.

    Once one unit found that the server does not answer, all others fail at once, with the reason, until it does again.
    That is so while `watch` runs, which finds out; without it each unit finds out for itself.
    """

    def __init__(
        self,
        dsn: str,
        *,
        size: int = POOL_SIZE,
        application_name: str = "zeitwork",
        statement_timeout: float = STATEMENT_TIMEOUT,
        idle_timeout: float = IDLE_TIMEOUT,
        metrics: StoreMetrics | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.metrics = metrics or StoreMetrics()
        self._pool = Pool(
            dsn,
            application_name=application_name,
            statement_timeout=statement_timeout,
            idle_timeout=idle_timeout,
            metrics=self.metrics,
        )
        self._limiter = trio.CapacityLimiter(size)
        self._threads = trio.CapacityLimiter(size)
        self._cancel_limiter = trio.CapacityLimiter(size)
        self._probes = trio.CapacityLimiter(1)
        self._random = rng or random.Random()
        self._patience = statement_timeout
        self._breaker = Breaker(self._random)
        self._watched = False
        #: What runs, and an event that is replaced and set whenever a silence begins or ends.
        self._works: set[Work] = set()
        self._turn = trio.Event()

    async def run(self, unit: Unit[T], *, name: str, read_only: bool = False, insist: bool = False) -> T:
        """Run ``unit`` and return its result; ``name`` is what metrics call it.

        One that insists asks even a server that is known not to answer: for what tells others of it, now and then.
        Raises `Unavailable` while Postgres is away or too slow, `OutcomeUnknown` when the connection was lost during
        the commit, and whatever the unit raises.
        """
        started = time.perf_counter()
        failed = True
        try:
            for attempt in range(ATTEMPTS):
                work = Work(self._pool, unit, read_only, insists=insist)
                try:
                    result: T = await self._run_once(work)
                    failed = False
                    return result
                except (errors.SerializationFailure, errors.DeadlockDetected) as error:
                    if attempt == ATTEMPTS - 1:
                        raise away(error) from error
                    self.metrics.retries += 1
                    ceiling = min(_BACKOFF_MAX, _BACKOFF_FIRST * 2.0**attempt)
                    await trio.sleep(self._random.uniform(ceiling / 2, ceiling))
                except psycopg.Error as error:
                    silent = self._silent() if work.hopeless else None
                    raise silent or translate(error) from error
            raise AssertionError
        except OutcomeUnknown:
            self.metrics.unknown_outcomes += 1
            raise
        except trio.Cancelled:
            self.metrics.cancelled += 1
            raise
        finally:
            self.metrics.finished(name, time.perf_counter() - started, failed=failed)

    async def read(self, unit: Unit[T], *, name: str) -> T:
        """Run a unit that only reads."""
        return await self.run(unit, name=name, read_only=True)

    def heard(self) -> None:
        """Take note that the server has answered somebody else now: then it answers units, too."""
        self._heard(time.monotonic())

    def close(self) -> None:
        """Close the idle connections, and those in use as they come back."""
        self._pool.close()

    async def watch(self) -> None:
        """Find out when a server that does not answer is back, until cancelled; units fail at once until then."""
        self._watched = True
        try:
            while True:
                due = self._breaker.due(time.monotonic())
                with trio.move_on_after(_LOOK_EVERY if due is None else due) as scope:
                    await self._turn.wait()
                self._hurry(time.monotonic())
                if due is not None and scope.cancelled_caught:
                    await self._probe()
        finally:
            self._watched = False

    async def _probe(self) -> None:
        began = time.monotonic()
        try:
            # A thread that is left behind closes what it gets, and that by the limit of a connection attempt.
            await trio.to_thread.run_sync(self._pool.warm, abandon_on_cancel=True, limiter=self._probes)
        except psycopg.Error as error:
            now = time.monotonic()
            if unanswered(error, now - began):
                self._breaker.missed(now)
                return
        self._heard(time.monotonic())

    def _hurry(self, now: float) -> None:
        """End what waits in vain: no kernel tells of a peer that is frozen, and those of others tell late."""
        silent = self._breaker.silence is not None
        for work in self._works:
            # Longer than the server lets anything take.
            since = work.started if silent else work.asked
            if since is not None and now - since > self._patience:
                work.sever()
            elif silent and not work.insists:
                work.give_up()

    def _heard(self, at: float) -> None:
        ended = self._breaker.answered(at)
        if ended is not None:
            self.metrics.silent = 0
            self._turned()
            _log.info("the database answers again", after=round(at - ended.began, 1))

    def _learn(self, work: Work) -> None:
        """Take in what an attempt that has ended tells of the server."""
        if work.answered is not None:
            self._heard(work.answered)
        if work.silence is None or not self._watched:
            return
        since, reason = work.silence
        if self._breaker.unanswered(since, time.monotonic(), reason, work.unheard):
            self.metrics.silent = 1
            self._pool.drop()
            self._turned()
            _log.warning("the database does not answer", reason=reason)

    def _turned(self) -> None:
        self._turn.set()
        self._turn = trio.Event()

    def _admit(self) -> None:
        silent = self._silent()
        if silent is not None:
            self.metrics.refused += 1
            raise silent

    def _silent(self) -> Unavailable | None:
        """Return the problem of a server that is known not to answer, None while none is."""
        silence = self._breaker.silence
        if silence is None or not self._watched:
            return None
        seconds = max(0.0, time.monotonic() - silence.began)
        return Unavailable(
            f"the database is away: no answer for {seconds:.0f} s ({silence.reason})",
            code="database-away",
            fix=AWAY_FIX,
        )

    async def _run_once(self, work: Work) -> Any:
        if not work.insists:
            self._admit()
        self.metrics.waiting += 1
        try:
            await self._limiter.acquire_on_behalf_of(work)
        finally:
            self.metrics.waiting -= 1
        self.metrics.in_flight += 1
        self._works.add(work)
        try:
            if not work.insists:
                self._admit()  # those before it may have found out
            # "Abandon" only in order to be told of a cancellation at once: `_revoke` then waits for the thread.
            return await trio.to_thread.run_sync(work.run, abandon_on_cancel=True, limiter=self._threads)
        except trio.Cancelled:
            await self._revoke(work)
            raise
        finally:
            self._works.discard(work)
            self._learn(work)
            self.metrics.in_flight -= 1
            self._limiter.release_on_behalf_of(work)

    async def _revoke(self, work: Work) -> None:
        ended = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def tell() -> None:
            token.run_sync_soon(ended.set)

        with trio.CancelScope(shield=True):
            if not work.revoke(tell):
                return
            deadline = trio.current_time() + _SEVER_AFTER
            while not ended.is_set():
                # Again and again: a request that comes between two statements cancels nothing.
                if trio.current_time() < deadline and work.silence is None:
                    await trio.to_thread.run_sync(work.interrupt, limiter=self._cancel_limiter)
                else:
                    work.sever()
                with trio.move_on_after(_CANCEL_EVERY):
                    await ended.wait()
