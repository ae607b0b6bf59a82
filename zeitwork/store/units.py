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

from zeitwork.store.connections import Connection, Pool, sever
from zeitwork.store.cursor import Cursor
from zeitwork.store.journal import flush
from zeitwork.store.metrics import StoreMetrics
from zeitwork.store.problems import OutcomeUnknown, away, translate

__all__ = ["Cursor", "Unit", "Units"]

T = TypeVar("T")
Unit = Callable[[Cursor], T]

#: Seconds that a statement may take, always.
STATEMENT_TIMEOUT = 10.0
#: Units that run at once; more of them wait in the limiter.
POOL_SIZE = 4
#: Attempts of a unit that the database asks to repeat, and the first and largest wait between them in seconds.
ATTEMPTS = 8
_BACKOFF_FIRST, _BACKOFF_MAX = 0.005, 0.25
#: Seconds between requests to cancel a statement, and after which the connection is severed instead.
_CANCEL_EVERY, _SEVER_AFTER = 0.25, 3.0

_log = structlog.get_logger()


class _Revoked(Exception):
    """The caller was cancelled; the transaction has been rolled back."""


class _Work:
    """One attempt at one unit. ``run`` happens in a thread, everything else on the loop."""

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

    def run(self) -> Any:
        """Run the unit in a transaction and return its result. Raises what the unit or the database raises."""
        with self._lock:
            if self._revoked:
                raise _Revoked
            self._started = True
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
        try:
            connection.cancel_safe(timeout=2.0)
        except (psycopg.Error, OSError) as error:
            _log.debug("a cancel request failed", error=str(error))

    def sever(self) -> None:
        """Cut the connection: the server rolls back by itself."""
        connection = self._connection
        if connection is not None:
            sever(connection)

    def _attempt(self) -> Any:
        connection = self._begin()
        keep = False
        try:
            try:
                with Cursor(connection) as cursor:
                    result = self._unit(cursor)
                    flush(cursor)
            except BaseException:
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
            connection = self._pool.take()
            with self._lock:
                self._connection = connection
            try:
                connection.execute(statement)
            except BaseException as error:
                with self._lock:
                    self._connection = None
                self._pool.discard(connection)
                if last or not isinstance(error, psycopg.OperationalError):
                    raise
            else:
                return connection
        raise AssertionError

    @staticmethod
    def _roll_back(connection: Connection) -> bool:
        try:
            connection.execute("rollback")
        except psycopg.Error:
            return False  # the connection is lost, and the transaction with it
        return not connection.closed

    @staticmethod
    def _commit(connection: Connection) -> bool:
        try:
            connection.execute("commit")
        except psycopg.Error as error:
            # The server answered with an error: it has rolled back. No answer, or one about its own end: unknown.
            if connection.broken or error.sqlstate is None or error.sqlstate.startswith("57"):
                raise OutcomeUnknown(
                    "the connection to the database was lost during a commit: it may have happened or not",
                    fix="look whether it did, then try again",
                ) from error
            raise
        return True


class Units:
    """Runs units of work on Postgres.

    A unit is a synchronous function of a cursor. It is one transaction, READ COMMITTED (one that only reads: a
    snapshot), repeated when the database asks for it (so it must have no other effects), and it runs in a thread that
    is never abandoned: a cancelled caller waits until its transaction was rolled back or, too late, committed. It
    cannot know which. The server ends one whose client was silent in the middle of it for ``idle_timeout`` seconds
    (None: twice as long as a statement may take).
    """

    def __init__(
        self,
        dsn: str,
        *,
        size: int = POOL_SIZE,
        application_name: str = "zeitwork",
        statement_timeout: float = STATEMENT_TIMEOUT,
        idle_timeout: float | None = None,
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
        self._random = rng or random.Random()

    async def run(self, unit: Unit[T], *, name: str, read_only: bool = False) -> T:
        """Run ``unit`` and return its result; ``name`` is what metrics call it.

        Raises `Unavailable` while Postgres is away or too slow, `OutcomeUnknown` when the connection was lost during
        the commit, and whatever the unit raises.
        """
        started = time.perf_counter()
        failed = True
        try:
            for attempt in range(ATTEMPTS):
                try:
                    result: T = await self._run_once(_Work(self._pool, unit, read_only))
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

    def close(self) -> None:
        """Close the idle connections, and those in use as they come back."""
        self._pool.close()

    async def _run_once(self, work: _Work) -> Any:
        self.metrics.waiting += 1
        try:
            await self._limiter.acquire_on_behalf_of(work)
        finally:
            self.metrics.waiting -= 1
        self.metrics.in_flight += 1
        try:
            # "Abandon" only in order to be told of a cancellation at once: `_revoke` then waits for the thread.
            return await trio.to_thread.run_sync(work.run, abandon_on_cancel=True, limiter=self._threads)
        except trio.Cancelled:
            await self._revoke(work)
            raise
        finally:
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
                if trio.current_time() < deadline:
                    await trio.to_thread.run_sync(work.interrupt, limiter=self._cancel_limiter)
                else:
                    work.sever()
                with trio.move_on_after(_CANCEL_EVERY):
                    await ended.wait()
