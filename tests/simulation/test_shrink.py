"""A failing plan becomes small, and still fails in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.simulation import plan as items
from tests.simulation.crowd import shrunk
from tests.simulation.generate import generate
from tests.simulation.plan import Plan
from tests.simulation.shrink import fewer, shrink
from tests.simulation.store import Bug
from tests.simulation.world import simulate


@given(st.lists(st.integers(0, 30), max_size=40), st.sets(st.integers(0, 30), max_size=4))
def test_nothing_is_left_that_is_not_needed(parts: list[int], needed: set[int]) -> None:
    def fails(some: Sequence[int]) -> bool:
        return needed <= set(some)

    if not fails(parts):
        return
    left = fewer(parts, fails)
    assert sorted(left) == sorted(needed)


@given(st.lists(st.integers(), max_size=12))
def test_the_order_stays(parts: list[int]) -> None:
    left = fewer(parts, lambda some: len(some) >= min(3, len(parts)))
    at = iter(parts)
    assert all(one in at for one in left)


def test_values_become_simpler() -> None:
    plan = generate(3, 9, 3.0)
    kill = items.Kill(71.234, host=1, seconds=7.891)
    plan = replace(plan, items=(*plan.items, kill))
    small = shrink(plan, lambda some: any(isinstance(item, items.Kill) for item in some.items))
    (left,) = small.items
    assert isinstance(left, items.Kill)
    assert left.at == round(left.at)
    assert small.hosts <= 3
    assert small.seconds < 180


def test_no_more_is_tried_than_allowed() -> None:
    tried = 0

    def fails(_: Plan) -> bool:
        nonlocal tried
        tried += 1
        return True

    shrink(generate(3, 9, 3.0), fails, most=25)
    assert tried == 25


def test_a_world_with_a_planted_bug_shrinks_to_what_the_bug_needs() -> None:
    bugs = frozenset({Bug.LEASE_LEAKED})
    plan = generate(2, 4, 2.0)
    small = shrunk(plan, bugs, most=60)
    assert simulate(small, bugs).violations
    assert not simulate(small).violations
    # Something that is made, and that ends.
    assert len(small.items) <= 3 < len(plan.items)


def test_a_plan_that_finds_nothing_stays_as_it_is() -> None:
    plan = generate(1, 3, 1.0)
    assert shrunk(plan) == plan
