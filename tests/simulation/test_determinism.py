"""The same plan is the same run, down to each event: also in another process, where hashes of strings differ."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.generate import generate
from tests.simulation.store import Bug
from tests.simulation.world import simulate

_PROGRAM = """
import sys
from tests.simulation.plan import Plan
from tests.simulation.world import simulate
print(simulate(Plan.from_json(sys.stdin.read())).trace)
"""


@pytest.mark.parametrize("seed", [4, 9, 16])
def test_a_plan_is_the_same_run_each_time(seed: int) -> None:
    plan = generate(seed, 4, 2.0)
    first = simulate(plan)
    simulate(generate(seed + 1, 3, 1.0), frozenset({Bug.NO_FENCE}))  # what ran between leaves no trace
    assert simulate(plan).trace == first.trace


@pytest.mark.parametrize("focus", [(), ("links", "kill", "pause")], ids=["without links", "with links"])
def test_a_plan_is_the_same_run_in_another_process(focus: tuple[str, ...]) -> None:
    plan = generate(7, 6, 2.0, focus=focus)
    assert plan.settings["links"] is bool(focus)
    traces = {simulate(plan).trace}
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            input=plan.to_json(),
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        traces.add(done.stdout.strip())
    assert len(traces) == 1
