"""The harness bites: each planted bug breaks a rule in one of the first few seeds, and without it none is broken there.

Small plans that found one are kept, too: they go on to find it whatever becomes of the making of plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.simulation.crowd import PLANS
from tests.simulation.generate import generate
from tests.simulation.judge import Violation
from tests.simulation.plan import Plan
from tests.simulation.store import Bug
from tests.simulation.world import simulate


@dataclass(frozen=True)
class Hunt:
    """Where a bug is looked for: at most in so many seeds, in worlds with this trouble. One of ``rules`` finds it."""

    seeds: int
    rules: tuple[str, ...]
    focus: tuple[str, ...] = ()
    crowded: bool | None = None

    def plans(self) -> list[Plan]:
        """Return the plans of its seeds."""
        seeds = range(1, self.seeds + 1)
        return [generate(seed, 3 + seed % 2, 2.0, focus=self.focus, crowded=self.crowded) for seed in seeds]


_OVER, _CONVERGED = "no write of a term that is over", "converged: instances are as wanted"
_BESIDE = "nothing is placed beside what is in its way"
# The same for all of these: without bugs it is run once.
_REMOVAL = Hunt(7, ("hosts are removed rightly", "who was removed stays away", _CONVERGED), ("removal",))
HUNTS: dict[Bug, Hunt] = {
    Bug.NO_FENCE: Hunt(6, (_OVER,), ("ambush-apply",)),
    Bug.NO_EPOCH_CHECK: Hunt(6, (_OVER,), ("ambush-apply",)),
    Bug.DOUBLE_PLACEMENT: Hunt(3, ("one placement serves", _BESIDE), ("slow", "kill")),
    Bug.CAPACITY_IGNORED: Hunt(2, ("no node is given more than it has",), ("kill",), crowded=True),
    Bug.CAPACITY_TWICE: Hunt(3, (_CONVERGED,), ("kill",), crowded=True),
    Bug.LEASE_LEAKED: Hunt(1, ("leases are those of live placements",), ("kill",)),
    Bug.NO_REST: Hunt(1, ("no address twice",), ("kill",)),
    Bug.BLIND_WRITE: Hunt(8, ("leases are those of live placements", _CONVERGED), ("late",)),
    Bug.STOP_FORGOTTEN: Hunt(4, (_CONVERGED,), ("kill",)),
    Bug.SINGLETON_TWICE: Hunt(3, (_BESIDE, "never two machines of one"), ("singletons", "cut", "crash")),
    Bug.KEPT_FOR_EVER: Hunt(8, (_CONVERGED, "one placement serves"), ("kill",)),
    Bug.EARLY_END: Hunt(10, ("what moves serves on",), ("kill",)),
    Bug.RAISED_BY_BEAT: _REMOVAL,
    Bug.REMOVED_BLINDLY: _REMOVAL,
    Bug.REMOVED_ALIVE: _REMOVAL,
    Bug.LEFT_FOR_LOST: _REMOVAL,
    Bug.INVITED_TWICE: Hunt(2, ("a machine is one node",), ("invitation", "lost-answers")),
    Bug.NEVER_GIVEN_UP: Hunt(2, ("converged: invitations have ended",), ("invitation",)),
    Bug.NO_SLOW_TIMER: Hunt(4, (_CONVERGED,), ("no-hints",)),
    Bug.OUTCOME_ASSUMED: Hunt(6, (_CONVERGED,), ("lost-answers",)),
    Bug.NO_INTENT: Hunt(1, ("machine rules",), ("kill",)),
    Bug.LATE_COMMAND: Hunt(3, ("late commands are refused",), ("late-command",)),
    Bug.WRONG_REPLY: Hunt(1, ("answers are those of their requests",), ("links",)),
    Bug.NEVER_SOUGHT: Hunt(4, ("converged: hosts see each other",), ("split",)),
    Bug.NO_GRACE: Hunt(4, ("who answers others is given time",), ("cut", "links")),
    Bug.RAISED_BY_GOSSIP: Hunt(4, ("the dead come back by their own word",), ("pause", "crash", "split")),
    Bug.ADOPTED_BLINDLY: Hunt(4, ("machines are taken over rightly",), ("ambush",)),
}
KEPT = PLANS / "planted"


def test_every_bug_is_looked_for() -> None:
    assert set(HUNTS) == set(Bug)
    assert {path.stem for path in KEPT.glob("*.json")} <= {bug.value for bug in Bug}


@pytest.mark.parametrize("bug", HUNTS)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    hunt = HUNTS[bug]
    found = first_violations(hunt, frozenset({bug}))
    assert found, f"{bug} is not found in {hunt.seeds} seeds"
    assert {violation.rule for violation in found} & set(hunt.rules), [str(violation) for violation in found]


@pytest.mark.parametrize("hunt", dict.fromkeys(HUNTS.values()), ids=lambda hunt: "-".join(hunt.focus))
def test_without_bugs_the_same_seeds_find_nothing(hunt: Hunt) -> None:
    assert first_violations(hunt, frozenset()) == ()


def first_violations(hunt: Hunt, bugs: frozenset[Bug]) -> tuple[Violation, ...]:
    # Not in processes of their own: these worlds are so small that starting those would take longer.
    for plan in hunt.plans():
        violations = simulate(plan, bugs).violations
        if violations:
            return violations
    return ()


@pytest.mark.parametrize("path", sorted(KEPT.glob("*.json")), ids=lambda path: path.stem)
def test_a_small_plan_finds_it_and_finds_nothing_without_it(path: Path) -> None:
    plan, bug = Plan.read(path), Bug(path.stem)
    assert simulate(plan, frozenset({bug})).violations, f"{bug} is not found any more"
    assert not simulate(plan).violations
