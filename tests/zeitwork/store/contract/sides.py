"""The two stores, each driven without a loop, at the same moments and with ids that grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from random import Random
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from tests.simulation.store import Bug, Database
from tests.simulation.store import Store as Double
from tests.simulation.store.database import Transaction
from zeitwork.store import Store, identifiers
from zeitwork.store.cursor import Cursor
from zeitwork.store.journal import flush
from zeitwork.store.notifications import CHANNELS, Notifications
from zeitwork.store.problems import translate
from zeitwork.store.trust import Trust

T = TypeVar("T")

#: Tables without rows that a world makes, or that no clock looks at.
_LEFT_ALONE = ("cluster", "schema_migrations")
_CLOCKS = """
select t.table_name, c.column_name from information_schema.tables t left join information_schema.columns c
    on c.table_name = t.table_name and c.table_schema = 'public' and c.data_type like 'timestamp with%'
where t.table_schema = 'public' and t.table_type = 'BASE TABLE'
"""


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what waits for nothing to its end."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
    coroutine.close()
    raise AssertionError("a unit of work waited for something")


class OneConnection:
    """`zeitwork.store.units.Units` on one connection and without threads.

    ``nows`` is when transactions began, ``now`` the last of it; ``wrote`` whether any has changed something.
    """

    def __init__(self, connection: psycopg.Connection[dict[str, Any]]) -> None:
        self.connection = connection
        self.nows: list[float] = []
        self.now = 0.0
        self.wrote = False
        self._looking = False

    async def run(self, unit: Callable[[Cursor], T], *, name: str, insist: bool = False) -> T:
        """Run a unit as a transaction. To insist changes nothing: this server always answers."""
        self._begin("begin")
        try:
            with Cursor(self.connection) as cursor:
                result = unit(cursor)
                flush(cursor)
            self._commit()
        except psycopg.Error as error:
            self.connection.execute("rollback")
            raise translate(error) from error
        except BaseException:
            self.connection.execute("rollback")
            raise
        return result

    async def read(self, unit: Callable[[Cursor], T], *, name: str) -> T:
        """Run a unit that only reads, in the look that goes on if there is one."""
        if self._looking:
            with Cursor(self.connection) as cursor:
                return unit(cursor)
        with self.look():
            return await self.read(unit, name=name)

    @contextmanager
    def look(self) -> Iterator[None]:
        """See one moment meanwhile."""
        self._begin("begin isolation level repeatable read, read only")
        self._looking = True
        try:
            yield
        finally:
            self._looking = False
            self.connection.execute("rollback")

    def _begin(self, statement: str) -> None:
        cursor = self.connection.execute(f"{statement}; select extract(epoch from now())::float8 as now".encode())
        assert cursor.nextset()
        row = cursor.fetchone()
        assert row is not None
        self.now = row["now"]
        self.nows.append(self.now)

    def _commit(self) -> None:
        row = self.connection.execute("select pg_current_xact_id_if_assigned() is not null as wrote; commit").fetchone()
        assert row is not None
        self.wrote |= row["wrote"]


class Postgres:
    """The real store, on a database that it has for itself. ``now`` is when its last transaction began."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        self.units = OneConnection(self.connection)
        self.store: Any = Store(self.units, Notifications(dsn), reserved=self.units)  # type: ignore[arg-type]
        self.store.trust = Trust(self.units)  # type: ignore[arg-type]
        self._listener = psycopg.connect(dsn, autocommit=True)
        for channel in CHANNELS:
            self._listener.execute(f"listen {channel}".encode())
        self._clocks = self._find_clocks()
        self._events = 0
        self._ids = count(1 << 80)

    @property
    def now(self) -> float:
        return self.units.now

    @property
    def wrote(self) -> bool:
        return self.units.wrote

    @contextmanager
    def growing_ids(self) -> Iterator[None]:
        """Let each new id be above the last one, as those of one machine are but for the same millisecond."""
        real = identifiers.uuid7
        identifiers.uuid7 = lambda milliseconds, chance: UUID(int=next(self._ids))
        try:
            yield
        finally:
            identifiers.uuid7 = real

    def empty(self) -> None:
        """Forget everything. Deleting a few rows is cheaper than a truncation or another database."""
        self._execute(f"delete from {table}" for table in self._clocks)
        self.told()

    def pass_time(self, seconds: float) -> None:
        """Let everything have happened ``seconds`` earlier."""
        self._execute(
            f"update {table} set " + ", ".join(f"{name} = {name} - interval '{seconds} seconds'" for name in names)
            for table, names in self._clocks.items()
            if names and table != "events"
        )

    def told(self) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
        """Return the events that were written and the notifications that were sent since the last call."""
        self._listener.execute("select 1")
        notices = [(one.channel, one.payload) for one in self._listener.notifies(timeout=0)]
        events = self.connection.execute("select * from events where id > %s order by id", (self._events,)).fetchall()
        if events:
            self._events = events[-1]["id"]
        return events, notices

    def rows(self, *statements: str) -> list[list[dict[str, Any]]]:
        """Return what statements find, asked for at once."""
        cursor = self.connection.execute("; ".join(statements).encode())
        found = [cursor.fetchall()]
        while cursor.nextset():
            found.append(cursor.fetchall())
        return found

    def close(self) -> None:
        self._listener.close()
        self.connection.close()

    def _find_clocks(self) -> dict[str, list[str]]:
        """Return the tables and their columns that are times."""
        found: dict[str, list[str]] = {}
        for row in self.rows(_CLOCKS)[0]:
            if row["table_name"] not in _LEFT_ALONE:
                names = found.setdefault(row["table_name"], [])
                if row["column_name"] is not None:
                    names.append(row["column_name"])
        return found

    def _execute(self, statements: Iterator[str]) -> None:
        """Change rows behind the back of triggers and keys."""
        together = "; ".join(("begin", "set local session_replication_role = replica", *statements, "commit"))
        self.connection.execute(together.encode())


