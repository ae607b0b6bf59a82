"""A dump as SQL, split into what is sent to a server: statements, and rows of tables. No IO."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_COPY = re.compile(rb"COPY [^;]+ FROM stdin;\n")
#: psql is told by these that it may run no commands of its own in between; nobody else has any to run.
_FOR_PSQL = re.compile(rb"\\(un)?restrict \S+\n")
#: A restore has limits of its own, and older servers do not know all of these.
_LIMIT = re.compile(rb"SET \w+_timeout = \S+;\n")
_END = b"\\.\n"


class Unreadable(ValueError):
    """The script is not one that a dump makes, or it ends too early."""


@dataclass(frozen=True, slots=True)
class Sql:
    """Statements to be run, one after the other."""

    text: bytes


@dataclass(frozen=True, slots=True)
class CopyBegin:
    """Rows follow. ``statement`` without its semicolon."""

    statement: bytes


@dataclass(frozen=True, slots=True)
class CopyRow:
    """One row, in the text form of ``COPY``."""

    line: bytes


@dataclass(frozen=True, slots=True)
class CopyEnd:
    """That were all rows."""


Part = Sql | CopyBegin | CopyRow | CopyEnd


def parts(lines: Iterable[bytes]) -> Iterator[Part]:
    """Yield the parts of a script in order, given its lines with their ends. Raises `Unreadable`."""
    pending: list[bytes] = []
    copying = False
    for line in lines:
        if copying:
            if line == _END:
                copying = False
                yield CopyEnd()
            else:
                yield CopyRow(line)
        elif _COPY.fullmatch(line):
            if any(kept.strip() for kept in pending):
                yield Sql(b"".join(pending))
            pending = []
            copying = True
            yield CopyBegin(line.rstrip(b";\n"))
        elif line.startswith(b"\\"):
            if not _FOR_PSQL.fullmatch(line):
                raise Unreadable(f"a command for psql: {line[:40].decode(errors='replace').strip()}")
        elif not _LIMIT.fullmatch(line):
            pending.append(line)
    if copying:
        raise Unreadable("it ends in the middle of a table")
    if any(kept.strip() for kept in pending):
        yield Sql(b"".join(pending))


def rows(script: Iterable[bytes]) -> dict[str, list[dict[str, str]]]:
    """Return the rows of each table in a script, by the table's name and by column. For small tables of plain values.

    Raises `Unreadable`.
    """
    found: dict[str, list[dict[str, str]]] = {}
    columns: list[str] = []
    table: list[dict[str, str]] = []
    for part in parts(script):
        match part:
            case CopyBegin(statement):
                named = re.fullmatch(r"COPY (?:\w+\.)?(\w+) \(([^)]*)\) FROM stdin", statement.decode())
                if named is None:
                    raise Unreadable(f"rows of an unknown form: {statement[:80]!r}")
                columns = named[2].split(", ")
                table = found.setdefault(named[1], [])
            case CopyRow(line):
                values = line.decode().rstrip("\n").split("\t")
                if len(values) != len(columns):
                    raise Unreadable("a row with too many or too few values")
                table.append(dict(zip(columns, values, strict=True)))
    return found
