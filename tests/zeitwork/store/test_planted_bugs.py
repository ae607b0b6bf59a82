"""Bugs that were planted in how placing is stored: the races of `races` find each of them within a few rounds.

What is planted is what somebody could break: a lock that is left out, a check that is not made. That the same rounds
find nothing without a bug is in `test_scheduling_races`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from runtime.lease import Fenced, Term
from tests.conftest import TEMPLATE
from tests.zeitwork.store.races import run_round, slow_statements
from zeitwork.store import assignments, instance_rows, leases, node_rows, placements, pools, scheduling
from zeitwork.store.cursor import Cursor
from zeitwork.store.embedded import EmbeddedServer

__all__ = ["slow_statements"]
pytestmark = pytest.mark.usefixtures("slow_statements")

#: Each bug is found within so many rounds: most at once, the rarest in every second or third one.
ROUNDS = 30

Plant = Callable[[pytest.MonkeyPatch, "psycopg.Connection[Any]"], None]
PLANTS: dict[str, tuple[Plant, tuple[str, ...]]] = {}


def plant(*found: str) -> Callable[[Plant], Plant]:
    """Register a bug, and what may be said when it is found."""

    def register(function: Plant) -> Plant:
        PLANTS[function.__name__] = (function, found)
        return function

    return register


def without(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, part: str, instead: str = "") -> None:
    """Take a part out of a statement; the test fails if it is not there any more."""
    statement = getattr(module, name)
    assert part in statement, f"{module.__name__}.{name} does not say {part!r} any more"
    monkeypatch.setattr(module, name, statement.replace(part, instead))


@plant("placed by epoch 1 in epoch 2")
def no_fencing(monkeypatch: pytest.MonkeyPatch, _: psycopg.Connection[Any]) -> None:
    """A leader's transactions do not ask whether it leads."""
    monkeypatch.setattr(scheduling, "fence", lambda cursor, term: None)


@plant("placed by epoch 1 in epoch 2")
def lost_epoch_check(monkeypatch: pytest.MonkeyPatch, _: psycopg.Connection[Any]) -> None:
    """They ask whether somebody leads, not whether it is they."""

    def fence(cursor: Cursor, term: Term) -> None:
        cursor.execute("select from leadership where expires_at > clock_timestamp() for key share")
        if cursor.fetchone() is None:
            raise Fenced(term, "nobody leads")

    monkeypatch.setattr(scheduling, "fence", fence)


@plant("placed by epoch 1 in epoch 2")
def fence_that_holds_nobody_off(monkeypatch: pytest.MonkeyPatch, _: psycopg.Connection[Any]) -> None:
    """They ask, but an election may happen between that and the commit."""

    def fence(cursor: Cursor, term: Term) -> None:
        cursor.execute("select from leadership where epoch = %s and boot = %s", (term.epoch, term.boot))
        if cursor.fetchone() is None:
            raise Fenced(term, "another epoch has begun")

    monkeypatch.setattr(scheduling, "fence", fence)


@plant("placed twice", "UniqueViolation")
def double_placement(monkeypatch: pytest.MonkeyPatch, _: psycopg.Connection[Any]) -> None:
    """Nobody looks whether an earlier placement is still there."""
    monkeypatch.setattr(assignments, "placed", lambda cursor, rows: {row["id"]: assignments._Placed() for row in rows})


@plant("placed twice", "UniqueViolation", "placed what was not wanted")
def instances_not_locked(monkeypatch: pytest.MonkeyPatch, _: psycopg.Connection[Any]) -> None:
    """What is wanted may change between the look and the commit."""
    without(monkeypatch, instance_rows, "_LOCK_SEVERAL", "for no key update")


@plant("placed on a host that takes nothing")
def nodes_not_locked(monkeypatch: pytest.MonkeyPatch, _: psycopg.Connection[Any]) -> None:
    """A host may be drained or closed between the look and the commit. The trigger still keeps its capacity."""
    without(monkeypatch, node_rows, "_LOCK_SEVERAL", "for no key update")


@plant("a host has more than fits", "an address was chosen although it is in use")
def capacity_not_counted_under_a_lock(monkeypatch: pytest.MonkeyPatch, connection: psycopg.Connection[Any]) -> None:
    """Both that count count without a lock; nor are addresses chosen under one, which would keep others off as well."""
    without(monkeypatch, node_rows, "_LOCK_SEVERAL", "for no key update")
    without(monkeypatch, pools, "_LOCK_POOLS", "for no key update of p")
    edit_function(connection, "placements_check_capacity", "for no key update;", ";")


