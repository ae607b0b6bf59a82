"""Units of work: one synchronous function, one transaction, run beside the loop in a thread of a small pool."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
import structlog
import trio
from psycopg import errors

from actors.model.errors import Unavailable
from zeitwork.store.breaker import Breaker
from zeitwork.store.connections import Connection, Pool, sever, timed_out, unanswered
from zeitwork.store.cursor import Cursor
from zeitwork.store.journal import flush
from zeitwork.store.metrics import StoreMetrics
from zeitwork.store.problems import AWAY_FIX, OutcomeUnknown, away, first_line, translate

__all__ = ["Cursor", "Unit", "Units"]

T = TypeVar("T")
Unit = Callable[[Cursor], T]

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
#: Seconds that a request to cancel a statement may take.
_CANCEL_TIMEOUT = 2.0
#: Seconds between two looks at what waits for a server that may be gone.
_LOOK_EVERY = 1.0

_log = structlog.get_logger()


class _Revoked(Exception):
    """The caller was cancelled; the transaction has been rolled back."""


class _Work:
    """One attempt at one unit. ``run`` happens in a thread, everything else on the loop.

    ``answered`` is when the server last answered it, ``silence`` since when it did not at the end and why. ``asked`` is
    when it asked for its transaction, None while it is not waiting for that. All by `time.monotonic`.
    """

    def __init__(self, pool: Pool, unit: Unit[Any], read_only: bool) -> None:
        self._pool = pool
        self._unit = unit
        self._read_only = read_only
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._revoked = False
        self._started = False
        self._done = False
        self._tell: Callable[[], object] | None = None
        self.started = time.monotonic()
        self.asked: float | None = None
        self.answered: float | None = None
        self.silence: tuple[float, str] | None = None

    def run(self) -> Any:
        """Run the unit in a transaction and return its result. Raises what the unit or the database raises."""
        with self._lock:
            if self._revoked:
                raise _Revoked
            self._started = True
            self.started = time.monotonic()
        try:
            return self._attempt()
        finally:
            with self._lock:
                self._done = True
                self._connection = None
                tell = self._tell
            if tell is not None:
                tell()

    def revoke(self, tell: Callable[[], object]) -> bool:
        """Ask the unit to end without a commit; False when no thread has it. ``tell`` is called as the thread ends."""
        with self._lock:
            self._revoked = True
            self._tell = tell
            return self._started and not self._done

    def interrupt(self) -> None:
        """Cancel the statement that runs now. Blocks for as long as a connection attempt."""
        connection = self._connection
        if connection is None:
            return
        asked = time.monotonic()
        try:
            connection.cancel_safe(timeout=_CANCEL_TIMEOUT)
        except (psycopg.Error, OSError) as error:
            if isinstance(error, errors.CancellationTimeout):
                self.silence = (asked, "no answer to a request to cancel a statement")
            _log.debug("a cancel request failed", error=str(error))

    def sever(self) -> None:
        """Cut the connection: the server rolls back by itself."""
        with self._lock:  # or it might be another's by now
            if self._connection is not None:
                sever(self._connection)

    def _attempt(self) -> Any:
        connection = self._begin()
        keep = False
        try:
            try:
                with Cursor(connection) as cursor:
                    result = self._unit(cursor)
                    flush(cursor)
            except BaseException as error:
                self._doubt(error)
                keep = self._roll_back(connection)
                raise
            with self._lock:
                revoked = self._revoked
            if revoked:
                self._roll_back(connection)
                raise _Revoked
            keep = self._commit(connection)
            return result
        finally:
            with self._lock:
                self._connection = None
                keep = keep and not self._revoked
            if keep:
                self._pool.give(connection)
            else:
                self._pool.discard(connection)

    def _begin(self) -> Connection:
        """Return a connection with a transaction open. One that had died while idle is replaced, once."""
        # A read sees one moment, however many statements it has; that costs nothing and never fails when nothing is
        # written.
        statement = "begin isolation level repeatable read, read only" if self._read_only else "begin"
        for last in (False, True):
            self.asked = time.monotonic()
            try:
                connection = self._pool.take()
            except BaseException as error:
                self._not_begun(error)
                raise
            with self._lock:
                self._connection = connection
            try:
                connection.execute(statement)
            except BaseException as error:
                with self._lock:
                    self._connection = None
                self._pool.discard(connection)
                self._not_begun(error)
                if last or not isinstance(error, psycopg.OperationalError):
                    raise
                if self.silence is not None:
                    # The others are of the same age: it shall not wait for one more of them.
                    self._pool.drop()
            else:
                self.asked = None
                self._hear()
                return connection
        raise AssertionError

    def _hear(self) -> None:
        self.answered, self.silence = time.monotonic(), None

    def _not_begun(self, error: BaseException) -> None:
        asked, self.asked = self.asked, None
        assert asked is not None
        if unanswered(error, time.monotonic() - asked):
            self.silence = (asked, first_line(error))
        elif isinstance(error, psycopg.Error) and not timed_out(error):
            self._hear()

    def _doubt(self, error: BaseException) -> None:
        if self.answered is not None and timed_out(error):
            self.silence = (self.answered, first_line(error))

    def _roll_back(self, connection: Connection) -> bool:
        try:
            connection.execute("rollback")
        except psycopg.Error:
            return False  # the connection is lost, and the transaction with it
        if connection.closed:
            return False
        self._hear()
        return True

    def _commit(self, connection: Connection) -> bool:
        try:
            connection.execute("commit")
        except psycopg.Error as error:
            self._doubt(error)
            # The server answered with an error: it has rolled back. No answer, or one about its own end: unknown.
            if connection.broken or error.sqlstate is None or error.sqlstate.startswith("57"):
                raise OutcomeUnknown(
                    "the connection to the database was lost during a commit: it may have happened or not",
                    fix="look whether it did, then try again",
                ) from error
            raise
        self._hear()
        return True


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
        self._works: set[_Work] = set()
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
                try:
                    result: T = await self._run_once(_Work(self._pool, unit, read_only), insist=insist)
                    failed = False
                    return result
                except (errors.SerializationFailure, errors.DeadlockDetected) as error:
                    if attempt == ATTEMPTS - 1:
                        raise away(error) from error
                    self.metrics.retries += 1
                    ceiling = min(_BACKOFF_MAX, _BACKOFF_FIRST * 2.0**attempt)
                    await trio.sleep(self._random.uniform(ceiling / 2, ceiling))
                except psycopg.Error as error:
                    raise translate(error) from error
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
        """Cut what waits for a server longer than that lets anything take: no kernel tells of a peer that is frozen."""
        for work in self._works:
            since = work.started if self._breaker.silence is not None else work.asked
            if since is not None and now - since > self._patience:
                work.sever()

    def _heard(self, at: float) -> None:
        ended = self._breaker.answered(at)
        if ended is not None:
            self.metrics.silent = 0
            self._turned()
            _log.info("the database answers again", after=round(at - ended.since, 1))

    def _learn(self, work: _Work) -> None:
        """Take in what an attempt that has ended tells of the server."""
        if work.answered is not None:
            self._heard(work.answered)
        if work.silence is None or not self._watched:
            return
        since, reason = work.silence
        if self._breaker.unanswered(since, time.monotonic(), reason):
            self.metrics.silent = 1
            self._pool.drop()
            self._turned()
            _log.warning("the database does not answer", reason=reason)

    def _turned(self) -> None:
        self._turn.set()
        self._turn = trio.Event()

    def _admit(self) -> None:
        silence = self._breaker.silence
        if silence is None or not self._watched:
            return
        self.metrics.refused += 1
        seconds = max(0.0, time.monotonic() - silence.since)
        raise Unavailable(
            f"the database is away: no answer for {seconds:.0f} s ({silence.reason})",
            code="database-away",
            fix=AWAY_FIX,
        )

    async def _run_once(self, work: _Work, *, insist: bool) -> Any:
        if not insist:
            self._admit()
        self.metrics.waiting += 1
        try:
            await self._limiter.acquire_on_behalf_of(work)
        finally:
            self.metrics.waiting -= 1
        self.metrics.in_flight += 1
        self._works.add(work)
        try:
            if not insist:
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

    async def _revoke(self, work: _Work) -> None:
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
