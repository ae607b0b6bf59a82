"""The database in memory: tables, transactions that happen at one moment and can be undone, events, notifications."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from actors.model.ids import uuid7
from runtime.lease import Term
from tests.simulation.store import tables
from tests.simulation.store.bugs import Bug

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
T = TypeVar("T")

#: Events that are kept; tests look at recent ones only.
MOST_EVENTS = 200_000


class Table(Generic[K, R]):
    """Rows by their key. What is changed in a transaction that fails is put back."""

    def __init__(self, undo: list[Callable[[], None]]) -> None:
        self._rows: dict[K, R] = {}
        self._undo = undo

    def get(self, key: K) -> R | None:
        return self._rows.get(key)

    def put(self, key: K, row: R) -> R:
        rows, before = self._rows, self._rows.get(key)
        if before is None:
            self._undo.append(lambda: rows.__delitem__(key))
        else:
            self._undo.append(lambda: rows.__setitem__(key, before))
        rows[key] = row
        return row

    def remove(self, key: K) -> None:
        rows, before = self._rows, self._rows.pop(key)
        self._undo.append(lambda: rows.__setitem__(key, before))

    def items(self) -> Iterator[tuple[K, R]]:
        """Keys and rows in the order in which they came."""
        return iter(self._rows.items())

    def __iter__(self) -> Iterator[R]:
        """Rows in the order in which they came."""
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)


class Database:
    """``now`` is its clock (Unix seconds), ``chance`` where ids come from. ``rest`` is how long addresses rest.

    ``committed`` is called after each transaction that wrote something or was a leader's, with its name and the term
    in which a leader did it (None for everyone else): judges look there. ``notify`` gets what is announced.
    """

    def __init__(
        self,
        now: Callable[[], float],
        chance: random.Random,
        *,
        rest: float = 60.0,
        bugs: frozenset[Bug] = frozenset(),
    ) -> None:
        self.now = now
        self.rest = rest
        self.bugs = bugs
        self.committed: Callable[[str, Term | None], None] = lambda name, term: None
        self.notify: Callable[[str, str], None] = lambda channel, payload: None
        self._chance = chance
        self._undo: list[Callable[[], None]] = []
        self._newest_id = 0
        self.regions: Table[UUID, tables.Region] = Table(self._undo)
        self.nodes: Table[UUID, tables.Node] = Table(self._undo)
        self.invitations: Table[UUID, tables.Invitation] = Table(self._undo)
        self.tokens: Table[UUID, tables.JoinToken] = Table(self._undo)
        self.pools: Table[Any, tables.Pool] = Table(self._undo)
        #: How far the addresses were given of networks that no host has any more.
        self.freed_pools: Table[Any, int] = Table(self._undo)
        self.images: Table[UUID, tables.Image] = Table(self._undo)
        self.instances: Table[UUID, tables.Instance] = Table(self._undo)
        self.groups: Table[UUID, tables.Group] = Table(self._undo)
        #: Which hosts (second) have which image (first).
        self.node_images: Table[tuple[UUID, UUID], bool] = Table(self._undo)
        self.placements: Table[UUID, tables.Placement] = Table(self._undo)
        self.leases: Table[Any, tables.Address] = Table(self._undo)
        self.leadership: Table[bool, tables.Leadership] = Table(self._undo)
        self.events: list[tables.Event] = []
        #: The requests of people that were committed, in order: see `Transaction.request`.
        self.requests: list[tuple[float, str]] = []
        self.transactions = 0
        self.cluster_id = self.new_id()

    def new_id(self) -> UUID:
        """Return a new UUIDv7; they grow, as those of one machine do."""
        made = uuid7(int(self.now() * 1000), self._chance.randbytes(10))
        # A clock that was set back must not make what is newer look older than what is there.
        if made.int <= self._newest_id:
            made = UUID(int=self._newest_id + 1 + self._chance.randrange(1 << 20))
        self._newest_id = made.int
        return made

    def transact(self, unit: Callable[[Transaction], T], name: str, request: str = "") -> T:
        """Run a unit at one moment: all of it or, when it raises, nothing of it. ``request`` names whose it is."""
        del self._undo[:]
        transaction = Transaction(self)
        try:
            result = unit(transaction)
        except BaseException:
            for undo in reversed(self._undo):
                undo()
            del self._undo[:]
            raise
        wrote = bool(self._undo)
        del self._undo[:]
        self.transactions += 1
        if request:
            self.requests.append((self.now(), request))
        now = self.now()
        for who, what, kind, subject, data in transaction.events:
            self.events.append(tables.Event(len(self.events) + 1, now, who, what, kind, subject, data))
        # A leader that was let through is looked at even if it found nothing to write.
        if wrote or transaction.term is not None:
            self.committed(name, transaction.term)
        for channel, payload in transaction.notices:
            self.notify(channel, payload)
        if transaction.events:
            self.notify("zw_events", str(len(self.events)))
        return result


class Transaction:
    """What a unit gets: the database, its own moment, and what it tells others once it is committed."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = database.now()
        self.bugs = database.bugs
        self.events: list[tuple[str, str, str, UUID, Mapping[str, Any]]] = []
        self.notices: dict[tuple[str, str], None] = {}
        #: The term in which a leader acts here, for the judges: noted even where a bug forgets to check it.
        self.term: Term | None = None

    def record(self, who: str, what: str, kind: str, subject: UUID, data: Mapping[str, Any] | None = None) -> None:
        """Append an event."""
        told = {} if self.term is None else {"epoch": self.term.epoch}
        self.events.append((who, what, kind, subject, told | dict(data or {})))

    def announce(self, channel: str, identifier: UUID) -> None:
        """Notify once the transaction is committed."""
        self.notices[channel, str(identifier)] = None


def moment(seconds: float) -> datetime:
    """Return a time as rows hand it out."""
    return datetime.fromtimestamp(seconds, UTC)


def moment_or_none(seconds: float | None) -> datetime | None:
    """Return a time as rows hand it out, None for none."""
    return None if seconds is None else moment(seconds)