class Units:
    """`tests.simulation.store.units.Units` whose transactions happen when they are told to."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self, unit: Callable[[Transaction], T], *, name: str) -> T:
        """Run a unit at the next moment."""
        self._clock.next()
        return self._database.transact(unit, name)

    async def read(self, unit: Callable[[Transaction], T], *, name: str) -> T:
        """Run a unit at the next moment."""
        return await self.run(unit, name=name)


class Clock:
    """Shows the moments of another clock, and ``ahead`` seconds more."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ahead = 0.0
        self._moments: deque[float] = deque()

    def show(self, moments: list[float]) -> None:
        """Let the next transactions happen at these."""
        self._moments.clear()
        self._moments.extend(moments)

    def next(self) -> None:
        """Go on to the next moment; stay at the last."""
        if self._moments:
            self.now = self._moments.popleft() + self.ahead


class Memory:
    """The double, with bugs if they are asked for."""

    def __init__(self, rest: float, bugs: frozenset[Bug]) -> None:
        self.clock = Clock()
        self.database = Database(lambda: self.clock.now, Random(7), rest=rest, bugs=bugs)
        self.store = Double(Units(self.database, self.clock))
        self.wrote = False
        self._notices: list[tuple[str, str]] = []
        self._events = 0
        self.database.committed = self._committed
        self.database.notify = lambda channel, payload: self._notices.append((channel, payload))

    @property
    def now(self) -> float:
        return self.clock.now

    def told(self) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
        """Return the events that were written and the notifications that were sent since the last call."""
        events = [
            {name: getattr(one, name) for name in ("who", "what", "subject_kind", "subject_id", "data")}
            for one in self.database.events[self._events :]
        ]
        self._events = len(self.database.events)
        notices = list(self._notices)
        self._notices.clear()
        return events, notices

    def _committed(self, name: str, term: object) -> None:
        self.wrote = True
