"""Which placement speaks for an instance: the rule in Python and the one in SQL say the same."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zeitwork.store.current import BLOCKS, COUNTS, FIRST, blocks, counts, current


@dataclass(frozen=True)
class One:
    generation: int
    kept: bool
    lost: bool
    exclusive: bool


ONE = st.builds(One, st.integers(1, 4), st.booleans(), st.booleans(), st.booleans()).filter(
    lambda one: not (one.kept and one.exclusive)
)
# As the database has them: one of each generation, and one that is kept at most.
TRIES = st.lists(ONE, max_size=4, unique_by=lambda one: one.generation).filter(
    lambda tries: sum(one.kept for one in tries) <= 1
)
_TRIES = (
    "(select generation, kept, case when lost then now() end as lost_at, exclusive, 'running' as state "
    "from unnest(%(generation)s::bigint[], %(kept)s::boolean[], %(lost)s::boolean[], %(exclusive)s::boolean[]) "
    "as u (generation, kept, lost, exclusive)) c, (select %(wanted)s::bigint as generation) i"
)


@given(tries=TRIES, generation=st.integers(1, 4))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_rules_are_the_same_in_the_database(database_url: str, tries: list[One], generation: int) -> None:
    values = {
        "generation": [one.generation for one in tries],
        "kept": [one.kept for one in tries],
        "lost": [one.lost for one in tries],
        "exclusive": [one.exclusive for one in tries],
        "wanted": generation,
    }
    with psycopg.connect(database_url, autocommit=True) as connection:

        def ask(rest: str) -> list[int]:
            rows = connection.execute(f"select c.generation from {_TRIES} where {rest}".encode(), values)
            return [row[0] for row in rows.fetchall()]

        first = ask(f"{COUNTS} order by {FIRST} limit 1")
        blocking = ask(f"{BLOCKS} order by 1")
        counting = ask(f"{COUNTS} order by 1")
    found = current(tries, generation)
    assert first == ([] if found is None else [found.generation])
    assert blocking == sorted(one.generation for one in tries if blocks(one))
    assert counting == sorted(one.generation for one in tries if counts(one, generation))


OLD, NEW = One(1, False, False, False), One(2, False, False, False)


@pytest.mark.parametrize(
    ("tries", "expected"),
    [
        ([], None),
        ([OLD], OLD),
        ([OLD, NEW], NEW),
        ([One(1, True, False, False), NEW], One(1, True, False, False)),
        ([One(1, False, True, False)], None),
        ([One(1, False, True, True)], One(1, False, True, True)),
        ([One(2, False, True, False)], One(2, False, True, False)),
        ([One(1, False, True, False), NEW], NEW),
    ],
)
def test_who_speaks(tries: list[One], expected: One | None) -> None:
    assert current(tries, 2) == expected
