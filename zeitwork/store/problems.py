"""What the database's and the system's errors mean to a person."""

from __future__ import annotations

import errno
from pathlib import Path

import psycopg
from psycopg import conninfo, errors

from actors.model.errors import Failed, Problem, Unavailable


class OutcomeUnknown(Unavailable):
    """The connection was lost while a transaction was being committed: it may have happened or not."""

    code = "outcome-unknown"


class CapacityExceeded(Exception):
    """A node has no room for a placement; the message has the numbers. Raised by a trigger (SQLSTATE ZW001)."""


AWAY_FIX = "try again in a moment; `zeitwork doctor` tells what is wrong with the database"


def disk_full(error: BaseException, where: Path | str) -> Problem | None:
    """Return the problem when ``error`` says that a file system is full, else None."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return full_disk(where)
    return None


def full_disk(where: Path | str) -> Problem:
    """Return the problem of a full file system."""
    return Failed(
        f"no space is left on the file system of {where}",
        code="disk-full",
        status=507,
        fix=f"free some space there (df -h {where})",
    )


def away(error: Exception) -> Unavailable:
    """Return the problem of a database that does not answer."""
    return Unavailable(f"the database is away: {first_line(error)}", code="database-away", fix=AWAY_FIX)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message: libpq's and the server's are often several."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def translate(error: psycopg.Error, where: str = "the database") -> Exception:
    """Return what callers shall see in place of ``error``: a `Problem` where a person can act, else the error."""
    if error.sqlstate == "ZW001":
        return CapacityExceeded(error.diag.message_primary or str(error))
    if isinstance(error, errors.DiskFull):
        return full_disk(where)
    # Both end the session, and so undid what was under way; a process that was paused finds this when it goes on.
    if error.sqlstate in ("25P03", "25P04"):
        return Unavailable("the database gave up a transaction that took too long", code="database-slow", fix=AWAY_FIX)
    if isinstance(error, errors.QueryCanceled):
        return Unavailable("the database took too long to answer", code="database-slow", fix=AWAY_FIX)
    if isinstance(error, errors.LockNotAvailable):
        return Unavailable("the database is busy: a lock was not to be had in time", code="database-busy", fix=AWAY_FIX)
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return Unavailable("the database is read-only", code="database-read-only", fix="connect to the primary server")
    # Class 53 (too many connections), 57P (shutting down), 08 and those without a code (connection lost).
    if isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08")[:2] in ("08", "53", "57"):
        return away(error)
    return error


def check_dsn(dsn: str) -> None:
    """Raise a `Problem` that names ``database_url`` when ``dsn`` cannot be read."""
    try:
        conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise Failed(
            f"the database URL cannot be read: {first_line(error)}",
            field="database_url",
            code="invalid-database-url",
            fix="write it like postgresql://user:password@host:5432/dbname",
        ) from error


def describe_dsn(dsn: str) -> str:
    """Return where ``dsn`` leads, without secrets: ``user@host:port/dbname``."""
    values = conninfo.conninfo_to_dict(dsn)
    host = values.get("host") or values.get("hostaddr") or "localhost"
    port = f":{values['port']}" if values.get("port") else ""
    user = f"{values['user']}@" if values.get("user") else ""
    name = f"/{values['dbname']}" if values.get("dbname") else ""
    return f"{user}{host}{port}{name}"


def refused_at_start(error: psycopg.Error, dsn: str) -> Problem:
    """Return what to say when the first connection fails."""
    return Unavailable(
        f"the database at {describe_dsn(dsn)} cannot be used: {first_line(error)}",
        field="database_url",
        code="database-unreachable",
        fix="check --database-url and that the server answers there",
    )
