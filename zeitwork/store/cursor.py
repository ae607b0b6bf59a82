"""The cursor that units of work get: dict rows, and what the unit wants told once it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from zeitwork.store.connections import Connection


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that a unit adds to the journal."""

    who: str
    what: str
    subject_kind: str
    subject_id: UUID
    data: Mapping[str, Any]


class Cursor(psycopg.Cursor[dict[str, Any]]):
    """A cursor whose unit's events and notifications are written together, last of all before the commit.

    ``epoch`` is that of the leader whose unit it is, None of anybody else: its events tell it.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, row_factory=dict_row)
        self.new_events: list[NewEvent] = []
        self.notices: dict[tuple[str, str], None] = {}
        self.epoch: int | None = None


def by_index(cursor: Cursor, *, in_order: bool = False) -> None:
    """Have the statements of this transaction look rows up by index, whatever the tables' sizes; in its order, too.

    For statements whose rows are few beside those of their tables, which may have grown a thousandfold since anybody
    counted. One that joins such a table is executed with ``prepare=False`` besides: a connection keeps the plans of
    what it prepares, and one that was made when there was next to nothing reads all of it, for each row, later.
    """
    names = ["seqscan", "hashjoin", "mergejoin", "material"]
    if in_order:
        names += ["bitmapscan", "sort"]
    cursor.execute("select set_config('enable_' || name, 'off', true) from unnest(%s::text[]) as name", (names,))
