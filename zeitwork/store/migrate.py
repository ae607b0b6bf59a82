"""Numbered SQL files, applied once each, in order, under a lock; never changed afterwards, never undone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from actors.model.errors import Conflict, Failed
from zeitwork.store.units import Cursor, Units

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
#: Any number; it names the lock that migrating processes take one after the other.
_LOCK = 0x5A4D4947
#: Names of what is in a database, without what extensions brought.
RELATIONS = (
    "select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in "
    "('r', 'p', 'v', 'm', 'S', 'f') and not exists (select from pg_depend d where d.classid = "
    "'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e') order by c.relname"
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. ``checksum`` is the SHA-256 of its bytes."""

    version: int
    name: str
    sql: str
    checksum: str


def load(directory: Traversable | None = None) -> tuple[Migration, ...]:
    """Return the migrations that this version of Zeitwork has, in order.

    Raises `ValueError` on a file with another kind of name, a number used twice, or a gap.
    """
    directory = directory or resources.files("zeitwork.store") / "migrations"
    found = []
    for file in directory.iterdir():
        if not file.name.endswith(".sql"):
            continue
        match = _NAME.fullmatch(file.name)
        if match is None:
            raise ValueError(f"{file.name} is not named like 0001_name.sql")
        content = file.read_bytes()
        found.append(Migration(int(match[1]), match[2], content.decode(), hashlib.sha256(content).hexdigest()))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("migrations must be numbered from 0001 without gaps")
    return tuple(found)


async def migrate(units: Units, migrations: Iterable[Migration] | None = None) -> int:
    """Bring the schema up to date; return how many migrations were applied.

    All of them are one transaction. Raises `Failed` when an applied one was changed since, or when the database was
    migrated by a newer Zeitwork; `Conflict` when it is somebody else's.
    """
    wanted = tuple(load() if migrations is None else migrations)
    return await units.run(lambda cursor: apply(cursor, wanted), name="migrate")


def apply(cursor: Cursor, wanted: tuple[Migration, ...]) -> int:
    """Do what `migrate` does as part of a transaction."""
    # Another host may hold the lock for as long as its own migration takes.
    cursor.execute("set local lock_timeout = '60s'; set local statement_timeout = '120s'")
    cursor.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
    cursor.execute("set local client_min_messages = warning")
    found = [row["relname"] for row in cursor.execute(RELATIONS)]
    if found and "schema_migrations" not in found:
        raise not_empty("the database", found)
    cursor.execute(
        "create table if not exists schema_migrations (version integer primary key, name text not null, "
        "checksum text not null, applied_at timestamptz not null default now())"
    )
    cursor.execute("select version, checksum from schema_migrations order by version")
    applied = {row["version"]: row["checksum"] for row in cursor}
    _check(applied, wanted)
    count = 0
    for migration in wanted:
        if migration.version in applied:
            continue
        cursor.execute(migration.sql.encode())
        cursor.execute(
            "insert into schema_migrations (version, name, checksum) values (%s, %s, %s)",
            (migration.version, migration.name, migration.checksum),
        )
        count += 1
    return count


def not_empty(which: str, found: list[str]) -> Conflict:
    """Return what to say of a database that has something of somebody else's."""
    return Conflict(
        f"{which} is not empty: it has {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}",
        field="database_url",
        fix="give an empty database of its own: create database zeitwork",
    )


def _check(applied: dict[int, str], wanted: tuple[Migration, ...]) -> None:
    newest = max(applied, default=0)
    if newest > len(wanted):
        raise Failed(
            f"the database has schema version {newest}, this Zeitwork knows {len(wanted)}",
            field="database_url",
            code="database-newer",
            fix="install the version of Zeitwork that the other hosts run",
        )
    for migration in wanted:
        known = applied.get(migration.version)
        if known is not None and known != migration.checksum:
            raise Failed(
                f"migration {migration.version:04d}_{migration.name} was changed after the database had applied it",
                field="database_url",
                code="migration-changed",
                fix="install an unmodified Zeitwork; the schema in the database is not the one this code expects",
            )
