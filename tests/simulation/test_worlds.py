"""Whole worlds from seeds: whatever breaks in them, no rule is broken, and all is well in the end."""

from __future__ import annotations

import pytest

from tests.simulation.between import ANSWER_RULES, NOTICE_RULES
from tests.simulation.crowd import cores, run_all
from tests.simulation.generate import generate
from tests.simulation.judge import COMMIT_RULES, SPAWN_RULES, rule_name
from tests.simulation.plan import KINDS
from tests.simulation.rest import END_RULES

#: Worlds altogether and in each test; ``python -m tests.simulation`` runs more.
WORLDS, TOGETHER = 60, 10


@pytest.mark.parametrize("first", range(1, WORLDS + 1, TOGETHER))
def test_no_world_breaks_a_rule(first: int) -> None:
    plans = [generate(seed, 3 + seed % 10, 3.0) for seed in range(first, first + TOGETHER)]
    looked: set[str] = set()
    for result in run_all([(plan, frozenset()) for plan in plans], cores()):
        seed, hosts = result.plan.seed, result.plan.hosts
        again = f"python -m tests.simulation --first {seed} --seeds 1 --hosts {hosts} --minutes 3"
        assert not result.violations, f"{result.violations[0]}; again with: {again}"
        assert result.seconds >= 180
        looked |= result.looks.keys()
    # A rule that nobody looks at is never broken.
    assert looked >= {
        rule_name(rule) for rule in (*COMMIT_RULES, *SPAWN_RULES, *NOTICE_RULES, *ANSWER_RULES, *END_RULES)
    }


def test_worlds_have_many_kinds_of_trouble() -> None:
    """What a plan can hold is in the plans of these seeds, so that nothing is left out by mistake."""
    found = {item.kind for seed in range(1, WORLDS + 1) for item in generate(seed, 3 + seed % 10, 3.0).items}
    assert found == set(KINDS)