@plant("a host has more than fits")
def capacity_counted_before_the_lock(monkeypatch: pytest.MonkeyPatch, connection: psycopg.Connection[Any]) -> None:
    """Both that count go by what they saw before they had the lock."""
    use_of, lock_nodes = assignments.use_of, assignments.lock_nodes
    seen: dict[frozenset[UUID], dict[UUID, tuple[int, int]]] = {}

    def lock(cursor: Cursor, node_ids: set[UUID]) -> dict[UUID, dict[str, Any]]:
        seen[frozenset(node_ids)] = use_of(cursor, node_ids)
        return lock_nodes(cursor, node_ids)

    monkeypatch.setattr(assignments, "lock_nodes", lock)
    monkeypatch.setattr(assignments, "use_of", lambda cursor, rows: seen.get(frozenset(rows), {}))
    connection.execute("drop trigger placements_capacity on placements")


@plant("wait although")
def capacity_counted_twice(monkeypatch: pytest.MonkeyPatch, _: psycopg.Connection[Any]) -> None:
    """What is placed is taken off twice."""
    use_of = assignments.use_of

    def twice(cursor: Cursor, rows: Mapping[UUID, Any]) -> dict[UUID, tuple[int, int]]:
        return {node: (2 * vcpu, 2 * memory) for node, (vcpu, memory) in use_of(cursor, rows).items()}

    monkeypatch.setattr(assignments, "use_of", twice)


@plant("leases do not match placements")
def leaked_lease(monkeypatch: pytest.MonkeyPatch, connection: psycopg.Connection[Any]) -> None:
    """Addresses of what is removed stay leased, and the check at the commit is not made."""
    monkeypatch.setattr(placements, "release", lambda *arguments: None)
    connection.execute("drop trigger placements_leases on placements")


@plant("has 2 leases")
def leaked_lease_that_the_database_refuses(monkeypatch: pytest.MonkeyPatch, _: psycopg.Connection[Any]) -> None:
    """Addresses of what is removed stay leased: the check at the commit refuses it, loudly."""
    monkeypatch.setattr(placements, "release", lambda *arguments: None)


@plant("an address was given twice", "leases do not match placements")
def addresses_taken_over(monkeypatch: pytest.MonkeyPatch, connection: psycopg.Connection[Any]) -> None:
    """Two choose the same address, and the second one's lease replaces the first one's."""
    without(monkeypatch, node_rows, "_LOCK_SEVERAL", "for no key update")
    without(monkeypatch, pools, "_LOCK_POOLS", "for no key update of p")
    without(monkeypatch, leases, "_LEASE", "where leases.state = 'resting' and leases.rest_until <= now()")
    # The capacity's own lock comes too early to leave room for it.
    edit_function(connection, "placements_check_capacity", "for no key update;", ";")


@plant("UniqueViolation")
def answer_that_was_lost_not_expected(monkeypatch: pytest.MonkeyPatch, _: psycopg.Connection[Any]) -> None:
    """Who applies a plan anew, since it is not known whether it was, is not told that it was."""
    placed = assignments.placed

    def undone(cursor: Cursor, rows: Any) -> dict[UUID, Any]:
        found = placed(cursor, rows)
        for state in found.values():
            if state.done:
                state.done = state.blocked = False
        return found

    monkeypatch.setattr(assignments, "placed", undone)


def edit_function(connection: psycopg.Connection[Any], name: str, part: str, instead: str) -> None:
    """Replace a part of a function in the database."""
    row = connection.execute("select pg_get_functiondef(%s::regproc)", (name,)).fetchone()
    assert row is not None
    assert part in row[0]
    connection.execute(row[0].replace(part, instead).encode())


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PLANTS)
async def test_a_planted_bug_is_found(name: str, postgres_server: EmbeddedServer) -> None:
    function, expected = PLANTS[name]
    seen: list[str] = []
    with psycopg.connect(postgres_server.dsn, autocommit=True) as server:
        for seed in range(ROUNDS):
            database = f"p_{uuid4().hex}"
            server.execute(f"create database {database} template {TEMPLATE} strategy file_copy".encode())
            dsn = make_conninfo(postgres_server.dsn, dbname=database)
            try:
                with pytest.MonkeyPatch.context() as patched, psycopg.connect(dsn, autocommit=True) as connection:
                    function(patched, connection)
                    seen = await run_round(dsn, seed)
            finally:
                server.execute(f"drop database {database} with (force)".encode())
            if any(words in one for one in seen for words in expected):
                return
    pytest.fail(f"{name} was not found in {ROUNDS} rounds: {seen}")
