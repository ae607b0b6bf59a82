"""One attempt at a unit of work: its transaction, in a thread, and what it finds out of the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg import errors

from zeitwork.store.connections import Connection, Pool, sever, timed_out, unanswered
from zeitwork.store.cursor import Cursor
from zeitwork.store.journal import flush
from zeitwork.store.problems import OutcomeUnknown, first_line

T = TypeVar("T")
Unit = Callable[[Cursor], T]

#: Seconds that a request to cancel a statement may take.
CANCEL_TIMEOUT = 2.0

_log = structlog.get_logger()


class Revoked(Exception):
    """The caller was cancelled; the transaction has been rolled back."""


class Work:
    """One attempt at one unit. ``run`` happens in a thread, everything else on the loop.

    ``answered`` is when the server last answered it, ``silence`` since when it did not at the end and why, ``unheard``
    when it first asked in vain. ``asked`` is when it asked for its transaction, None while it is not waiting for that.
    All by `time.monotonic`. One that ``insists`` asks even a server that is known not to answer; ``hopeless``
    is one that was told to give up.
    """

    def __init__(self, pool: Pool, unit: Unit[Any], read_only: bool, *, insists: bool = False) -> None:
        self.insists = insists
        self.hopeless = False
        self._severed = False
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
        self.unheard: float | None = None

    def run(self) -> Any:
        """Run the unit in a transaction and return its result. Raises what the unit or the database raises."""
        with self._lock:
            if self._revoked:
                raise Revoked
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
            connection.cancel_safe(timeout=CANCEL_TIMEOUT)
        except (psycopg.Error, OSError) as error:
            if isinstance(error, errors.CancellationTimeout):
                self.silence = (asked, "no answer to a request to cancel a statement")
            _log.debug("a cancel request failed", error=str(error))

    def give_up(self) -> None:
        """Let it wait no longer for a transaction, on this connection or another: others found that it waits in vain.

        Does nothing once it has one.
        """
        with self._lock:
            if self.asked is not None:
                self.hopeless = True
                self._cut()

    def sever(self) -> None:
        """Cut the connection: the server rolls back by itself."""
        with self._lock:  # or it might be another's by now
            self._cut()

    def _cut(self) -> None:
        if self._connection is not None:
            self._severed = True
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
                raise Revoked
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
                if last or self.hopeless or self._revoked or not isinstance(error, psycopg.OperationalError):
                    raise
                if self.silence is not None:
                    # The others are of the same age: it shall not wait for one more of them.
                    self._pool.drop()
            else:
                with self._lock:
                    self.asked = None
                self._hear()
                return connection
        raise AssertionError

    def _hear(self) -> None:
        self.answered, self.silence, self.unheard = time.monotonic(), None, None

    def _not_begun(self, error: BaseException) -> None:
        asked, self.asked = self.asked, None
        assert asked is not None
        if unanswered(error, time.monotonic() - asked):
            if self.silence is None or not self._revoked:  # else it is known already why that is so
                self.silence = (asked, first_line(error))
            self.unheard = asked if self.unheard is None else self.unheard
        elif isinstance(error, psycopg.Error) and not timed_out(error) and not self._severed:
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
