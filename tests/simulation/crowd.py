"""Many worlds at once, in processes of their own."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.simulation.plan import Plan
from tests.simulation.shrink import shrink
from tests.simulation.store import Bug
from tests.simulation.world import Result, simulate

#: Where plans that failed once are kept.
PLANS = Path(__file__).parent / "plans"

Job = tuple[Plan, frozenset[Bug]]


def run_all(jobs: Iterable[Job], processes: int) -> Iterator[Result]:
    """Run worlds, so many at once, and yield what became of each, in order."""
    listed = list(jobs)
    if processes <= 1 or len(listed) <= 1:
        for job in listed:
            yield _run(job)
        return
    with _pool(min(processes, len(listed))) as pool:
        yield from pool.imap(_run, listed)


def cores() -> int:
    """Return how many processors this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def shrunk(plan: Plan, bugs: frozenset[Bug] = frozenset(), *, most: int = 300) -> Plan:
    """Return a smaller plan that breaks a rule which the plan breaks, too."""
    violations = simulate(plan, bugs).violations
    if not violations:
        return plan
    rules = {violation.rule for violation in violations}

    def fails(candidate: Plan) -> bool:
        return any(violation.rule in rules for violation in simulate(candidate, bugs).violations)

    # What comes after a rule was broken has not broken it.
    found = violations[0].at
    begin = replace(plan, seconds=math.ceil(found) + 1.0, items=tuple(item for item in plan.items if item.at <= found))
    if begin.seconds < plan.seconds and fails(begin):
        plan = begin
    return shrink(plan, fails, most=most)


def _run(job: Job) -> Result:
    return simulate(*job)


@contextmanager
def _pool(processes: int) -> Iterator[multiprocessing.pool.Pool]:
    # Not forked: a fork takes along threads' locks and whatever the tests before have left.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield pool
