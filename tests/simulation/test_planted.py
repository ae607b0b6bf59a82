"""The harness bites: each planted bug breaks a rule in one of the first few seeds, and without it none is broken there.

Small plans that found one are kept, too: they go on to find it whatever becomes of the making of plans.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.crowd import PLANS, cores, run_all
from tests.simulation.generate import generate
from tests.simulation.judge import Violation
from tests.simulation.plan import Plan
from tests.simulation.store import Bug
from tests.simulation.world import simulate

#: In how many seeds each bug is found at most, and by which rule.
FOUND: dict[Bug, tuple[int, str]] = {
    Bug.NO_FENCE: (16, "no write of a term that is over"),
    Bug.NO_EPOCH_CHECK: (16, "no write of a term that is over"),
    Bug.DOUBLE_PLACEMENT: (4, "one placement serves"),
    Bug.CAPACITY_IGNORED: (4, "no node is given more than it has"),
    Bug.CAPACITY_TWICE: (8, "converged: instances are as wanted"),
    Bug.LEASE_LEAKED: (2, "leases are those of live placements"),
    Bug.NO_REST: (2, "no address twice"),
    Bug.BLIND_WRITE: (12, "leases are those of live placements"),
    Bug.STOP_FORGOTTEN: (2, "converged: instances are as wanted"),
    Bug.SINGLETON_TWICE: (4, "nothing is placed beside what is in its way"),
    Bug.KEPT_FOR_EVER: (6, "converged: instances are as wanted"),
    Bug.EARLY_END: (8, "what moves serves on"),
    Bug.NO_SLOW_TIMER: (16, "converged: instances are as wanted"),
    Bug.OUTCOME_ASSUMED: (8, "converged: instances are as wanted"),
    Bug.NO_INTENT: (2, "machine rules"),
    Bug.ADOPTED_BLINDLY: (6, "machines are taken over rightly"),
}
MOST = max(seeds for seeds, _ in FOUND.values())
KEPT = PLANS / "planted"


def plan_of(seed: int) -> Plan:
    return generate(seed, 3 + seed % 3, 3.0)


def test_every_bug_is_looked_for() -> None:
    assert set(FOUND) == set(Bug)
    assert {path.stem for path in KEPT.glob("*.json")} <= {bug.value for bug in Bug}


@pytest.mark.parametrize("bug", FOUND)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    seeds, rule = FOUND[bug]
    jobs = [(plan_of(seed), frozenset({bug})) for seed in range(1, seeds + 1)]
    found = {violation.rule for violation in next_violations(jobs)}
    assert found, f"{bug} is not found in {seeds} seeds"
    # Later ones may break because of the first.
    assert rule in found or any(other.startswith("converged") for other in found), found


def next_violations(jobs: list[tuple[Plan, frozenset[Bug]]]) -> tuple[Violation, ...]:
    for result in run_all(jobs, cores()):
        if result.violations:
            return result.violations
    return ()


def test_without_them_the_same_seeds_find_nothing() -> None:
    for result in run_all([(plan_of(seed), frozenset()) for seed in range(1, MOST + 1)], cores()):
        assert not result.violations, f"seed {result.plan.seed}: {result.violations[0]}"


@pytest.mark.parametrize("path", sorted(KEPT.glob("*.json")), ids=lambda path: path.stem)
def test_a_small_plan_finds_it_and_finds_nothing_without_it(path: Path) -> None:
    plan, bug = Plan.read(path), Bug(path.stem)
    assert simulate(plan, frozenset({bug})).violations, f"{bug} is not found any more"
    assert not simulate(plan).violations
