"""Connections of the pool: how they are made, checked, interrupted and thrown away."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import deque
from threading import Lock
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg.rows import TupleRow

from zeitwork.store.metrics import StoreMetrics

Connection = psycopg.Connection[TupleRow]

#: Seconds until a connection attempt is given up; libpq takes whole ones, 2 at least.
CONNECT_TIMEOUT = 3
#: A peer that vanished is noticed within about 15 s when idle, 8 s when we wait for it: what it then says is a 503.
_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 8000,
}
#: Seconds after which an error without a word of the server means that there was no answer.
SLOW = 1.0
#: The C library's words for what libpq has no others for.
_TIMED_OUT, _FULL = os.strerror(errno.ETIMEDOUT), os.strerror(errno.EAGAIN)


def parameters(dsn: str, application_name: str, options: dict[str, str]) -> dict[str, Any]:
    """Return what to connect with: the DSN, our defaults where it is silent, and our session settings."""
    values: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT, **_KEEPALIVE, **conninfo.conninfo_to_dict(dsn)}
    if "," in f"{values.get('host', '')}{values.get('hostaddr', '')}":
        values.setdefault("target_session_attrs", "read-write")
    values["application_name"] = application_name
    session = " ".join(f"-c {name}={value}" for name, value in options.items())
    values["options"] = f"{values.get('options', '')} {session}".strip()
    return values


class Pool:
    """Idle connections, newest first. Every method blocks and may be called from any thread."""

    def __init__(
        self,
        dsn: str,
        *,
        application_name: str,
        statement_timeout: float,
        idle_timeout: float,
        metrics: StoreMetrics,
    ) -> None:
        milliseconds = int(statement_timeout * 1000)
        self._parameters = parameters(
            dsn,
            application_name,
            {
                "statement_timeout": str(milliseconds),
                "lock_timeout": str(milliseconds // 2),
                # A process that is paused or cut off in the middle of a transaction must not block all others for ever.
                "idle_in_transaction_session_timeout": str(int(idle_timeout * 1000)),
                "timezone": "UTC",
                "default_transaction_isolation": "read\\ committed",
            },
        )
        self._metrics = metrics
        self._idle: deque[Connection] = deque()
        self._lock = Lock()
        self._closed = False

    def take(self) -> Connection:
        """Return a connection that looks alive. Raises `psycopg.OperationalError`."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect()
            if alive(connection):
                return connection
            self.discard(connection)

    def give(self, connection: Connection) -> None:
        """Take back a connection that is outside of any transaction."""
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        self.discard(connection)

    def warm(self) -> None:
        """Make one more idle connection. Raises `psycopg.OperationalError`."""
        self.give(self._connect())

    def discard(self, connection: Connection) -> None:
        """Close a connection whose state is not known."""
        connection.close()
        with self._lock:
            self._metrics.connections -= 1

    def close(self) -> None:
        """Close what is idle now, and the rest as it comes back."""
        with self._lock:
            self._closed = True
        self.drop()

    def drop(self) -> None:
        """Close what is idle now: nobody has to find out of each that its peer is gone."""
        with self._lock:
            idle = list(self._idle)
            self._idle.clear()
        for connection in idle:
            self.discard(connection)

    def _connect(self) -> Connection:
        try:
            connection = psycopg.connect(**self._parameters, autocommit=True)
        except psycopg.Error:
            with self._lock:
                self._metrics.connect_failures += 1
            raise
        with self._lock:
            self._metrics.connects += 1
            self._metrics.connections += 1
        return connection


def alive(connection: Connection) -> bool:
    """Say whether an idle connection still is one: a server that went away leaves something to read."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def unanswered(error: BaseException, waited: float) -> bool:
    """Say whether a connection could not be made, or died as it was taken up, because nobody answered at all.

    ``waited``: seconds until the error. What is refused, by the server or by its machine, is refused at once; so is
    what a unix socket has no room for, because its server takes nobody in.
    """
    if not isinstance(error, psycopg.OperationalError) or error.sqlstate is not None:
        return False
    return waited >= SLOW or _FULL in str(error)


def timed_out(error: BaseException | None) -> bool:
    """Say whether a connection in use was given up by this machine's kernel, as nothing came back any more."""
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None and _TIMED_OUT in str(error)


def sever(connection: Connection) -> None:
    """Shut a connection's socket down, so that the thread that waits on it wakes."""
    try:
        handle = socket.socket(fileno=os.dup(connection.fileno()))
    except (psycopg.Error, OSError):
        return  # closed already
    try:
        handle.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the peer was faster
    finally:
        handle.close()
